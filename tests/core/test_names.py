"""Accounts, digests, receipt ids and release names as people type them."""

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core import ids, types
from openledger.core.errors import InvalidInputError, OpenLedgerError


def test_addresses_are_read_in_any_letter_case() -> None:
    assert types.account(" 0x" + "AB" * 20) == "0x" + "ab" * 20
    assert types.as_bytes(types.account("0x" + "ab" * 20)) == b"\xab" * 20


@pytest.mark.parametrize("text", ["", "0x12", "ab" * 20, "0x" + "g" * 40])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not an address"):
        types.account(text)


def test_digests_are_read_with_or_without_a_prefix() -> None:
    assert types.digest("0x" + "AB" * 32) == types.digest("ab" * 32)
    with pytest.raises(InvalidInputError, match="not a digest"):
        types.digest("ab")


@given(st.binary(min_size=16, max_size=16))
def test_a_receipt_id_survives_its_carriers(random: bytes) -> None:
    receipt_id = ids.receipt_id(random)

    assert ids.parse_receipt_id(receipt_id) == receipt_id
    assert ids.parse_receipt_id("chatcmpl-" + receipt_id) == receipt_id


@given(st.binary(min_size=16, max_size=16), st.integers(4, 32), st.sampled_from("abc234"))
def test_a_mistyped_receipt_id_is_told(random: bytes, place: int, letter: str) -> None:
    good = ids.receipt_id(random)
    bad = good[:place] + letter + good[place + 1 :]

    if bad != good:
        with pytest.raises(InvalidInputError, match="not a receipt id"):
            ids.parse_receipt_id(bad)


@pytest.mark.parametrize("text", ["", "rcp_", "rcp_é", "rcp_" + "a" * 40])
def test_what_is_no_receipt_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not a receipt id"):
        ids.parse_receipt_id(text)


def test_a_receipt_id_takes_sixteen_bytes() -> None:
    with pytest.raises(InvalidInputError, match="16 random bytes"):
        ids.receipt_id(b"short")


@pytest.mark.parametrize("text", ["alice/tunes", "alice/tunes@3", "a/b.c_d-e@12"])
def test_release_names_print_as_they_are_read(text: str) -> None:
    assert str(ids.parse_release_name(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "alice", "a/b@0", "a/b@", "a/b@x", "A/b", "a/b/c", "../b"),
        *("a/b@²", "a/b@1234567890", "a/b@" + "9" * 5_000),
    ],
)
def test_what_is_no_release_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not a model name"):
        ids.parse_release_name(text)


def test_near_names_are_offered() -> None:
    assert ids.did_you_mean("alice/tune", ["alice/tunes", "bob/breton"]) == (
        "; did you mean alice/tunes?"
    )
    assert ids.did_you_mean("zzz", ["alice/tunes"]) == ""


def test_errors_keep_their_details() -> None:
    assert OpenLedgerError("no", near="yes").details == {"near": "yes"}


OWNERS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,38}", fullmatch=True)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
RELEASES = st.builds(ids.ReleaseName, OWNERS, NAMES, st.none() | st.integers(1, 999_999_999))
MOST = ids.MOST_WEIGHT * types.PARTS_PER_BILLION
MEMBERS = st.lists(
    st.builds(ids.WeightedName, RELEASES, st.integers(-MOST, MOST)), min_size=1, max_size=8
).filter(lambda members: sum(member.weight_ppb for member in members) != 0)


def written(members: Iterable[ids.WeightedName]) -> str:
    return ids.model_text((str(member.name), member.weight_ppb) for member in members)


@given(MEMBERS)
def test_a_sound_mix_prints_as_it_is_read(members: list[ids.WeightedName]) -> None:
    assert ids.parse_model(written(members)) == tuple(members)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("alice/tunes@3", "alice/tunes@3"),
        ("mix:alice/tunes@3", "alice/tunes@3"),
        ("mix:a/b*1.000", "a/b"),
        (" mix: alice/tunes@3 * 0.70 + bob/breton ", "mix:alice/tunes@3*0.7+bob/breton*1"),
        ("mix:a/b*-0.5+c/d*10", "mix:a/b*-0.5+c/d*10"),
        ("mix:a/b*0.000000001+c/d*0", "mix:a/b*0.000000001+c/d*0"),
    ],
)
def test_models_as_callers_write_them(text: str, printed: str) -> None:
    assert written(ids.parse_model(text)) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mix:", "not a model name"),
        ("mix", "not a model name"),
        ("Mix:a/b", "not a model name"),
        ("mix:a/b+", "not a model name"),
        ("mix:mix:a/b", "not a model name"),
        ("a/b*0.5", "not a model name"),
        ("a/b+c/d", "not a model name"),
        ("mix:a/b*", "no weight"),
        ("mix:a/b*nan", "no weight"),
        ("mix:a/b*inf+c/d", "no weight"),
        ("mix:a/b*1e3", "no weight"),
        ("mix:a/b*0.5*2", "no weight"),
        ("mix:a/b*٣", "no weight"),
        ("mix:a/b*0.1234567891", "at most 9 decimals"),
        ("mix:a/b*10.000000001", "between -10 and 10"),
        ("mix:a/b*-11", "between -10 and 10"),
        ("mix:a/b*" + "9" * 9_000, "between -10 and 10"),
        ("mix:a/b*0", "weight is not 0"),
        ("mix:a/b*-0.0+c/d*0", "weight is not 0"),
        ("mix:a/b+c/d*-1", "weights of a mix sum to 0.*weigh its members unevenly"),
        ("mix:a/b*0.1+c/d*0.2+e/f*-0.3", "weights of a mix sum to 0"),  # no float decides that
    ],
)
def test_what_is_no_model_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ids.parse_model(text)


HOSTILE = st.text() | st.text("mix:alice/tunes@3*0.7+-bob \x00\n", max_size=60)


@given(HOSTILE, st.booleans())
def test_no_text_is_read_as_a_model_that_it_does_not_name(text: str, is_mix: bool) -> None:
    wanted = f"mix:{text}" if is_mix else text
    try:
        members = ids.parse_model(wanted)
    except InvalidInputError:
        return

    assert ids.parse_model(written(members)) == members
    for member in members:
        assert str(member.name) in wanted


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_weights_are_exact_or_refused(number: Decimal) -> None:
    try:
        found = ids.weight_ppb(number)
    except InvalidInputError:
        assert not number.is_finite() or _is_beyond(Fraction(number))
    else:
        assert Fraction(found, types.PARTS_PER_BILLION) == Fraction(number)


def _is_beyond(number: Fraction) -> bool:
    scaled = number * types.PARTS_PER_BILLION
    return scaled.denominator > 1 or abs(scaled) > MOST


@pytest.mark.parametrize("text", ["1e999999999999", "1e-999999999999", "-1e999999999999"])
def test_a_huge_exponent_fills_no_memory(text: str) -> None:
    with pytest.raises(InvalidInputError, match="weight"):
        ids.weight_ppb(Decimal(text))
