"""The index follows whatever the chain does, up to its finality."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openledger.chain.client import Client
from openledger.chain.config import ChainProfile, Config
from openledger.chain.contracts import Contracts, ContractSettings, Deployment, interface
from openledger.chain.index.indexer import Indexer
from openledger.chain.index.rows import StoredEvent
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    ConflictError,
    InvalidInputError,
    VerificationError,
    WrongChainError,
)
from openledger.core.types import Account, Digest
from openledger.storage.database import Database, Transaction
from openledger.storage.tables import chain_blocks, chain_cursors, chain_events, metadata
from tests.chain.fake_chain import FakeChain, RefusalError

DATANETS = Account("0x" + "33" * 20)
TABLES = [chain_blocks, chain_events, chain_cursors]


class Approved(msgspec.Struct, frozen=True):
    datanet: int
    contribution: int
    contributor: Account
    sequence: int
    head: Digest


class World:
    """An index of a fake chain; each event's contribution number says which one it is."""

    def __init__(self, folder: Path, log_range: int = 5) -> None:
        self.chain = FakeChain()
        profile = ChainProfile("fake", chain_id=7, finality="finalized", log_range=log_range)
        self.client = Client(self.chain, Config(profile=profile, read_attempts=1))
        self.database = Database(folder / "index.db")
        metadata.create_all(self.database.engine, tables=TABLES)
        addresses = [Account("0x" + f"{number}" * 40) for number in range(1, 7)]
        genesis = Digest(self.chain.blocks[0].hash)
        zero = Account("0x" + "0" * 40)
        self.deployment = Deployment(
            7, genesis, 1, zero, zero, zero, ContractSettings(), *addresses
        )
        self.indexer = self.open()
        self.count = 0

    def open(self) -> Indexer:
        return Indexer(self.database, Contracts(self.client, self.deployment), lambda: 5)

    def happen(self) -> int:
        """Mine a block with one event in it, and return the event's number."""
        self.count += 1
        self.chain.mine()
        self.chain.blocks[-1].logs.append(log(self.count))
        return self.count

    def on_chain(self, last: int | None = None) -> list[int]:
        blocks = self.chain.blocks if last is None else self.chain.blocks[: last + 1]
        return [int(entry["topics"][2], 16) for block in blocks for entry in block.logs]


def log(number: int) -> dict[str, object]:
    [event] = [e for e in interface("Datanets").events.values() if e.name == "Approved"]
    words = ["0x" + f"{word:064x}" for word in (1, number, 9)]
    return {
        "address": DATANETS,
        "topics": ["0x" + event.topic, *words],
        "data": "0x" + f"{number:064x}" + "ab" * 32,
        "logIndex": "0x0",
        "transactionHash": "0x" + f"{number:064x}",
    }


def numbers(events: list[StoredEvent]) -> list[int]:
    return [event.read(Approved).contribution for event in events]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def test_events_are_decoded_into_records(world: World) -> None:
    world.happen()
    progress = world.indexer.poll()
    [event] = world.indexer.events("Datanets", "Approved", only_final=False)

    assert (progress.height, progress.final, progress.events, progress.undone) == (1, 0, 1, 0)
    assert event.read(Approved) == Approved(1, 1, Account("0x" + f"{9:040x}"), 1, Digest("ab" * 32))
    with pytest.raises(VerificationError, match="is no Deployment"):
        event.read(Deployment)
    assert world.indexer.events("Datanets", "Rejected", only_final=False) == []
    assert world.indexer.events("Models", only_final=False) == []
    assert world.indexer.events(only_final=False, after=1) == []


def test_only_final_events_are_acted_on(world: World) -> None:
    world.happen()
    world.indexer.poll()
    before = numbers(world.indexer.events())
    world.chain.mine(12)
    world.indexer.poll()

    assert before == []
    assert numbers(world.indexer.events()) == [1]


def test_a_consumer_gets_each_final_event_once(world: World) -> None:
    got: list[int] = []

    def handle(_transaction: Transaction, event: StoredEvent) -> None:
        got.append(event.read(Approved).contribution)

    assert world.indexer.consume("payments", handle) == 0
    for _ in range(3):
        world.happen()
    world.indexer.poll()
    assert world.indexer.consume("payments", handle) == 0  # none is final yet
    world.chain.mine(12)
    world.indexer.poll()
    world.indexer.consume("payments", handle)
    world.happen()
    world.chain.mine(12)
    world.indexer.poll()
    count = world.indexer.consume("payments", handle)

    assert got == [1, 2, 3, 4]
    assert count == 1


def test_a_consumer_that_fails_gets_its_events_again(world: World) -> None:
    world.happen()
    world.chain.mine(12)
    world.indexer.poll()
    calls: list[int] = []

    def fail(_transaction: Transaction, _event: StoredEvent) -> None:
        calls.append(1)
        raise InvalidInputError("not now")

    for _ in range(2):
        with pytest.raises(InvalidInputError):
            world.indexer.consume("payments", fail)
    assert calls == [1, 1]


def test_a_taken_back_final_block_is_an_alarm(world: World) -> None:
    world.chain.mine(30)
    world.indexer.poll()
    world.chain.finality_depth = 25
    world.chain.reorganise(20, keep=True)

    with pytest.raises(WrongChainError, match="took back block 18"):
        world.indexer.poll()


def test_the_final_block_is_a_foothold_after_the_deepest_reorganisation(world: World) -> None:
    world.chain.mine(15)
    world.indexer.poll()
    for _ in range(3):
        world.chain.reorganise(12, keep=True)
        world.happen()
        world.indexer.poll()

    assert numbers(world.indexer.events(only_final=False)) == world.on_chain()


