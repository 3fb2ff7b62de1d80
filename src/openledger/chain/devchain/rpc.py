"""JSON-RPC over the embedded chain, for web3.py, wallets and our own client alike.

`handle` is a pure function of chain and request: the web room mounts it at the loopback `/rpc`.
Errors have the codes and words of other nodes, and refusals carry their bytes in `data`.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec
import structlog

from openledger import __version__
from openledger.chain.devchain.evm import GAS_LIMIT, Call
from openledger.chain.devchain.forms import Form, Json, quantity, text
from openledger.chain.devchain.node import DevChain, LogFilter, RpcError
from openledger.core.encoding import parse_json
from openledger.core.errors import InvalidInputError, OpenLedgerError

log = structlog.get_logger()

TIP = 1_000_000_000  # wei per gas suggested to senders, who have no competitors here
_INVALID_REQUEST = -32600
_UNKNOWN_METHOD = -32601
_INVALID_PARAMS = -32602
_INTERNAL_ERROR = -32603
_FAILED = -32000
_PARSE_ERROR = -32700
_NOBODY = bytes(20)
_NEWEST = frozenset({"latest", "pending", "safe", "finalized"})
_MOST_BLOCKS = 1_000  # that one call may mine or ask fees of
_MOST_SECONDS = 10 * 366 * 86_400  # that one call may move the clock
_MOST_ADDRESSES = 1_000  # whose logs one call may ask for
_MOST_PERCENTILES = 100
_LARGEST_HEIGHT = 2**63 - 1  # that a row can have
_LARGEST_NUMBER = 2**256 - 1

Parameters: TypeAlias = list[Any]  # as they came in: each method checks its own


def handle(chain: DevChain, request: object) -> dict[str, Any]:
    """Answer one JSON-RPC request; never raises."""
    if not isinstance(request, Mapping) or not isinstance(request.get("method"), str):
        return _answer(None, error=_error(_INVALID_REQUEST, "the request has no method"))
    identity = request.get("id")
    try:
        result = _result(chain, request["method"], request.get("params") or [])
    except RpcError as error:
        return _answer(identity, error=_error(error.rpc_code, str(error), error.data))
    except OpenLedgerError as error:
        return _answer(identity, error=_error(_FAILED, str(error)))
    except Exception:
        # py-evm and SQLite raise what they like; a wallet must get an answer all the same.
        log.exception("rpc broke", method=request["method"])
        message = "the chain broke on this request; the log says where"
        return _answer(identity, error=_error(_INTERNAL_ERROR, message))
    return _answer(identity, result=result)


def handle_body(chain: DevChain, body: bytes) -> bytes:
    """Answer the body of an HTTP request: one JSON-RPC request or a batch of them."""
    try:
        request = parse_json(body)
    except InvalidInputError as error:
        return msgspec.json.encode(_answer(None, error=_error(_PARSE_ERROR, str(error))))
    if isinstance(request, list):
        return msgspec.json.encode([handle(chain, item) for item in request])
    return msgspec.json.encode(handle(chain, request))


def _result(chain: DevChain, name: str, parameters: Any) -> Json:  # noqa: ANN401 - any JSON
    method = _METHODS.get(name)
    if method is None:
        raise RpcError(_UNKNOWN_METHOD, f"the method {name} does not exist")
    try:
        return method(chain, list(parameters))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RpcError(_INVALID_PARAMS, f"invalid params: {error}") from error


def _answer(identity: object, **outcome: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    return {"jsonrpc": "2.0", "id": identity, **outcome}


def _error(code: int, message: str, data: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message} | ({} if data is None else {"data": data})


def _accounts(_chain: DevChain, _parameters: Parameters) -> Json:
    return []


def _balance(chain: DevChain, parameters: Parameters) -> Json:
    return quantity(chain.balance(_address(parameters[0]), _height(chain, parameters[1:])))


def _block_by_hash(chain: DevChain, parameters: Parameters) -> Json:
    return _with_transactions(chain, chain.block_of(_word(parameters[0])), parameters[1:])


def _block_by_number(chain: DevChain, parameters: Parameters) -> Json:
    block = chain.block_at(_height(chain, parameters))
    return _with_transactions(chain, block, parameters[1:])


def _block_number(chain: DevChain, _parameters: Parameters) -> Json:
    return quantity(chain.height)


def _call(chain: DevChain, parameters: Parameters) -> Json:
    return text(chain.call(_message(parameters[0]), _height(chain, parameters[1:])))


def _chain_id(chain: DevChain, _parameters: Parameters) -> Json:
    return quantity(chain.chain_id)


def _client_version(_chain: DevChain, _parameters: Parameters) -> Json:
    return f"openledger/{__version__}/py-evm"


def _code(chain: DevChain, parameters: Parameters) -> Json:
    return text(chain.code(_address(parameters[0]), _height(chain, parameters[1:])))


def _estimate_gas(chain: DevChain, parameters: Parameters) -> Json:
    return quantity(chain.estimate(_message(parameters[0])))


def _fee_history(chain: DevChain, parameters: Parameters) -> Json:
    newest = _height(chain, parameters[1:])
    count = min(_number(parameters[0]), newest + 1, _MOST_BLOCKS)
    blocks = [chain.block_at(number) for number in range(newest - count + 1, newest + 1)]
    found = [block for block in blocks if block is not None]
    fees = [block["baseFeePerGas"] for block in found] + [quantity(chain.base_fee)]
    percentiles = parameters[2] if len(parameters) > 2 else None
    if percentiles is not None and len(percentiles) > _MOST_PERCENTILES:
        raise RpcError(_INVALID_PARAMS, f"at most {_MOST_PERCENTILES} percentiles in one call")
    history: Form = {
        "oldestBlock": quantity(newest - count + 1),
        "baseFeePerGas": fees,
        "gasUsedRatio": [_number(block["gasUsed"]) / GAS_LIMIT for block in found],
    }
    if percentiles is not None:
        history["reward"] = [[quantity(TIP)] * len(percentiles) for _ in found]
    return history


def _gas_price(chain: DevChain, _parameters: Parameters) -> Json:
    return quantity(chain.base_fee + TIP)


def _increase_time(chain: DevChain, parameters: Parameters) -> Json:
    return quantity(chain.increase_time(_number(parameters[0], _MOST_SECONDS)))


def _logs(chain: DevChain, parameters: Parameters) -> Json:
    wanted = parameters[0]
    if "blockHash" in wanted:
        block = chain.block_of(_word(wanted["blockHash"]))
        if block is None:
            raise RpcError(_FAILED, "unknown block")
        first = last = _number(block["number"])
    else:
        first = _height(chain, [wanted.get("fromBlock", "latest")])
        last = _height(chain, [wanted.get("toBlock", "latest")])
    addresses = wanted.get("address") or []
    if isinstance(addresses, str):
        addresses = [addresses]
    if len(addresses) > _MOST_ADDRESSES:
        raise RpcError(_INVALID_PARAMS, f"at most {_MOST_ADDRESSES} addresses in one call")
    topics = tuple(_topic_choice(topic) for topic in wanted.get("topics") or [])
    return chain.logs(LogFilter(first, last, tuple(map(_address, addresses)), topics))


def _mine(chain: DevChain, parameters: Parameters) -> Json:
    count = _number(parameters[0]) if parameters else 1
    if count > _MOST_BLOCKS:
        raise RpcError(_INVALID_PARAMS, f"at most {_MOST_BLOCKS} blocks in one call")
    chain.mine(count)
    return "0x0"


def _mine_one(chain: DevChain, _parameters: Parameters) -> Json:
    chain.mine(1)
    return "0x0"


def _nonce(chain: DevChain, parameters: Parameters) -> Json:
    return quantity(chain.nonce(_address(parameters[0]), _height(chain, parameters[1:])))


def _receipt(chain: DevChain, parameters: Parameters) -> Json:
    return chain.receipt(_word(parameters[0]))


def _send(chain: DevChain, parameters: Parameters) -> Json:
    return text(chain.send(_bytes(parameters[0])))


def _syncing(_chain: DevChain, _parameters: Parameters) -> Json:
    return False


def _tip(_chain: DevChain, _parameters: Parameters) -> Json:
    return quantity(TIP)


def _transaction(chain: DevChain, parameters: Parameters) -> Json:
    return chain.transaction(_word(parameters[0]))


def _version(chain: DevChain, _parameters: Parameters) -> Json:
    return str(chain.chain_id)


def _bytes(value: object) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise TypeError(f"{value!r} is not hex that starts with 0x")
    return bytes.fromhex(value[2:])


def _address(value: object) -> bytes:
    return _sized(value, 20)


def _word(value: object) -> bytes:
    return _sized(value, 32)


def _sized(value: object, size: int) -> bytes:
    found = _bytes(value)
    if len(found) != size:
        raise ValueError(f"{value!r} has {len(found)} bytes, not {size}")
    return found


def _number(value: object, largest: int = _LARGEST_NUMBER) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f"{value!r} is not a number")
    number = value if isinstance(value, int) else int(value, 16)
    if number < 0:
        raise ValueError(f"{value!r} is below zero")
    if number > largest:
        raise ValueError(f"a number is above {largest:#x}")
    return number


def _height(chain: DevChain, parameters: Parameters) -> int:
    block = parameters[0] if parameters else "latest"
    if isinstance(block, Mapping):  # EIP-1898
        if "blockHash" not in block:
            return _number(block["blockNumber"], _LARGEST_HEIGHT)
        found = chain.block_of(_word(block["blockHash"]))
        if found is None:
            raise RpcError(_FAILED, "unknown block")
        return _number(found["number"])
    if block in _NEWEST:
        return chain.height
    return 0 if block == "earliest" else _number(block, _LARGEST_HEIGHT)


def _message(wanted: Mapping[str, Any]) -> Call:
    data = wanted.get("input") or wanted.get("data") or "0x"
    return Call(
        sender=_address(wanted["from"]) if wanted.get("from") else _NOBODY,
        to=_address(wanted["to"]) if wanted.get("to") else b"",
        data=_bytes(data),
        value=_number(wanted.get("value", 0)),
        gas=min(_number(wanted.get("gas", GAS_LIMIT)), GAS_LIMIT),
    )


def _topic_choice(topic: object) -> frozenset[str]:
    if topic is None:
        return frozenset()
    return frozenset([topic] if isinstance(topic, str) else list(topic))  # type: ignore[call-overload]  # TypeError if no list


def _with_transactions(chain: DevChain, block: Form | None, rest: Parameters) -> Json:
    if block is None or not (rest and rest[0]):
        return block
    hashes = block["transactions"]
    assert isinstance(hashes, list)
    return block | {"transactions": [chain.transaction(_bytes(item)) for item in hashes]}


_METHODS: Mapping[str, Callable[[DevChain, Parameters], Json]] = {
    "eth_accounts": _accounts,
    "eth_blockNumber": _block_number,
    "eth_call": _call,
    "eth_chainId": _chain_id,
    "eth_estimateGas": _estimate_gas,
    "eth_feeHistory": _fee_history,
    "eth_gasPrice": _gas_price,
    "eth_getBalance": _balance,
    "eth_getBlockByHash": _block_by_hash,
    "eth_getBlockByNumber": _block_by_number,
    "eth_getCode": _code,
    "eth_getLogs": _logs,
    "eth_getTransactionByHash": _transaction,
    "eth_getTransactionCount": _nonce,
    "eth_getTransactionReceipt": _receipt,
    "eth_maxPriorityFeePerGas": _tip,
    "eth_sendRawTransaction": _send,
    "eth_syncing": _syncing,
    "evm_increaseTime": _increase_time,
    "evm_mine": _mine_one,
    "anvil_mine": _mine,
    "net_version": _version,
    "web3_clientVersion": _client_version,
}


class DirectTransport:
    """The embedded chain as our client wants it: no socket, no JSON text, no web3.py."""

    def __init__(self, chain: DevChain) -> None:
        self._chain = chain

    def make_request(self, method: str, params: list[object]) -> dict[str, Any]:
        return handle(self._chain, {"id": 1, "method": method, "params": params})
