"""Every line of the money identity sees the fact that breaks it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import Table

from openledger.chain.acts import Acts
from openledger.chain.contracts import Contracts
from openledger.core.identity import Identity
from openledger.core.types import Wei
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.operation import Nothing
from openledger.storage.records.money import calls
from openledger.storage.tables import chain_events, claims, escrow_balances, statements
from openledger.web.operations import epochs as operations
from openledger.wiring.platform import Platform
from tests import market as fair

Fact = Callable[[Platform], Identity]  # checks after one fact was made wrong


class LyingContracts(Contracts):
    """The contracts, one of whose figures differs from what they say."""

    def __init__(self, honest: Contracts, what: str, change: int) -> None:
        super().__init__(honest.client, honest.deployment)
        self._what = what
        self._change = change

    def read(self, kind, contract, function, *arguments):  # type: ignore[no-untyped-def]  # of any kind
        found = super().read(kind, contract, function, *arguments)
        asked = ".".join((contract, function, *map(str, arguments)))
        return found + self._change if asked.startswith(self._what) else found


def _told(what: str, change: int, of: str = "") -> Fact:
    """The chain says another figure; `of`: asked of this contract's account."""

    def check(market: Platform) -> Identity:
        deployment = market.acts.contracts.deployment
        asked = f"{what}.{deployment.address(of)}" if of else what
        lying = LyingContracts(market.acts.contracts, asked, change)
        acts = Acts(market.database, lying, market.acts.outbox, 0.0)
        return replace(market.check_identity, acts=acts).run()

    return check


def _noted(table: Table, column: str, change: int) -> Fact:
    """The books hold another figure."""

    def check(market: Platform) -> Identity:
        with market.database.transaction() as transaction:
            found = transaction.connection.execute(table.select().limit(1)).mappings().one()
            transaction.connection.execute(
                table.update().values({column: Wei(found[column] + change)})
            )
        return market.check_identity.run()

    return check


def _without_a_deposit(market: Platform) -> Identity:
    market.indexer.poll()
    with market.database.transaction() as transaction:
        rows = chain_events
        transaction.connection.execute(rows.delete().where(rows.c.event == "Deposited"))
    return market.check_identity.run()


def _with_a_larger_part(market: Platform) -> Identity:
    with market.database.transaction() as transaction:
        (pair,) = calls.pairs(transaction, market.gateway.account, 1, 1)
        record = pair.statement.record.replace(b'"amount":"1', b'"amount":"2', 1)
        assert record != pair.statement.record
        transaction.connection.execute(statements.update().values(record=record))
    return market.check_identity.run()


FACTS: dict[str, Fact] = {
    "the supply is constant": _told("OpenToken.totalSupply", 1),
    "Escrow holds what is neither spent nor withdrawn": _told(
        "OpenToken.balanceOf", -1, of="Escrow"
    ),
    "Escrow's draws are what payers spent and the gateway covered": _told("Escrow.covered", 1),
    "Payouts was funded with what was drawn": _told("Payouts.funded", 1),
    "Payouts promised no more than it was funded with": _told("Payouts.promised", 1),
    "Payouts paid no more than it promised": _told("Payouts.paid", 10**18),
    "Payouts holds what it has not paid": _told("OpenToken.balanceOf", -1, of="Payouts"),
    "the contracts' figures are the sums of their events": _without_a_deposit,
    "chain and books agree on what each payer was charged": _told("Escrow.charged", 1),
    "the parts of all settled receipts are what was drawn": _with_a_larger_part,
    "chain and books agree on deposits": _noted(escrow_balances, "deposited", 1),
    "chain and books agree on what was spent": _noted(escrow_balances, "spent", 1),
    "chain and books agree on withdrawals": _noted(escrow_balances, "withdrawn", 1),
    "chain and books agree on draws": _told("Escrow.drawn", 1),
    "chain and books agree on promises": _told("Payouts.promised", -1),
    "chain and books agree on claims": _noted(claims, "amount", -1),
}


@pytest.fixture(scope="module")
def settled_home(
    market_home: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A market in which one call is settled and one account has claimed."""
    home = tmp_path_factory.mktemp("settled") / "home"
    with fair.open_copy(market_home, home) as market:
        fair.paid_calls(market, tokenizer, 1)
        operations.settle(market, Nothing())
        market.claim.run(fair.contributors(market)[:1])
    return home


@pytest.fixture
def settled(settled_home: Path, tmp_path: Path) -> Iterator[Platform]:
    with fair.open_copy(settled_home, tmp_path / "home") as market:
        yield market


@pytest.mark.parametrize("line", FACTS)
def test_a_line_sees_the_fact_that_breaks_it(settled: Platform, line: str) -> None:
    found = FACTS[line](settled)

    assert line in found.broken
    assert not found.holds


def test_every_line_has_such_a_fact_and_holds_without(settled: Platform) -> None:
    found = settled.check_identity.run()

    assert found.holds
    assert found.broken == ()
    assert set(found.checked) == set(FACTS)


@pytest.mark.parametrize("column", ["deposited", "spent", "withdrawn"])
def test_a_wrong_note_is_told_before_it_is_mended(settled: Platform, column: str) -> None:
    _noted(escrow_balances, column, 1)(settled)
    found = operations.identity(settled, Nothing())
    again = operations.identity(settled, Nothing())

    assert len(found.broken) == 1
    assert again.broken == ()
    assert msgspec.structs.asdict(again.database)[column] == getattr(again.chain, column)


def test_a_note_may_lag_behind_and_is_judged_once_its_block_stays(settled: Platform) -> None:
    settled.fund.deposit(fair.payer(settled), Wei(5), "later")
    now = settled.acts.contracts.client.height()

    def with_figure(deposited: int, block: int) -> tuple[str, ...]:
        with settled.database.transaction() as transaction:
            transaction.connection.execute(
                escrow_balances.update().values(deposited=deposited, block=block)
            )
        return settled.check_identity.run().broken

    assert with_figure(fair.DEPOSITED, now) == ()
    assert with_figure(fair.DEPOSITED + 1, now + 1) == ()
    assert with_figure(fair.DEPOSITED + 1, now) == ("chain and books agree on deposits",)
