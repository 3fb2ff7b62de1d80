import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from openledger.core.errors import ConflictError, EngineFullError
from openledger.core.ids import receipt_id
from openledger.flows.money.infer.meter import Answered
from openledger.web.app import Config, create_app
from openledger.web.errors import RateLimitedError
from openledger.web.inference import InferenceRequest, Payer
from openledger.web.metrics import exposition
from openledger.web.platform_api import AskedEvidence
from tests.fakes import FakeEngine
from tests.web.parts import ALICE, AUTHORIZED, MODEL, RECEIPT, Server, client

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def server() -> Server:
    return Server()


def call(http: httpx.AsyncClient, method: str, path: str, **options: object) -> httpx.Response:
    async def run() -> httpx.Response:
        async with http:
            return await http.request(method, path, **options)  # type: ignore[arg-type]  # per test

    return asyncio.run(run())


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Basic abc", "Bearer sk-ol-revoked"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/models"),
        ("GET", f"/v1/models/{MODEL}"),
        ("GET", "/v1/balance"),
    ],
)
def test_without_a_good_key_it_is_a_401(
    server: Server, method: str, path: str, authorization: str
) -> None:
    http = client(server)
    response = call(http, method, path, json=CHAT, headers={"Authorization": authorization})

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"
    assert server.started == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8700", "127.0.0.1.evil.example", ""]
)
def test_a_foreign_host_name_is_refused(server: Server, host: str) -> None:
    response = call(client(server), "GET", "/v1/models", headers={"Host": host})

    assert response.status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8700", "[::1]:8700"])
def test_loopback_names_are_answered(server: Server, host: str) -> None:
    assert call(client(server), "GET", "/healthz", headers={"Host": host}).status_code == 200


def test_an_oversized_body_is_a_413_stated_or_not(server: Server) -> None:
    async def unstated() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10

    config = Config(max_body_bytes=100)
    path = "/v1/chat/completions"
    stated = call(client(server, config), "POST", path, content=b"x" * 101)
    streamed = call(client(server, config), "POST", path, content=unstated())

    for response in (stated, streamed):
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "too_large"
        assert "100 bytes" in response.json()["error"]["message"]


def test_the_pace_can_refuse_with_a_time_to_wait(server: Server) -> None:
    def pace(payer: Payer) -> None:
        raise RateLimitedError("60 calls a minute are the limit", retry_after_s="7")

    response = call(client(server, pace=pace), "POST", "/v1/chat/completions", json=CHAT)

    assert response.status_code == 429
    assert response.headers["Retry-After"] == "7"
    assert response.json()["error"]["type"] == "rate_limit_error"


