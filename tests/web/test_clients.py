"""The official client against a real server on loopback."""

import socket
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from typing import Literal

import numpy as np
import openai
import pytest
import uvicorn
from openai.types.chat import (
    ChatCompletionStreamOptionsParam,
    ChatCompletionUserMessageParam,
)

from openledger.web.app import Config, create_app
from tests.web.parts import EMBEDDER, KEY, MODEL, PIECES, RECEIPT, Server

ASK = [ChatCompletionUserMessageParam(role="user", content="A reel, please")]


@pytest.fixture(scope="module")
def server() -> Server:
    return Server()


@pytest.fixture(scope="module")
def address(server: Server) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(server.parts(), Config()), log_level="warning")
    http = uvicorn.Server(config)
    thread = threading.Thread(target=http.run, args=[[listener]])
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    http.should_exit = True
    thread.join(10)
    listener.close()


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0) as client:
        yield client


def test_a_chat_completion(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK)
    answer = raw.parse()

    assert raw.headers["OpenLedger-Receipt"] == RECEIPT
    assert answer.id == f"chatcmpl-{RECEIPT}"
    assert answer.choices[0].message.content == "".join(PIECES)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.cost == 0.001  # type: ignore[attr-defined]  # ours
    assert answer.openledger["receipt"] == RECEIPT  # type: ignore[attr-defined]  # ours
    assert answer._request_id is not None


@pytest.mark.parametrize("includes_usage", [True, False])
def test_a_stream(client: openai.OpenAI, includes_usage: bool) -> None:
    options = ChatCompletionStreamOptionsParam(include_usage=includes_usage)
    stream = client.chat.completions.create(
        model=MODEL, messages=ASK, stream=True, stream_options=options
    )
    receipt = stream.response.headers["OpenLedger-Receipt"]
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    assert receipt == RECEIPT
    assert text == "".join(PIECES)
    assert (chunks[-1].usage is not None) == includes_usage
    assert sum(not chunk.choices for chunk in chunks) == includes_usage


def test_a_plain_completion_and_the_models(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="X:1")

    assert answer.choices[0].text == "".join(PIECES)
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "folk"


def test_a_mix_in_its_name_and_in_the_extra_body(server: Server, client: openai.OpenAI) -> None:
    members = [{"model": MODEL, "weight": 0.7}, {"model": "folk/reels", "weight": 0.3}]
    client.chat.completions.create(model=f"mix:{MODEL}*0.7+folk/reels*0.3", messages=ASK)
    client.chat.completions.create(
        model="mix", messages=ASK, extra_body={"openledger": {"mix": members}}
    )
    named, listed = (one.request.model for one in server.started[-2:])

    assert named == listed
    with pytest.raises(openai.NotFoundError, match="did you mean"):
        client.chat.completions.create(model=f"mix:{MODEL}+folk/reel*0.3", messages=ASK)


def test_errors_become_the_clients_own(client: openai.OpenAI, address: str) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("folk/nothing")
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        client.chat.completions.create(
            model=MODEL,
            messages=ASK,
            tools=[{"type": "function", "function": {"name": "f"}}],
        )
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=ASK,
            extra_body={"openledger": {"max_cost": "0"}},
        )
    assert caught.value.status_code == 402
    with (
        openai.OpenAI(base_url=address, api_key="sk-ol-revoked", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_vectors(client: openai.OpenAI, encoding: Literal["float", "base64"] | None) -> None:
    given = openai.omit if encoding is None else encoding
    found = client.embeddings.create(model=EMBEDDER, input=["ab", "c"], encoding_format=given)
    rows = [one.embedding for one in found.data]
    if encoding == "base64":  # then the client hands on what came
        rows = [np.frombuffer(b64decode(str(row)), "<f4").tolist() for row in rows]

    assert (found.object, found.model) == ("list", EMBEDDER)
    assert [(one.index, one.object) for one in found.data] == [(0, "embedding"), (1, "embedding")]
    assert rows == [[float(np.float32(0.1)), 2.0, 0.0], [float(np.float32(0.1)), 1.0, 1.0]]
    assert (found.usage.prompt_tokens, found.usage.total_tokens) == (3, 3)


def test_vectors_of_a_text_of_tokens_and_of_lists_of_them(
    server: Server, client: openai.OpenAI
) -> None:
    for given in ("ab", [1, 2, 3], [[1], [2, 3]]):
        client.embeddings.create(model=EMBEDDER, input=given, dimensions=2, user="anna")

    assert [one.call.inputs for one in server.embeddings.started[-3:]] == [
        ("ab",), ((1, 2, 3),), ((1,), (2, 3)),
    ]  # fmt: skip
    with pytest.raises(openai.NotFoundError, match="did you mean SmolLM2"):
        client.embeddings.create(model="SmolLM3", input="ab")
    with pytest.raises(openai.BadRequestError, match="holds 0 texts"):
        client.embeddings.create(model=EMBEDDER, input=[])


def test_closing_a_stream_stops_the_answer(server: Server, client: openai.OpenAI) -> None:
    server.gate.clear()
    stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
    inference = server.started[-1]
    stream.close()
    stopped = inference.is_cancelled.wait(5)
    server.gate.set()

    assert stopped


def test_many_streams_at_once(server: Server, client: openai.OpenAI) -> None:
    answers: list[str] = []

    def ask() -> None:
        stream = client.chat.completions.create(model=MODEL, messages=ASK, stream=True)
        answers.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    started = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert answers == ["".join(PIECES)] * 20
    assert time.monotonic() - started < 20
