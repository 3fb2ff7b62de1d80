"""The outbox against a hostile chain: whatever breaks, each operation happens exactly once."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from openledger.chain.outbox.rows import State
from openledger.core.types import Digest
from tests.chain.fake_chain import GWEI, Killed
from tests.chain.outbox.world import World


class HostileChain(RuleBasedStateMachine):
    """Drops, time-outs after acceptance, reorganisations, fee spikes and kill -9, in any order."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.world = World(self.folder)
        self.ops: dict[bytes, Digest] = {}

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._come_to_rest()
        finally:
            self.world.database.close()
            shutil.rmtree(self.folder)

    @rule(kind=st.sampled_from([b"good", b"good", b"good", b"bad", b"trap"]))
    def submit(self, kind: bytes) -> None:
        calldata = kind + str(len(self.ops)).encode()
        self.ops[calldata] = self.world.submit(calldata)

    @rule()
    def submit_dependent(self) -> None:
        earlier = [data for data in self.ops if data.startswith(b"good")]
        if earlier:
            calldata = b"after" + earlier[-1]
            self.ops[calldata] = self.world.submit(calldata)

    @rule(blocks=st.integers(1, 3), depth=st.integers(1, 4))
    def lose_what_was_mined(self, blocks: int, depth: int) -> None:
        self.submit(b"good")
        self.pump()
        self.world.chain.mine(blocks)
        self.pump()
        self.world.chain.reorganise(depth, keep=False)

    @rule()
    def pump(self) -> None:
        try:
            self.world.outbox.pump()
        except Killed:
            self._restart()

    @rule(fault=st.sampled_from(["lost", "unheard"]))
    def break_the_next_send(self, fault: str) -> None:
        self.world.chain.send_fault = fault

    @rule(requests=st.integers(1, 12), after=st.booleans())
    def kill_while_pumping(self, requests: int, after: bool) -> None:
        self.world.chain.kill_in, self.world.chain.kill_after = requests, after
        self.pump()
        self.world.chain.kill_in = None

    @rule(count=st.integers(1, 14))
    def mine(self, count: int) -> None:
        self.world.chain.mine(count)

    @rule(depth=st.integers(1, 12), keep=st.booleans())
    def reorganise(self, depth: int, keep: bool) -> None:
        self.world.chain.reorganise(depth, keep=keep)

    @rule()
    def forget_the_pool(self) -> None:
        self.world.chain.pool = []

    @rule(seconds=st.sampled_from([1, 31, 61, 91]))
    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule(base=st.sampled_from([GWEI, 4 * GWEI, 30 * GWEI, 200 * GWEI]))
    def change_the_price(self, base: int) -> None:
        self.world.chain.base_fee = base

    @rule(is_down=st.booleans())
    def switch(self, is_down: bool) -> None:
        self.world.chain.is_down = is_down

    @invariant()
    def an_operation_has_one_nonce_for_ever(self) -> None:
        if hasattr(self, "world"):
            seen = {(sent.data, sent.nonce) for sent in self.world.chain.seen}
            assert len({data for data, _ in seen}) == len(seen)
            assert len({nonce for _, nonce in seen}) == len(seen)

    @invariant()
    def nothing_is_applied_twice(self) -> None:
        if hasattr(self, "world"):
            applied = self.world.chain.applied()
            assert len(set(applied)) == len(applied)

    def _restart(self) -> None:
        self.world.outbox = self.world.open()

    def _come_to_rest(self) -> None:
        chain = self.world.chain
        chain.is_down, chain.send_fault, chain.base_fee = False, None, GWEI
        self.world.settle()

        applied = chain.applied()
        wanted = [data for data in self.ops if data.startswith((b"good", b"after"))]
        assert sorted(applied) == sorted(wanted)
        for data, op in self.ops.items():
            [outcome] = self.world.outbox.outcomes([op])
            is_fine = data.startswith((b"good", b"after"))
            assert outcome.state is (State.FINAL if is_fine else State.FAILED), data
        nonces = sorted(entry.nonce for block in chain.blocks for entry in block.entries)
        assert nonces == list(range(len(nonces)))


TestHostileChain = HostileChain.TestCase
TestHostileChain.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking costs minutes of SQLite
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.slow
def test_a_hostile_chain_at_length() -> None:
    run_state_machine_as_test(
        HostileChain,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
