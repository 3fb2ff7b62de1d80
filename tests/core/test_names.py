"""Accounts, digests, receipt ids and release names as people type them."""

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
