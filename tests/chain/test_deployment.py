"""The contracts are deployed once, wherever it is interrupted."""

import errno
import os
import re
import time
from pathlib import Path

import msgspec
import pytest

from openledger.chain.config import EVM, PROFILES, ChainProfile
from openledger.chain.contracts import (
    CONTRACTS,
    ContractSettings,
    artifact,
    interface,
    named,
)
from openledger.chain.deployment import deploy, load
from openledger.chain.devchain.node import DevChain
from openledger.chain.devchain.rpc import DirectTransport
from openledger.chain.outbox import faucet
from openledger.core.errors import (
    ChainRejectedError,
    ChainUnavailableError,
    InsufficientBalanceError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    StorageFullError,
    VerificationError,
    WrongChainError,
)
from openledger.core.types import WEI_PER_OPEN, Account, Digest, Wei
from tests.chain.home import SETTINGS, Home, digest


class Breaking:
    """A transport that goes away for good after some requests."""

    def __init__(self, inner: DirectTransport, requests: int) -> None:
        self._inner = inner
        self.left = requests

    def make_request(self, method: str, params: list[object]) -> dict[str, object]:
        self.left -= 1
        if self.left < 0:
            raise ChainUnavailableError("the chain is gone")
        return self._inner.make_request(method, params)


def test_all_six_stand_and_know_each_other(home: Home) -> None:
    there = home.deployment

    assert all(home.client.has_code(there.address(name)) for name in CONTRACTS)
    assert home.contracts.call("Escrow", "payouts") == there.payouts
    assert home.contracts.call("Payouts", "escrow") == there.escrow
    assert home.contracts.call("Models", "datanets") == there.datanets
    assert home.contracts.read(int, "OpenToken", "balanceOf", home.operator) == 10**9 * WEI_PER_OPEN
    assert home.contracts.name_of(there.escrow) == "Escrow"
    assert home.contracts.domain("Escrow").contract == there.escrow
    with pytest.raises(NotFoundError):
        there.address("Nothing")


def test_a_second_deployment_changes_nothing(home: Home) -> None:
    height = home.client.height()
    again = deploy(home.folder / "chain" / "deployment.json", home.builder(), lambda: SETTINGS)

    assert again == home.deployment
    assert home.client.height() == height


def test_what_stands_asks_for_no_settings(home: Home) -> None:
    def refuse() -> ContractSettings:
        raise InvalidInputError("too little time for a public chain")

    record = home.folder / "chain" / "deployment.json"
    assert deploy(record, home.builder(), refuse) == home.deployment
    with pytest.raises(InvalidInputError, match="too little time"):
        deploy(home.folder / "other.json", home.builder(), refuse)


