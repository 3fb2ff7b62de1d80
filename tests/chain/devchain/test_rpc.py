"""The embedded chain answers as other nodes do."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openledger.chain.abi import revert_reason
from openledger.chain.devchain import rpc
from openledger.chain.devchain.node import DevChain
from openledger.chain.devchain.rpc import handle, handle_body
from openledger.core.errors import HomeBusyError, StorageFullError, WrongChainError
from openledger.storage.database import copy_sqlite
from tests.chain.devchain.conftest import OTHER, RICH, Node

numbers = st.sampled_from([-1, 0, 3, 2**63, 2**70, 2**300]).flatmap(
    lambda number: st.sampled_from([number, hex(number)])
)
scraps = st.one_of(
    numbers,
    st.sampled_from(
        [None, True, 1.5, "", "0x", "0x01", "latest", "earliest", OTHER, "0x" + "7" * 64]
    ),
    st.text(max_size=4),
    st.binary(max_size=80).map(lambda raw: "0x" + raw.hex()),
)
keys = ("from", "to", "data", "input", "value", "gas", "address", "topics", "fromBlock", "toBlock")
objects = st.dictionaries(
    st.sampled_from([*keys, "blockHash", "blockNumber"]),
    scraps | st.lists(scraps, max_size=3),
    max_size=4,
)
parameters = st.lists(scraps | objects | st.lists(scraps, max_size=3), max_size=4)


def program() -> str:
    """Init code of a contract that logs topic 7 with calldata's first word and returns the word.

    It reverts with Error("no") when the word is zero.
    """
    refuse = "62461bcd60e51b5f5260206004526002602452616e6f60f01b60445260645ffd"
    size = len(bytes.fromhex("5f3580")) + 3 + len(bytes.fromhex(refuse))  # where it goes on
    runtime = f"5f358060{size:02x}57{refuse}5b5f52600760205fa160205ff3"
    length = len(bytes.fromhex(runtime))
    return f"60{length:02x}8060095f395ff3" + runtime


def deploy(node: Node) -> str:
    sent = node.send(data=bytes.fromhex(program()), gas=300_000)
    return str(node.ask("eth_getTransactionReceipt", sent)["contractAddress"])


def word(number: int) -> str:
    return "0x" + f"{number:064x}"


def test_a_transfer_is_mined_at_once(node: Node) -> None:
    sent = node.send(to=OTHER, value=5, gas=21_000)
    receipt = node.ask("eth_getTransactionReceipt", sent)
    block = node.ask("eth_getBlockByNumber", "latest", False)

    assert node.ask("eth_getBalance", OTHER, "latest") == "0x5"
    assert receipt["status"] == "0x1"
    assert receipt["gasUsed"] == hex(21_000)
    assert receipt["blockHash"] == block["hash"]
    assert block["transactions"] == [sent]
    assert node.ask("eth_getBlockByHash", block["hash"], True)["transactions"][0]["hash"] == sent
    assert node.ask("eth_getTransactionByHash", sent)["value"] == "0x5"
    assert node.ask("eth_getTransactionCount", RICH.address, "pending") == "0x1"


def test_a_contract_is_made_called_and_logs(node: Node) -> None:
    address = deploy(node)
    node.send(to=address, data=bytes.fromhex(word(9)[2:]))
    logs = node.ask("eth_getLogs", {"fromBlock": "0x0", "address": address})

    assert node.ask("eth_getCode", address, "latest") != "0x"
    assert node.ask("eth_call", {"to": address, "data": word(3)}, "latest") == word(3)
    assert [(log["data"], log["topics"]) for log in logs] == [(word(9), [word(7)])]


def test_logs_are_filtered_by_topic_block_and_address(node: Node) -> None:
    address = deploy(node)
    node.send(to=address, data=bytes.fromhex(word(9)[2:]))
    block = node.ask("eth_getBlockByNumber", "latest", False)

    def found(**wanted: object) -> int:
        return len(node.ask("eth_getLogs", {"fromBlock": "earliest"} | wanted))

    assert found(topics=[word(7)]) == 1
    assert found(topics=[[word(6), word(7)]]) == 1
    assert found(topics=[None]) == 1
    assert found(topics=[word(6)]) == 0
    assert found(topics=[word(7), word(7)]) == 0
    assert found(address=[OTHER]) == 0
    assert len(node.ask("eth_getLogs", {"blockHash": block["hash"]})) == 1
    assert node.error("eth_getLogs", {"blockHash": word(1)})["message"] == "unknown block"


def test_a_refusal_carries_its_bytes_and_reason(node: Node) -> None:
    address = deploy(node)
    for method in ("eth_call", "eth_estimateGas"):
        error = node.error(method, {"to": address, "data": word(0)})

        assert error["code"] == 3
        assert error["message"] == "execution reverted: no"
        assert revert_reason(bytes.fromhex(error["data"][2:])) == "no"


def test_a_transaction_that_fails_is_mined_with_status_zero(node: Node) -> None:
    address = deploy(node)
    sent = node.send(to=address, data=bytes(32))

    assert node.ask("eth_getTransactionReceipt", sent)["status"] == "0x0"


def test_an_estimate_is_enough(node: Node) -> None:
    address = deploy(node)
    gas = int(node.ask("eth_estimateGas", {"to": address, "data": word(9)}), 16)
    sent = node.send(to=address, data=bytes.fromhex(word(9)[2:]), gas=gas)

    assert node.ask("eth_getTransactionReceipt", sent)["status"] == "0x1"
    assert gas < 30_000


def test_an_estimate_covers_the_price_of_much_input(node: Node) -> None:
    data = "0x" + "ff" * 1_000
    gas = int(node.ask("eth_estimateGas", {"to": OTHER, "data": data}), 16)
    sent = node.send(to=OTHER, data=bytes.fromhex(data[2:]), gas=gas)

    assert node.ask("eth_getTransactionReceipt", sent)["status"] == "0x1"


def test_the_state_of_old_blocks_can_be_asked_for(node: Node) -> None:
    node.send(to=OTHER, value=5)
    node.send(to=OTHER, value=5)
    first = node.ask("eth_getBlockByNumber", "0x1", False)

    assert node.ask("eth_getBalance", OTHER, "0x0") == "0x0"
    assert node.ask("eth_getBalance", OTHER, "0x1") == "0x5"
    assert node.ask("eth_getBalance", OTHER, {"blockHash": first["hash"]}) == "0x5"
    assert node.ask("eth_getBalance", OTHER, {"blockNumber": "0x2"}) == "0xa"
    assert node.error("eth_getBalance", OTHER, {"blockHash": word(1)})["message"] == "unknown block"
    assert "does not exist" in node.error("eth_getBalance", OTHER, "0x9")["message"]
    assert node.ask("eth_getBlockByNumber", "0x9", False) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nonce": 5}, "nonce too high"),
        ({"gas": 20_000}, "intrinsic gas too low"),
        ({"gas": 60_000_001}, "exceeds block gas limit"),
        ({"value": 10**25}, "insufficient funds"),
        ({"chainId": 1}, "invalid chain id"),
        ({"maxFeePerGas": 1, "maxPriorityFeePerGas": 1}, "less than block base fee"),
    ],
)
def test_what_cannot_enter_a_block_is_refused(
    node: Node, fields: dict[str, int], words: str
) -> None:
    raw = node.sign(to=OTHER, **fields)

    assert words in node.error("eth_sendRawTransaction", raw)["message"]
    assert node.ask("eth_blockNumber") == "0x0"


def test_a_transaction_counts_once(node: Node) -> None:
    raw = node.sign(to=OTHER, value=1)
    node.ask("eth_sendRawTransaction", raw)

    assert node.error("eth_sendRawTransaction", raw)["message"] == "already known"
    again = node.sign(to=OTHER, value=2, nonce=0)
    assert "nonce too low" in node.error("eth_sendRawTransaction", again)["message"]


@pytest.mark.parametrize("raw", ["0x", "0x03f8", "0x02f8ff", "0x02c0", "0xc0", "0x99"])
def test_malformed_transactions_are_refused(node: Node, raw: str) -> None:
    assert node.error("eth_sendRawTransaction", raw)["code"] == -32000


def test_old_kinds_of_transactions_are_taken(node: Node) -> None:
    legacy = RICH.sign_transaction(
        {"nonce": 0, "gas": 21_000, "gasPrice": 10**10, "to": OTHER, "value": 1, "chainId": 31_337}
    )
    listed = RICH.sign_transaction(
        {
            "type": 1,
            "nonce": 1,
            "gas": 30_000,
            "gasPrice": 10**10,
            "to": OTHER,
            "value": 1,
            "chainId": 31_337,
            "accessList": [{"address": OTHER, "storageKeys": [word(1)]}],
        }
    )
    first = node.ask("eth_sendRawTransaction", "0x" + bytes(legacy.raw_transaction).hex())
    second = node.ask("eth_sendRawTransaction", "0x" + bytes(listed.raw_transaction).hex())

    assert node.ask("eth_getTransactionByHash", first)["type"] == "0x0"
    assert node.ask("eth_getTransactionByHash", first)["gasPrice"] == hex(10**10)
    found = node.ask("eth_getTransactionByHash", second)
    assert found["accessList"] == [{"address": OTHER, "storageKeys": [word(1)]}]


def test_time_goes_on_and_can_be_pushed(node: Node) -> None:
    node.ask("evm_mine")
    first = int(node.ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    node.ask("evm_mine")
    second = int(node.ask("eth_getBlockByNumber", "latest", False)["timestamp"], 16)
    node.ask("evm_increaseTime", 1_000)
    node.ask("anvil_mine", "0x3")
    last = node.ask("eth_getBlockByNumber", "latest", False)

    assert second == first + 1
    assert last["number"] == "0x5"
    assert int(last["timestamp"], 16) >= 1_700_001_000
    assert node.error("anvil_mine", hex(10**6))["code"] == -32602


def test_blocks_do_not_shrink(node: Node) -> None:
    node.ask("anvil_mine", hex(50))

    assert node.ask("eth_getBlockByNumber", "latest", False)["gasLimit"] == hex(60_000_000)


def test_fees_are_told(node: Node) -> None:
    node.ask("evm_mine")
    history = node.ask("eth_feeHistory", "0x5", "latest", [25, 75])
    plain = node.ask("eth_feeHistory", 1, "latest", None)

    assert len(history["baseFeePerGas"]) == 3
    assert len(history["reward"]) == 2
    assert "reward" not in plain
    tip = int(node.ask("eth_maxPriorityFeePerGas"), 16)
    assert int(node.ask("eth_gasPrice"), 16) == node.chain.base_fee + tip


def test_small_questions_have_answers(node: Node) -> None:
    assert node.ask("eth_chainId") == hex(31_337)
    assert node.ask("net_version") == "31337"
    assert node.ask("eth_accounts") == []
    assert node.ask("eth_syncing") is False
    assert "py-evm" in node.ask("web3_clientVersion")
    assert node.ask("eth_getTransactionReceipt", word(1)) is None


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("eth_nothing", [], -32601),
        ("eth_getBalance", [], -32602),
        ("eth_getBalance", ["12"], -32602),
        ("eth_getBalance", [OTHER, {}], -32602),
        ("eth_getBalance", [OTHER, "0xzz"], -32602),
        ("evm_increaseTime", [True], -32602),
        ("evm_increaseTime", [-1], -32602),
        ("evm_increaseTime", [2**40], -32602),
        ("eth_getBlockByNumber", [2**70], -32602),
        ("eth_getBlockByNumber", [{"blockNumber": hex(2**63)}], -32602),
        ("eth_getBlockByHash", ["0x01"], -32602),
        ("eth_getBalance", ["0x01"], -32602),
        ("eth_getBalance", [OTHER, hex(2**62)], -32001),
        ("eth_feeHistory", [1, "latest", [1] * 101], -32602),
        ("eth_getLogs", [{"address": [OTHER] * 40_000}], -32602),
        ("eth_call", [{"to": "0x01"}], -32602),
        ("eth_call", [{"to": OTHER, "value": hex(2**256)}], -32602),
        ("eth_sendRawTransaction", ["0x02c0"], -32000),
        ("eth_getLogs", [{"topics": [5]}], -32602),
        ("eth_call", [{"to": OTHER, "value": hex(10**30), "from": OTHER}], -32000),
        ("eth_call", [{"data": "0xfe"}], -32000),
    ],
)
def test_bad_requests_get_the_standard_codes(
    node: Node, method: str, params: list[object], code: int
) -> None:
    assert node.error(method, *params)["code"] == code


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)
@given(st.sampled_from(sorted(rpc._METHODS)), parameters)
def test_no_request_breaks_the_handler(node: Node, method: str, wanted: list[object]) -> None:
    answer = handle(node.chain, {"id": 1, "method": method, "params": wanted})

    assert ("result" in answer) != ("error" in answer)
    assert answer.get("error", {}).get("code") != -32603  # nothing came as a surprise
    assert json.loads(handle_body(node.chain, msgspec.json.encode({"params": wanted})))


def test_what_nobody_foresaw_is_answered_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(node.chain._store, "block_at", fail)

    assert node.error("eth_getBlockByNumber", "0x0", False)["code"] == -32603


def test_bodies_may_hold_one_request_or_many(node: Node) -> None:
    one = json.loads(handle_body(node.chain, b'{"id": 1, "method": "eth_chainId"}'))
    many = json.loads(
        handle_body(node.chain, b'[{"id": 1, "method": "eth_chainId"}, {"id": 2}, 3]')
    )

    assert one == {"jsonrpc": "2.0", "id": 1, "result": hex(31_337)}
    assert [item.get("error", {}).get("code") for item in many] == [None, -32600, -32600]
    assert json.loads(handle_body(node.chain, b"{"))["error"]["code"] == -32700


def test_a_chain_file_has_one_owner_and_one_id(node: Node, tmp_path: Path) -> None:
    with pytest.raises(HomeBusyError):
        node.open()
    node.chain.close()
    with pytest.raises(WrongChainError, match="id 31337, not 5"):
        DevChain(tmp_path / "chain.db", 5, {}, lambda: 0.0)
    node.chain = node.open()


def test_others_may_copy_the_chain_file_meanwhile(node: Node, tmp_path: Path) -> None:
    node.send(to=OTHER, value=1)

    copy_sqlite(node.path, tmp_path / "copy.db")

    copy = Node(tmp_path / "copy.db")
    assert copy.chain.height == node.chain.height
    copy.chain.close()


def test_a_block_that_could_not_be_written_never_was(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageFullError("no space left for the development chain")

    raw = node.sign(to=OTHER, value=1)
    with monkeypatch.context() as patch:
        patch.setattr(node.chain._store, "put_transaction", fail)
        assert "no space" in node.error("eth_sendRawTransaction", raw)["message"]
    assert node.ask("eth_blockNumber") == "0x0"
    node.ask("eth_sendRawTransaction", raw)

    assert node.ask("eth_getBalance", OTHER, "latest") == "0x1"


def test_the_handler_needs_no_parameters_and_no_id(node: Node) -> None:
    assert handle(node.chain, {"method": "eth_chainId"})["id"] is None


def test_a_full_disk_loses_nothing(node: Node) -> None:
    store = node.chain._store._connection
    node.send(to=OTHER, value=1)
    [pages] = store.execute("pragma page_count").fetchone()
    store.execute(f"pragma max_page_count={pages}")
    raw = node.sign(to=OTHER, value=1, data=b"x" * 9_000, gas=1_000_000)
    error = node.error("eth_sendRawTransaction", raw)
    store.execute("pragma max_page_count=1000000")
    node.send(to=OTHER, value=1)

    assert "no space left" in error["message"]
    assert node.ask("eth_getBalance", OTHER, "latest") == "0x2"


def test_a_file_that_cannot_be_written_is_told(node: Node) -> None:
    node.chain._store._connection.execute("pragma query_only=1")
    error = node.error("evm_mine")
    node.chain._store._connection.execute("pragma query_only=0")
    node.ask("evm_mine")

    assert "cannot write" in error["message"]
    assert node.ask("eth_blockNumber") == "0x1"


def test_a_set_code_transaction_is_shown_with_its_fees(node: Node) -> None:
    authorization = RICH.sign_authorization({"chainId": 31_337, "address": OTHER, "nonce": 1})
    sent = node.send(to=OTHER, type=4, authorizationList=[authorization])
    found = node.ask("eth_getTransactionByHash", sent)

    assert found["type"] == "0x4"
    assert found["maxFeePerGas"] == hex(10**10)
    assert node.ask("eth_getCode", RICH.address, "latest") == "0xef0100" + OTHER[2:]
