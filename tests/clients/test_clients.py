"""What others' clients get from a running server is what plain HTTP gets."""

import time
from typing import Any

import httpx
import pytest

from tests.clients.conftest import Client
from tests.clients.drivers.lines import QUESTION
from tests.served import Served, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REELS, JIGS = "openledger/reels@1", "openledger/jigs@1"
MIX = f"mix:{REELS}*0.7+{JIGS}*0.3"
MEMBERS = [{"model": REELS, "weight": 0.7}, {"model": JIGS, "weight": 0.3}]
TOKENS = 12
LONG = 200


def plainly(served: Served, model: str) -> httpx.Response:
    """The call that every client makes, without one."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    headers = {"Authorization": f"Bearer {served.key}"}
    return httpx.post(f"{served.url}/chat/completions", json=body, headers=headers, timeout=60)


def expected(served: Served, model: str) -> dict[str, Any]:
    """What a client should tell of an answer, but for its id, which is another each time."""
    answer = plainly(served, model).json()
    choice, usage = answer["choices"][0], answer["usage"]
    return {
        "text": choice["message"]["content"],
        "finish": choice["finish_reason"],
        "model": answer["model"],
        "usage": [usage[f"{kind}_tokens"] for kind in ("prompt", "completion", "total")],
    }


def billed(served: Served, answer: dict[str, Any]) -> int:
    """Tokens on the receipt that the answer's id names."""
    url = f"{served.url}/receipts/{answer['id']}"
    wait_until(lambda: httpx.get(url).json()["call"] is not None)
    return int(httpx.get(url).json()["call"]["body"]["output_tokens"])


@pytest.mark.parametrize("model", [REELS, JIGS, MIX])
def test_a_whole_answer(client: Client, served: Served, model: str) -> None:
    answer = client.ask("whole", model, max_tokens=TOKENS)

    assert billed(served, answer) == TOKENS
    assert answer | {"id": ""} == expected(served, model) | {"id": ""}


@pytest.mark.parametrize("has_usage", [True, False])
def test_a_stream(client: Client, served: Served, has_usage: bool) -> None:
    answer = client.ask("streamed", REELS, max_tokens=TOKENS, has_usage=has_usage)
    wanted = expected(served, REELS)

    assert billed(served, answer) == TOKENS
    if not has_usage:
        wanted["usage"] = None
    assert answer | {"id": ""} == wanted | {"id": ""}


def test_a_mix_as_a_list(client: Client, served: Served) -> None:
    answer = client.ask("whole", "mix", max_tokens=TOKENS, extra={"openledger": {"mix": MEMBERS}})

    assert answer | {"id": ""} == expected(served, MIX) | {"id": ""}


def test_a_wrong_key(client: Client) -> None:
    answer = client.ask("whole", REELS, key="sk-ol-revoked")

    assert answer["status"] == 401
    assert "AuthenticationError" in answer["errors"]
    assert "this API key is unknown" in answer["message"]


@pytest.mark.parametrize("model", ["openledger/reel", f"mix:{REELS}*0.7+openledger/reel*0.3"])
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_an_unknown_model_names_the_nearest(client: Client, way: str, model: str) -> None:
    answer = client.ask(way, model)

    assert answer["status"] == 404
    assert "NotFoundError" in answer["errors"]
    assert f"did you mean {REELS}" in answer["message"]


def test_a_full_server_says_when_to_come_again(client: Client, served: Served) -> None:
    with served.full():
        refused = plainly(served, REELS)
        answer = client.ask("whole", REELS)

    assert refused.status_code == 429
    assert answer["status"] == 429
    assert "RateLimitError" in answer["errors"]
    assert answer["retry_after"] == refused.headers["Retry-After"]


def test_a_client_comes_again_when_it_was_told(client: Client, served: Served) -> None:
    before = served.engine.stats().rejected
    with served.full():
        told_s = float(plainly(served, REELS).headers["Retry-After"])
        client.start("whole", REELS, max_tokens=TOKENS, retries=3)
        wait_until(lambda: served.engine.stats().rejected == before + 2)
        refused_at = time.monotonic()
    answer = client.answer()

    assert time.monotonic() - refused_at > 0.7 * told_s  # of itself it would wait half a second
    assert answer | {"id": ""} == expected(served, REELS) | {"id": ""}


def test_who_drops_a_stream_pays_for_what_was_sent(client: Client, served: Served) -> None:
    cancelled = served.engine.stats().finished["cancelled"]
    with served.held(5):  # the prompt, and four tokens after the first
        answer = client.ask("dropped", REELS, max_tokens=LONG)
        tokens = billed(served, answer)
    wait_until(lambda: served.engine.stats().finished["cancelled"] == cancelled + 1)

    assert answer["text"]
    assert 1 <= tokens <= 5
