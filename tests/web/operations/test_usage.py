"""How much releases are called and what they earn, from receipts as gateways make them."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openledger.core.encoding import encode
from openledger.core.errors import NotFoundError
from openledger.core.types import Wei
from openledger.flows.money.infer.request import CallResult, Desk
from openledger.lm.tokenizer import Tokenizer
from openledger.operations.models import UsageView, WhichUsage
from openledger.settlement.parts import BUILDER, DATA, Part
from openledger.settlement.receipt import make_statement, read_statement
from openledger.storage.records.money import calls
from openledger.storage.records.money.calls import Metered
from openledger.web.operations.usage import tally, usage
from openledger.wiring.platform import Platform
from tests import market as fair
from tests.settlement import ledger
from tests.settlement.mixes import mixes

TUNES, OTHER = "openledger/tiny-tunes@1", "openledger/other@1"
NONE = Wei(0)


@pytest.fixture
def desk(market: Platform, tokenizer: Tokenizer) -> Desk:
    return fair.desk_of_two(market, tokenizer)


def ask(market: Platform, desk: Desk, model: str, count: int) -> list[CallResult]:
    payer = fair.payer(market).address
    return [fair.call(desk, payer, model=model) for _ in range(count)]


def of(market: Platform, name: str | None = None) -> dict[str, UsageView]:
    return {one.name: one for one in usage(market, WhichUsage(name)).releases}


def paid(market: Platform, made: list[CallResult], role: str) -> int:
    with market.database.read() as transaction:
        found = [calls.statement(transaction, one.receipt_id) for one in made]
    statements = [read_statement(one.record).body for one in found if one is not None]
    return sum(part.amount for one in statements for part in one.parts if part.role == role)


def test_a_release_that_nobody_called_has_used_nothing(market: Platform) -> None:
    assert of(market) == {TUNES: UsageView(TUNES, 0, 0, 0, 0, 0, 0, *[NONE] * 4)}


def test_each_member_of_a_mix_counts_all_its_tokens_and_what_it_earned_itself(
    market: Platform, tokenizer: Tokenizer, desk: Desk
) -> None:
    alone = ask(market, desk, TUNES, 2)
    mixed = ask(market, desk, f"mix:{TUNES}*0.2+{OTHER}*0.8", 3)
    fair.attribute(market, [one.receipt_id for one in alone])
    scorer = fair.PairScorer(fair.contributors(market))
    fair.attribution(market, scorer).run([one.receipt_id for one in mixed])
    found = of(market)
    tunes, other = found[TUNES], found[OTHER]

    assert (tunes.alone, tunes.mixed, tunes.pending, tunes.refunded) == (2, 3, 0, 0)
    assert (other.alone, other.mixed, other.pending, other.refunded) == (0, 3, 0, 0)
    for one, made in ((tunes, alone + mixed), (other, mixed)):
        assert one.input_tokens == sum(call.input_tokens for call in made)
        assert one.output_tokens == sum(call.output_tokens for call in made)
        assert one.fees == sum(call.fee for call in made)
    # Three quarters of the mixes' money: by what it added, whatever its weight.
    of_mixes = paid(market, mixed, BUILDER), paid(market, mixed, DATA)
    assert (other.builder * 4, other.data * 4) == pytest.approx(of_mixes, abs=12)
    assert other.builder > 0 < other.data
    assert tunes.builder + other.builder == paid(market, alone + mixed, BUILDER)
    assert tunes.data + other.data == paid(market, alone + mixed, DATA)


def test_what_is_not_attributed_yet_has_earned_nothing_yet(market: Platform, desk: Desk) -> None:
    mixed = ask(market, desk, f"mix:{TUNES}+{OTHER}", 1)
    one = of(market)[OTHER]

    assert (one.mixed, one.pending, one.fees) == (1, 1, mixed[0].fee)
    assert (one.builder, one.data) == (0, 0)


def test_a_call_that_cost_nothing_for_our_fault_is_no_use(
    market: Platform, tokenizer: Tokenizer
) -> None:
    fair.free_call(market, tokenizer)

    assert of(market)[TUNES] == UsageView(TUNES, 0, 0, 1, 0, 0, 0, *[NONE] * 4)


def test_usage_is_asked_for_by_name_or_version(market: Platform, desk: Desk) -> None:
    ask(market, desk, TUNES, 1)

    assert list(of(market, "openledger/other")) == [OTHER]
    assert of(market, "openledger/tiny-tunes") == of(market, TUNES)
    assert of(market, TUNES)[TUNES] == of(market)[TUNES]
    with pytest.raises(NotFoundError, match="did you mean openledger/other@1"):
        of(market, "openledger/others")


BUILDERS = st.sampled_from([ledger.ALICE, ledger.BOB])


class Made(msgspec.Struct, frozen=True):
    """A call of a mix, and the parts of its statement where there is one."""

    row: Metered
    numbers: frozenset[int]
    is_refunded: bool
    parts: tuple[Part, ...]


@st.composite
def made_calls(draw: st.DrawFn) -> Made:
    """As a gateway signs them, with whatever scores."""
    members = sorted(draw(mixes()), key=lambda one: one.release)
    mix = tuple(msgspec.structs.replace(ledger.MIX[0], release=one.release) for one in members)
    refund = draw(st.sampled_from([None, None, "engine_fault"]))
    signed = ledger.call(None, output_tokens=draw(st.integers(0, 10**6)), mix=mix, refund=refund)
    builders = tuple(draw(BUILDERS) for _ in members)
    said = make_statement(
        ledger.DOMAIN,
        signed,
        "float32",
        tuple(members),
        msgspec.structs.replace(ledger.ROLES, builders=builders),
        ledger.GATEWAY_KEY,
    )
    is_stated = draw(st.booleans())
    return Made(
        Metered(signed.call.fee, encode(signed), encode(said) if is_stated else None),
        frozenset(one.release for one in members),
        refund is not None,
        said.body.parts if is_stated else (),
    )


@settings(max_examples=30)  # each signs
@given(st.lists(made_calls(), max_size=4))
def test_what_releases_earned_and_all_other_parts_sum_to_the_fees(made: list[Made]) -> None:
    counts = tally((one.row for one in made), range(1, 5)).values()
    parts = [part for one in made for part in one.parts]
    others = sum(part.amount for part in parts if part.role not in (BUILDER, DATA))
    builder, data = sum(one.builder for one in counts), sum(one.data for one in counts)

    assert builder == sum(part.amount for part in parts if part.role == BUILDER)
    assert data == sum(part.amount for part in parts if part.role == DATA)
    assert builder + data + others == sum(one.row.fee for one in made if one.parts)


@settings(max_examples=30)  # each signs
@given(st.lists(made_calls(), max_size=4))
def test_each_call_counts_once_for_each_of_its_members(made: list[Made]) -> None:
    counts = tally((one.row for one in made), range(1, 5))

    for number, count in counts.items():
        mine = [one for one in made if number in one.numbers]
        sound = [one for one in mine if not one.is_refunded]
        assert count.alone + count.mixed == len(sound)
        assert count.alone == len([one for one in sound if len(one.numbers) == 1])
        assert count.refunded == len(mine) - len(sound)
        assert count.pending == len([one for one in mine if one.row.stated is None])
        assert count.fees == sum(one.row.fee for one in mine)
        assert tally((one.row for one in made), [number]) == {number: count}
