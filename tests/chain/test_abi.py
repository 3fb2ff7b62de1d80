"""Values survive the way into ABI bytes and back, and refusals can be read."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.chain.abi import (
    Event,
    Function,
    Interface,
    Parameter,
    decode_values,
    encode_values,
    revert_reason,
)
from openledger.core.errors import InvalidInputError, NotFoundError, VerificationError
from openledger.core.types import Account

ADDRESS = Parameter("who", "address")
WORD = Parameter("word", "bytes32")
PAIR = Parameter("pair", "tuple", (ADDRESS, Parameter("amount", "uint256")))
PAIRS = Parameter("pairs", "tuple[]", PAIR.components)

accounts = st.binary(min_size=20, max_size=20).map(lambda raw: Account("0x" + raw.hex()))
amounts = st.integers(0, 2**256 - 1)


class Pair(msgspec.Struct, frozen=True):
    who: Account
    amount: int


@given(accounts, st.binary(min_size=32, max_size=32), st.lists(st.tuples(accounts, amounts)))
def test_values_survive(who: Account, word: bytes, pairs: list[tuple[Account, int]]) -> None:
    raw = encode_values([ADDRESS, WORD, PAIRS], [who, word.hex(), pairs])

    assert decode_values([ADDRESS, WORD, PAIRS], raw) == (who, word.hex(), tuple(pairs))


@given(accounts, amounts)
def test_a_record_is_a_struct(who: Account, amount: int) -> None:
    raw = encode_values([PAIR], [Pair(who, amount)])

    assert raw == encode_values([PAIR], [(who, amount)])


def test_a_log_with_other_indexed_fields_is_refused() -> None:
    moved = Event("Moved", (msgspec.structs.replace(ADDRESS, indexed=True), WORD))

    with pytest.raises(VerificationError, match="Moved has 2 indexed fields instead of 1"):
        moved.decode([bytes(32), bytes(32)], bytes(32))


def test_calldata_begins_with_the_selector() -> None:
    transfer = Function("transfer", (ADDRESS, Parameter("amount", "uint256")), ())
    calldata = transfer.encode(["0x" + "11" * 20, 5])

    assert calldata[:4].hex() == "a9059cbb"
    assert transfer.decode_arguments(calldata) == ("0x" + "11" * 20, 5)
    assert transfer.decode(b"") is None


def test_structs_are_written_as_lists_of_types() -> None:
    assert PAIRS.canonical == "(address,uint256)[]"


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (ADDRESS, "0x12"),
        (ADDRESS, 5),
        (WORD, "zz"),
        (Parameter("n", "uint8"), 256),
        (Parameter("n", "uint256"), -1),
        (PAIR, (1,)),
        (PAIRS, 3),
    ],
)
def test_wrong_arguments_are_refused(parameter: Parameter, value: object) -> None:
    with pytest.raises(InvalidInputError, match="f does not take these arguments"):
        encode_values([parameter], [value], "f")  # type: ignore[list-item]  # wrong on purpose


def test_bytes_of_another_shape_are_refused() -> None:
    with pytest.raises(VerificationError, match="another shape"):
        decode_values([ADDRESS], b"\x01")


def test_the_longest_form_of_a_name_is_meant() -> None:
    abi: list[dict[str, object]] = [
        {"type": "function", "name": "f", "inputs": [], "outputs": []},
        {
            "type": "function",
            "name": "f",
            "inputs": [{"name": "n", "type": "uint8"}],
            "outputs": [],
        },
        {"type": "function", "name": "f", "inputs": [], "outputs": []},
    ]
    interface = Interface("Thing", abi)

    assert len(interface.function("f").inputs) == 1
    assert interface.constructor == ()
    with pytest.raises(NotFoundError, match="Thing has no function g"):
        interface.function("g")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b"", ""),
        (bytes.fromhex("08c379a0") + encode_values([Parameter("", "string")], ["no"]), "no"),
        (bytes.fromhex("08c379a0ff"), "0x08c379a0ff"),
        (bytes.fromhex("4e487b71") + (17).to_bytes(32, "big"), "panic 0x11"),
        (b"\x01\x02", "0x0102"),
    ],
)
def test_refusals_are_read(output: bytes, reason: str) -> None:
    assert revert_reason(output) == reason