def test_a_full_disk_loses_only_the_record(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    record = home.folder / "record" / "deployment.json"
    with monkeypatch.context() as small:
        small.setattr(os, "fsync", full)
        with pytest.raises(StorageFullError, match="free some space"):
            deploy(record, home.builder(), lambda: SETTINGS)
    left = list(record.parent.iterdir())

    assert left == []
    assert deploy(record, home.builder(), lambda: SETTINGS) == home.deployment
    assert record.stat().st_mode & 0o777 == 0o644


def test_a_lost_record_is_found_again_on_the_chain(home: Home) -> None:
    height = home.client.height()
    again = deploy(home.folder / "other.json", home.builder(), lambda: SETTINGS)

    assert again == home.deployment
    assert home.client.height() == height


@pytest.mark.parametrize("requests", [3, 9, 14, 20, 27, 35])
def test_an_interrupted_deployment_goes_on(tmp_path: Path, requests: int) -> None:
    home = Home(tmp_path)
    assert home.chain is not None
    broken = Breaking(DirectTransport(home.chain), requests)
    home.client._transport = broken
    record = tmp_path / "chain" / "deployment.json"
    home.client._sleep = lambda _: None
    home.outbox._sleep = lambda _: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openledger.chain.deployment._TIMEOUT_S", 0.0)
        with pytest.raises(ChainUnavailableError):
            deploy(record, home.builder(), lambda: SETTINGS)
    broken.left = 10_000
    home.deploy()
    height = home.client.height()
    home.close()

    assert height == 1 + len(CONTRACTS)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_an_operator_without_gas_money_is_told_address_and_amount_at_once(
    tmp_path: Path, profile: ChainProfile
) -> None:
    chain = DevChain(tmp_path / "chain.db", 31_337, {}, time.time)
    home = Home(tmp_path, DirectTransport(chain), profile)

    with pytest.raises(InsufficientBalanceError) as refused:
        home.deploy()
    home.close()
    chain.close()

    least = 20_021_000 * 10**9  # gas, at no less than a gwei
    found = re.search(r"may cost (\d+) wei .* account (0x\w+) has 0:", str(refused.value))
    assert found is not None
    assert found[2] == home.operator
    assert int(found[1]) >= least


def test_who_pays_is_named_when_the_chain_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(DirectTransport):
        def make_request(self, method: str, params: list[object]) -> dict[str, object]:
            if method == "eth_sendRawTransaction":
                return {"error": {"code": -32003, "message": "insufficient funds"}}
            return super().make_request(method, params)

    home = Home(tmp_path)
    assert home.chain is not None
    home.client._transport = Refusing(home.chain)
    monkeypatch.setattr("openledger.chain.deployment._TIMEOUT_S", 0.0)

    with pytest.raises(ChainUnavailableError) as waiting:
        home.deploy()
    home.close()

    assert f"operator's account {home.operator}, which has {10**24} wei" in str(waiting.value)


def test_a_record_of_another_chain_is_refused(home: Home, tmp_path: Path) -> None:
    other = Home(tmp_path / "other")
    record = home.folder / "chain" / "deployment.json"
    other_record = tmp_path / "foreign.json"
    foreign = msgspec.structs.replace(home.deployment, genesis="ab" * 32)
    other_record.write_bytes(msgspec.json.encode(foreign))

    assert load(record, home.client) == home.deployment
    with pytest.raises(WrongChainError, match="the node serves another chain"):
        load(other_record, other.client)
    other_record.write_bytes(b"{}")
    with pytest.raises(VerificationError, match="is damaged"):
        load(other_record, other.client)
    other.close()


def test_reads_return_the_type_that_is_asked_for(home: Home) -> None:
    class Balance(msgspec.Struct, frozen=True):
        deposited: Wei
        spent: Wei
        withdrawn: Wei

    found = home.contracts.read(Balance, "Escrow", "balance_of", home.operator, home.operator)

    assert found == Balance(Wei(0), Wei(0), Wei(0))
    assert home.contracts.read(Account, "Escrow", "token") == home.deployment.open_token
    with pytest.raises(VerificationError, match="returned another type"):
        home.contracts.read(int, "OpenToken", "name")
    with pytest.raises(InvalidInputError, match="takes 1 arguments, not 0"):
        home.contracts.call("OpenToken", "balanceOf")
    with pytest.raises(NotFoundError, match="near: balanceOf"):
        home.contracts.call("OpenToken", "balance_of")


def test_several_outputs_are_read_as_one_record(home: Home) -> None:
    class Version(msgspec.Struct, frozen=True):
        sequence: int
        head: Digest
        floor_bps: int

    home.act("operator", "Datanets", "create", digest("folk"), digest("rules"), 2_000, 9)

    assert home.contracts.read(Version, "Datanets", "version_of", 1) == Version(
        0, Digest("0" * 64), 2_000
    )
    with pytest.raises(ChainRejectedError, match="datanets: unknown datanet"):
        home.contracts.read(Version, "Datanets", "version_of", 9)


def test_the_faucet_gives_once_and_only_on_a_development_chain(home: Home) -> None:
    to = home.account("user/bob")
    for _ in range(2):
        with home.database.transaction() as transaction:
            op = faucet.give_gas(transaction, home.outbox, home.contracts, to, Wei(7), "first")
        home.outbox.confirm([op], 60)
    assert home.client.balance(to) == 7

    real = msgspec.structs.replace(home.client.config, profile=EVM)
    home.client.config = real
    with (
        pytest.raises(NotAllowedError, match="evm is a real chain"),
        home.database.transaction() as transaction,
    ):
        faucet.give(transaction, home.outbox, home.contracts, to, Wei(7), "second")


def test_arrays_of_structs_are_read_as_records() -> None:
    class Version(msgspec.Struct, frozen=True):
        datanet: int

    inputs = interface("Models").function("begin").inputs
    [versions] = [item for item in inputs if item.name == "versions"]

    assert named(versions, ((1, 5, "ab"),)) == [{"datanet": 1, "sequence": 5, "head": "ab"}]
    with pytest.raises(NotFoundError, match="there is no contract Nothing"):
        artifact("Nothing")


def test_a_chain_without_its_first_block_is_refused(home: Home) -> None:
    class Pruned:
        def make_request(self, method: str, _params: list[object]) -> dict[str, object]:
            return {"result": hex(31_337) if method == "eth_chainId" else None}

    home.client._transport = Pruned()
    with pytest.raises(WrongChainError, match="use a full node"):
        load(home.folder / "chain" / "deployment.json", home.client)
