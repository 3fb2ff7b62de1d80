"""Canonical bytes: one record, one digest."""

import tracemalloc
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core import encoding
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.types import Account, Digest, Share, Wei


class Line(msgspec.Struct, frozen=True):
    note: str
    amount: Wei
    refund: Wei | None
    count: int
    by_name: dict[str, Wei]
    shares: tuple[Share, ...] = ()
    is_paid: bool = True
    maybe: tuple[int, ...] | None = None


class Grown(msgspec.Struct, frozen=True):
    note: str
    later: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class Loose(msgspec.Struct, frozen=True):
    value: object


lines = st.builds(
    Line,
    note=st.text(),
    amount=st.integers(0, 2**256).map(Wei),
    refund=st.none() | st.integers(0, 2**256).map(Wei),
    count=st.integers(-(2**80), 2**80),
    by_name=st.dictionaries(st.text(), st.integers(0, 2**100).map(Wei), max_size=4),
    shares=st.lists(
        st.builds(Share, st.just(Account("0x" + "ab" * 20)), st.integers(0, 10**9)), max_size=3
    ).map(tuple),
    is_paid=st.booleans(),
    maybe=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
)


@given(lines)
def test_a_record_survives_the_round_trip(line: Line) -> None:
    assert encoding.decode(encoding.encode(line), Line) == line


@given(st.text(), st.just(msgspec.UNSET) | st.lists(st.integers(0, 9)).map(tuple))
def test_a_field_that_is_not_set_is_left_out_and_comes_back_so(
    note: str, later: tuple[int, ...] | msgspec.UnsetType
) -> None:
    grown = Grown(note, later)
    raw = encoding.encode(grown)

    assert encoding.decode(raw, Grown) == grown
    assert (b'"later"' in raw) == (later is not msgspec.UNSET)


@given(lines, st.sampled_from([b" ", b"\n", b"\t"]))
def test_other_bytes_for_the_same_record_are_refused(line: Line, blank: bytes) -> None:
    raw = encoding.encode(line)
    place = raw.index(b",") + 1
    spaced = raw[:place] + blank + raw[place:]

    with pytest.raises(VerificationError, match="canonical"):
        encoding.decode(spaced, Line)


def test_money_and_large_integers_are_strings() -> None:
    line = Line("x", Wei(7), None, 2**53, {"a": Wei(1)})

    assert b'"amount":"7"' in encoding.encode(line)
    assert b'"count":"9007199254740992"' in encoding.encode(line)
    assert b'"by_name":{"a":"1"}' in encoding.encode(line)


@pytest.mark.parametrize("value", [1.5, b"raw", {1}])
def test_what_json_cannot_carry_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="canonical form"):
        encoding.encode(Loose(value))


def test_untyped_containers_encode_too() -> None:
    assert encoding.encode(Loose({"b": [1, None], "a": True})) == (
        b'{"value":{"a":true,"b":[1,null]}}'
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b'{"note":1}'])
def test_bytes_that_are_no_record_are_refused(raw: bytes) -> None:
    with pytest.raises(VerificationError):
        encoding.decode(raw, Line)


def test_a_salted_digest_needs_a_whole_salt() -> None:
    assert encoding.salted_digest(b"s" * 32, b"v") != encoding.salted_digest(b"t" * 32, b"v")
    with pytest.raises(InvalidInputError, match="32 bytes"):
        encoding.salted_digest(b"s", b"v")


def test_the_digest_is_that_of_the_canonical_bytes() -> None:
    share = Share(Account("0x" + "ab" * 20), 1)

    assert encoding.digest_of(share) == sha256(encoding.encode(share)).hexdigest()


class Message(msgspec.Struct, frozen=True):
    amount: Wei
    blob: bytes
    rate: float
    lines: tuple[Share, ...] = ()


def test_the_wire_carries_money_bytes_and_floats() -> None:
    message = Message(Wei(10**27), b"\x00\xff", 0.5, (Share(Account("0x" + "ab" * 20), 1),))

    raw = encoding.to_wire(message)

    assert b'"amount":"1000000000000000000000000000"' in raw
    assert encoding.from_wire(raw, Message) == message


