"""Acts without gas: every kind of twin, checked by the contracts themselves."""

import pytest

from openledger.chain.outbox import faucet
from openledger.chain.outbox.rows import State
from openledger.core.errors import ChainRejectedError, NotFoundError
from openledger.core.types import WEI_PER_OPEN, Wei
from tests.chain.home import Home, digest

ALICE = "user/alice"


def test_a_person_without_gas_creates_a_datanet(home: Home) -> None:
    home.act(ALICE, "Datanets", "create", digest("folk"), digest("rules"), 2_000, 90)
    alice = home.account(ALICE)

    assert home.client.balance(alice) == 0
    assert home.contracts.read(int, "Datanets", "id_of", alice, digest("folk")) == 1


def test_acts_of_one_account_follow_each_other(home: Home) -> None:
    slugs = [digest(name) for name in ("a", "b", "c")]
    writes = [
        home.contracts.write("Datanets", "create", slug, digest("rules"), 0, 0, acting=ALICE)
        for slug in slugs
    ]
    home.do(*writes)
    alice = home.account(ALICE)

    assert [home.contracts.read(int, "Datanets", "id_of", alice, s) for s in slugs] == [1, 2, 3]
    assert home.contracts.read(int, "Datanets", "nonces", alice) == 3


def test_an_act_that_fails_does_not_spoil_the_next(home: Home) -> None:
    with pytest.raises(ChainRejectedError, match="datanets: "):
        home.act(ALICE, "Datanets", "approve", 99)
    home.act(ALICE, "Datanets", "create", digest("folk"), digest("rules"), 0, 0)

    assert home.contracts.read(int, "Datanets", "datanet_count") == 1


def test_an_array_of_structs_is_signed_as_its_hash(home: Home) -> None:
    home.act(ALICE, "Datanets", "create", digest("folk"), digest("rules"), 0, 0)
    version = home.contracts.call("Datanets", "version_of", 1)
    assert isinstance(version, tuple)
    home.act(
        ALICE,
        "Models",
        "begin",
        digest("op"),
        digest("recipe"),
        digest("manifest"),
        9,
        1,
        [(1, *version[:2])],
    )

    assert home.contracts.read(int, "Models", "run_of", home.account(ALICE), digest("op")) == 1


def test_an_act_that_names_the_account_is_signed_by_another_key(home: Home) -> None:
    alice, spare = home.account(ALICE), home.account("user/alice/recovery")
    home.act(ALICE, "Identity", "register", alice, spare)
    new = home.account("user/alice/2")
    home.act("user/alice/recovery", "Identity", "propose_change", alice, new, new, spare)
    home.act("operator", "Identity", "apply_change", alice)

    assert home.contracts.call("Identity", "controller_of", alice) == new
    assert home.contracts.read(int, "Identity", "nonces", alice) == 2


def test_a_deposit_moves_the_payers_own_open(home: Home) -> None:
    alice = home.account(ALICE)
    with home.database.transaction() as transaction:
        op = faucet.give(
            transaction, home.outbox, home.contracts, alice, Wei(5 * WEI_PER_OPEN), "wallet"
        )
    home.outbox.confirm([op], 60)
    home.act(ALICE, "Escrow", "deposit", alice, home.operator, 2 * WEI_PER_OPEN, digest("op"))

    assert home.contracts.call("Escrow", "balance_of", alice, home.operator) == (
        2 * WEI_PER_OPEN,
        0,
        0,
    )
    assert home.contracts.read(int, "OpenToken", "balanceOf", alice) == 3 * WEI_PER_OPEN


def test_nobody_deposits_the_open_of_another(home: Home) -> None:
    write = home.contracts.write(
        "Escrow", "deposit", home.operator, home.operator, 1, digest("op"), acting=ALICE
    )

    with pytest.raises(ChainRejectedError, match="can deposit its own OPEN only"):
        home.do(write)


def test_what_has_no_twin_cannot_be_relayed(home: Home) -> None:
    with pytest.raises(NotFoundError, match="has no function activate_for"):
        home.contracts.write("Payouts", "activate", home.operator, acting=ALICE)


def test_many_acts_of_many_accounts_go_out_in_one_pass(home: Home) -> None:
    home.act(ALICE, "Datanets", "create", digest("folk"), digest("rules"), 0, 0)
    writes = [
        home.contracts.write("Datanets", "commit", 1, digest(str(number)), acting=f"user/{number}")
        for number in range(5)
    ]
    outcomes = home.do(*writes)

    assert [one.state for one in outcomes] == [State.FINAL] * 5
    assert home.contracts.read(int, "Datanets", "contribution_count") == 5
