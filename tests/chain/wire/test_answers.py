"""Whatever a node says, it is read strictly or refused with a sentence."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.chain.client import Client, Message
from openledger.chain.config import EVM, Config
from openledger.chain.wire import answers
from openledger.core.errors import ChainRejectedError, ChainUnavailableError
from openledger.core.types import Account, Digest

WHO = Account("0x" + "11" * 20)
TX = Digest("ab" * 32)
WORD = "0x" + "Ab" * 32
BLOCK = {"number": "0x5", "hash": WORD, "parentHash": WORD, "timestamp": "0x10"}
LOG = {
    "blockNumber": "0x5",
    "blockHash": WORD,
    "logIndex": "0x0",
    "transactionHash": WORD,
    "address": "0x" + "Cd" * 20,
    "topics": [WORD],
    "data": "0x",
}
RECEIPT = {"blockNumber": "0x5", "blockHash": WORD, "status": "0x1", "gasUsed": "0x5208"}
ASKED = [
    lambda client: client.height(),
    lambda client: client.block(5),
    lambda client: client.balance(WHO),
    lambda client: client.nonce(WHO),
    lambda client: client.has_code(WHO),
    lambda client: client.tip(),
    lambda client: client.call(Message(WHO, WHO, b"")),
    lambda client: client.estimate(Message(WHO, WHO, b"")),
    lambda client: client.receipt(TX),
    lambda client: client.logs(0, 9, [WHO]),
]
scraps = st.sampled_from(
    ["0x", "0xzz", "0x1", "0x 1", "1", WORD, WORD + "\n", "0x" + "f" * 65, 7, -1, 1.5, True, None]
)
fields = st.sampled_from([*BLOCK, *LOG, *RECEIPT, "code", "message", "result", "error"])
anything = st.recursive(
    scraps | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=8,
)
# A form with one field changed.
nearly = st.builds(
    lambda form, name, value: {**form, name: value},
    st.sampled_from([BLOCK, LOG, RECEIPT]),
    fields,
    scraps,
)


class Saying:
    """A node that says one thing."""

    def __init__(self, answer: Any) -> None:  # noqa: ANN401 - anything
        self._answer = answer

    def make_request(self, method: str, params: list[object]) -> Any:  # noqa: ANN401 - anything
        return {"result": "0x7"} if method == "eth_chainId" else self._answer


def client(answer: object) -> Client:
    return Client(Saying(answer), Config(profile=EVM, read_attempts=1), lambda _: None)


@given(st.sampled_from(ASKED), anything | nearly | st.lists(nearly, max_size=2))
def test_no_result_breaks_a_reader(ask: Any, result: object) -> None:  # noqa: ANN401 - a lambda
    try:
        ask(client({"result": result}))
    except ChainUnavailableError as error:
        assert "try again later" in str(error)  # noqa: PT017 - most results are read or refused


@given(st.sampled_from(ASKED), anything)
def test_no_envelope_breaks_a_reader(ask: Any, answer: object) -> None:  # noqa: ANN401 - a lambda
    try:
        ask(client(answer))
    except (ChainUnavailableError, ChainRejectedError) as error:
        assert str(error)  # noqa: PT017 - most envelopes are read or refused


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "rate limited"},
        {"error": {"message": "no code"}},
        {"error": {"code": 3, "message": "x", "data": "0xzz"}},
        {"result": None},
        {"result": 7},
        {"result": "0xzz"},
        {"result": "0x"},
        {"result": "0x" + "1" * 17},
        "rate limited",
        [],
    ],
)
def test_what_is_no_number_is_no_answer(answer: object) -> None:
    with pytest.raises(ChainUnavailableError, match="malformed"):
        client(answer).height()


@pytest.mark.parametrize(
    "change",
    [
        {"hash": WORD[:-1]},
        {"hash": None},
        {"number": None},
        {"timestamp": 16},
        {"parentHash": "0x"},
    ],
)
def test_a_header_with_a_wrong_field_is_no_answer(change: dict[str, object]) -> None:
    with pytest.raises(ChainUnavailableError, match="malformed"):
        client({"result": BLOCK | change}).block(5)


def test_forms_are_read_into_canonical_records() -> None:
    assert answers.block(BLOCK) == answers.Block(5, TX, TX, 16, answers.amount("0x0"))
    assert answers.receipt(RECEIPT, TX) == answers.Receipt(TX, 5, TX, True, 21_000, None)
    assert answers.receipt(RECEIPT | {"blockNumber": None}, TX) is None
    assert answers.logs([LOG | {"logIndex": "0x1"}, LOG])[0] == answers.Log(
        5, TX, 0, TX, Account("0x" + "cd" * 20), (bytes.fromhex("ab" * 32),), b""
    )
    assert answers.count("0x" + "0" * 60 + "7") == 7