class Refusing:
    """Inferences that are refused."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def start(self, request: InferenceRequest) -> object:
        raise self.error


def test_a_full_engine_is_a_429_and_a_conflict_is_not_retried(server: Server) -> None:
    full = Refusing(EngineFullError("the engine is full", retry_after_s="2"))
    clash = Refusing(ConflictError("this key was used for another body"))
    path = "/v1/chat/completions"
    busy = call(client(server, inferences=full), "POST", path, json=CHAT)
    conflict = call(client(server, inferences=clash), "POST", path, json=CHAT)

    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "2")
    assert busy.json()["error"]["type"] == "rate_limit_error"
    assert (conflict.status_code, conflict.headers["x-should-retry"]) == (409, "false")


def test_a_bug_is_a_500_that_tells_nothing_of_the_inside(server: Server) -> None:
    broken = Refusing(RuntimeError("secret path /home/alice"))
    response = call(client(server, inferences=broken), "POST", "/v1/chat/completions", json=CHAT)

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "failed"
    assert "alice" not in response.text


def test_unknown_paths_and_methods_have_the_same_shape(server: Server) -> None:
    unknown = call(client(server), "GET", "/v1/nothing")
    method = call(client(server), "GET", "/v1/chat/completions")

    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method_not_allowed")


def test_health_and_readiness(server: Server) -> None:
    assert call(client(server), "GET", "/healthz").json() == {"status": "ok"}
    assert call(client(server), "GET", "/readyz").json() == {"status": "ready"}
    server.reason = "the chain does not answer"
    response = call(client(server), "GET", "/readyz")

    assert response.status_code == 503
    assert "the chain does not answer" in response.json()["error"]["message"]


def test_metrics_are_prometheus_text(server: Server) -> None:
    text = call(client(server), "GET", "/metrics").text

    assert "# TYPE openledger_engine_waiting gauge\nopenledger_engine_waiting 0.0" in text
    assert "openledger_engine_prefill_seconds_total 0.0" in text
    assert 'openledger_engine_finished_total{finish="stop"} 0.0' in text
    assert "openledger_engine_kv_blocks_used 0.0" in text


def test_steps_are_counted_by_rows_in_order() -> None:
    stats = msgspec.structs.replace(FakeEngine().stats(), batches={32: 1, 4: 2})
    text = exposition(stats, {}).decode()
    lines = [line for line in text.splitlines() if "batches_total{" in line]

    assert lines == [
        'openledger_engine_batches_total{rows="4"} 2.0',
        'openledger_engine_batches_total{rows="32"} 1.0',
    ]


def test_answers_are_counted_by_release_in_order() -> None:
    answered = {"me/tunes@2": Answered(3, 1, 50, 70), "me/airs@1": Answered(1, 1, 20, 30)}
    text = exposition(FakeEngine().stats(), answered).decode()
    lines = [line for line in text.splitlines() if "_release_" in line and "#" not in line]

    assert lines == [
        'openledger_release_answers_total{release="me/airs@1"} 1.0',
        'openledger_release_answers_total{release="me/tunes@2"} 3.0',
        'openledger_release_mixed_answers_total{release="me/airs@1"} 1.0',
        'openledger_release_mixed_answers_total{release="me/tunes@2"} 1.0',
        'openledger_release_input_tokens_total{release="me/airs@1"} 20.0',
        'openledger_release_input_tokens_total{release="me/tunes@2"} 50.0',
        'openledger_release_output_tokens_total{release="me/airs@1"} 30.0',
        'openledger_release_output_tokens_total{release="me/tunes@2"} 70.0',
    ]


def test_rpc_passes_json_through(server: Server) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":[]}'
    response = call(
        client(server),
        "POST",
        "/rpc",
        content=body,
        headers={"Content-Type": "application/json; charset=utf-8"},
    )

    assert response.json()["result"] == "0x1"
    assert server.rpc_calls == [body]


def test_rpc_refuses_what_a_foreign_page_could_post(server: Server) -> None:
    response = call(
        client(server), "POST", "/rpc", content=b"{}", headers={"Content-Type": "text/plain"}
    )

    assert response.status_code == 415
    assert server.rpc_calls == []


def test_rpc_is_for_this_machine_and_for_an_embedded_chain_only(server: Server) -> None:
    absent = call(client(server, rpc=None), "POST", "/rpc", json={})
    for address in ("203.0.113.9", "testclient"):
        transport = httpx.ASGITransport(create_app(server.parts(), Config()), client=(address, 5))
        http = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        assert call(http, "POST", "/rpc", json={}).status_code == 403

    assert absent.status_code == 404
    assert server.rpc_calls == []


def test_a_receipt_is_found_by_either_id_and_pending_until_complete(server: Server) -> None:
    for name in (RECEIPT, f"chatcmpl-{RECEIPT}", f"cmpl-{RECEIPT}"):
        response = call(client(server), "GET", f"/v1/receipts/{name}")
        assert (response.status_code, response.json()) == (202, {"fee": "1"})
    mistyped = call(client(server), "GET", "/v1/receipts/rcp_nonsense")
    unknown = call(client(server), "GET", "/v1/receipts/" + receipt_id(bytes(16)))

    assert mistyped.status_code == 400
    assert unknown.status_code == 404


def test_a_complete_receipt_is_a_200(server: Server) -> None:
    view = server.receipt(RECEIPT)

    class Complete(Server):
        def receipt(self, receipt: object) -> object:  # type: ignore[override]  # a fixed answer
            return msgspec.structs.replace(view, is_complete=True)

    response = call(client(server, books=Complete()), "GET", f"/v1/receipts/{RECEIPT}")

    assert response.status_code == 200


def test_evidence_is_for_whoever_holds_a_key(server: Server) -> None:
    asked = []

    def evidence(asked_for: AskedEvidence) -> msgspec.Raw:
        asked.append(asked_for)
        return msgspec.Raw(b'{"verdict":"so"}')

    path = f"/v1/receipts/chatcmpl-{RECEIPT}/evidence"
    found = call(client(server, evidence=evidence), "GET", path, headers=AUTHORIZED)
    of_one = f"{path}?release={MODEL}"
    call(client(server, evidence=evidence), "GET", of_one, headers=AUTHORIZED)
    nobody = client(server, evidence=evidence)
    keyless = call(nobody, "GET", path, headers={"Authorization": ""})

    assert keyless.status_code == 401
    assert found.json() == {"verdict": "so"}
    assert asked == [AskedEvidence(RECEIPT, ALICE, None), AskedEvidence(RECEIPT, ALICE, MODEL)]


def test_a_balance_is_in_whole_wei_as_text(server: Server) -> None:
    assert call(client(server), "GET", "/v1/balance", headers=AUTHORIZED).json() == {
        "account": ALICE,
        "deposited": "10000000000000000000",
        "spent": "1",
        "held": "2",
        "free": "9999999999999999997",
        "currency": "OPEN",
    }