class Report(msgspec.Struct, frozen=True):
    lines: tuple[msgspec.Raw, ...]


def test_the_wire_carries_json_as_it_is() -> None:
    report = Report((msgspec.Raw(b'{"loss":1.50}'), msgspec.Raw(b"[]")))

    assert encoding.from_wire(encoding.to_wire(report), Report) == report


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff", b'{"amount":"x"}'])
def test_what_is_no_message_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError, match="no Message"):
        encoding.from_wire(raw, Message)


class Named(msgspec.Struct, frozen=True):
    digest: Digest
    account: Account | None = None


@pytest.mark.parametrize("text", ["AB" * 32, "ab" * 31, "zz" * 32, "0x" + "ab" * 32, ""])
def test_a_digest_has_one_form(text: str) -> None:
    raw = b'{"account":null,"digest":"%b"}' % text.encode()

    with pytest.raises(InvalidInputError, match="lower-case hex"):
        encoding.encode(Named(Digest(text)))
    with pytest.raises(VerificationError, match="no Named"):
        encoding.decode(raw, Named)


@pytest.mark.parametrize("text", ["0x" + "AB" * 20, "ab" * 20, "0X" + "ab" * 20, "anna"])
def test_an_account_has_one_form(text: str) -> None:
    with pytest.raises(InvalidInputError, match="lower-case hex"):
        encoding.encode(Named(Digest("ab" * 32), Account(text)))


def test_accounts_and_digests_read_back() -> None:
    named = Named(Digest("ab" * 32), Account("0x" + "ab" * 20))

    assert encoding.decode(encoding.encode(named), Named) == named


def test_json_from_anywhere_is_read() -> None:
    assert encoding.parse_json(b'{"a": [1, "]]"]}') == {"a": [1, "]]"]}


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"a": \xff}', b"[1,]"])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInputError, match="no JSON"):
        encoding.parse_json(raw)


def test_json_nests_64_deep_and_no_deeper() -> None:
    assert encoding.parse_json(b"[" * 64 + b"]" * 64)
    encoding.check_depth(b'"' + b"[" * 1_000 + b'"')  # brackets in a string nest nothing
    with pytest.raises(InvalidInputError, match="deeper than 64"):
        encoding.parse_json(b"[" * 100_000)


def test_json_that_nests_too_deep_is_refused_before_it_is_read() -> None:
    encoding.check_depth(b"[" * 64 + b"]" * 64)
    encoding.check_depth(b'"' + b"[" * 1000 + b'"')
    with pytest.raises(InvalidInputError, match="nests deeper"):
        encoding.parse_json(b"[" * 100_000)
    with pytest.raises(InvalidInputError, match="no JSON"):
        encoding.parse_json(b"{")


def _naive_depth(raw: bytes) -> int:
    """The deepest nesting, read letter by letter."""
    depth, deepest, is_text, is_escaped = 0, 0, False, False
    for letter in raw.decode("latin-1"):
        if is_text:
            is_text = letter != '"' or is_escaped
            is_escaped = letter == "\\" and not is_escaped
            continue
        is_text = letter == '"'
        depth += (letter in "[{") - (letter in "]}")
        deepest = max(deepest, depth)
    return deepest


pieces = st.sampled_from([b'"', b"\\", b"[" * 40, b"}" * 40, b"a\n", b"\xff"])


@given(st.lists(pieces).map(b"".join))
def test_escapes_end_no_string_wherever_they_stand(raw: bytes) -> None:
    try:
        encoding.check_depth(raw)
    except InvalidInputError:
        assert _naive_depth(raw) > 64
    else:
        assert _naive_depth(raw) <= 64


@pytest.mark.parametrize("piece", [b"aaaa", b"\\naa", b'\\"\\\\'])
def test_a_long_string_takes_no_memory_to_look_through(piece: bytes) -> None:
    raw = b'"' + piece * 100_000 + b'"'
    tracemalloc.start()
    encoding.check_depth(raw)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < len(raw) // 4