def test_a_chain_that_changes_while_it_is_read_is_read_again(world: World) -> None:
    world.happen()
    original = world.chain.eth_getLogs

    def swap(wanted: dict[str, object]) -> list[dict[str, object]]:
        logs = original(wanted)
        world.chain.reorganise(1, keep=True)
        return logs

    world.chain.eth_getLogs = swap  # type: ignore[method-assign]  # the chain moves under the reader
    with pytest.raises(ChainUnavailableError, match="changed while it was read"):
        world.indexer.poll()
    world.chain.eth_getLogs = original  # type: ignore[method-assign]  # and now it rests
    world.indexer.poll()

    assert world.indexer.events(only_final=False) == []


def test_a_node_that_refuses_a_range_gets_a_smaller_one(world: World) -> None:
    for _ in range(9):
        world.happen()
    original = world.chain.eth_getLogs

    def strict(wanted: dict[str, str]) -> list[dict[str, object]]:
        if int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) > 1:
            raise RefusalError(-32000, "query returned more than 2 results")
        return original(wanted)

    world.chain.eth_getLogs = strict  # type: ignore[method-assign]  # a stingy node
    world.indexer.poll()

    assert numbers(world.indexer.events(only_final=False)) == list(range(1, 10))


def test_what_is_not_ours_is_passed_over(world: World) -> None:
    world.happen()
    foreign = log(2) | {"address": "0x" + "99" * 20}
    unknown = log(3) | {"topics": ["0x" + "ab" * 32], "logIndex": "0x1"}
    nameless = log(4) | {"topics": [], "logIndex": "0x2"}
    world.chain.blocks[-1].logs += [foreign, unknown, nameless]
    world.indexer.poll()

    assert numbers(world.indexer.events(only_final=False)) == [1]


def test_a_node_that_refuses_every_range_is_told(world: World) -> None:
    def refuse(_wanted: dict[str, str]) -> list[dict[str, object]]:
        raise RefusalError(-32000, "no logs here")

    world.chain.eth_getLogs = refuse  # type: ignore[method-assign, assignment]  # a useless node
    world.happen()

    with pytest.raises(ChainRejectedError, match="no logs here"):
        world.indexer.poll()


def test_logs_of_another_block_than_the_header_are_not_believed(world: World) -> None:
    world.happen()
    original = world.chain.eth_getLogs

    def stale(wanted: dict[str, str]) -> list[dict[str, object]]:
        return [found | {"blockHash": "0x" + "ee" * 32} for found in original(wanted)]

    world.chain.eth_getLogs = stale  # type: ignore[method-assign]  # from another node behind it
    with pytest.raises(ChainUnavailableError, match="changed while it was read"):
        world.indexer.poll()


def test_headers_that_do_not_link_are_not_believed(world: World) -> None:
    world.chain.mine(2)
    world.chain.blocks[2].parent = "ee" * 32

    with pytest.raises(ChainUnavailableError, match="changed while it was read"):
        world.indexer.poll()


def test_a_block_that_vanishes_is_tried_again(world: World) -> None:
    world.chain.mine(2)
    world.chain.eth_blockNumber = lambda: "0x5"  # type: ignore[method-assign]  # ahead of itself

    with pytest.raises(ChainUnavailableError, match="is gone"):
        world.indexer.poll()


def test_two_indexers_of_one_home_do_not_mix(world: World) -> None:
    world.happen()
    other = world.open()
    original = world.chain.eth_getLogs

    def meanwhile(wanted: dict[str, str]) -> list[dict[str, object]]:
        world.chain.eth_getLogs = original  # type: ignore[method-assign]  # once
        other.poll()
        return original(wanted)

    world.chain.eth_getLogs = meanwhile  # type: ignore[method-assign]  # the other is faster
    with pytest.raises(ConflictError, match="two indexers"):
        world.indexer.poll()


class Reorganisations(RuleBasedStateMachine):
    """Events, reorganisations up to the finality depth, restarts."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.consumed: list[int] = []

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.database.close()
            shutil.rmtree(self.folder)

    @rule()
    def happen(self) -> None:
        self.world.happen()

    @rule(count=st.integers(1, 9))
    def mine(self, count: int) -> None:
        self.world.chain.mine(count)

    @rule(depth=st.integers(1, 12))
    def reorganise(self, depth: int) -> None:
        self.world.chain.reorganise(depth, keep=True)

    @rule(depth=st.integers(1, 12))
    def poll_and_reorganise(self, depth: int) -> None:
        self.poll()
        self.reorganise(depth)
        self.poll()

    @rule()
    def restart(self) -> None:
        self.world.indexer = self.world.open()

    @rule()
    def poll(self) -> None:
        progress = self.world.indexer.poll()
        seen = numbers(self.world.indexer.events(only_final=False))

        assert progress.height == len(self.world.chain.blocks) - 1
        assert seen == self.world.on_chain()

    @rule()
    def consume(self) -> None:
        self.world.indexer.consume("test", self._note)

    @invariant()
    def what_was_acted_on_stands_for_ever(self) -> None:
        if hasattr(self, "world"):
            assert self.consumed == self.world.on_chain()[: len(self.consumed)]

    def _note(self, _transaction: Transaction, event: StoredEvent) -> None:
        self.consumed.append(event.read(Approved).contribution)


Reorganisations.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking costs minutes of SQLite
    suppress_health_check=list(HealthCheck),
)
TestReorganisations = Reorganisations.TestCase
