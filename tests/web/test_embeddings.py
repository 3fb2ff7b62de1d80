import asyncio
from base64 import b64decode
from typing import Any

import httpx
import numpy as np
import pytest

from openledger.web.wire.embeddings import MOST_INPUTS
from tests.web.parts import EMBEDDER, Connection, Server, client

PATH = "/v1/embeddings"


@pytest.fixture
def server() -> Server:
    return Server()


def post(server: Server, body: object, **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with client(server) as http:
            return await http.post(PATH, json=body, headers=headers)

    return asyncio.run(call())


def test_the_answer_is_openais(server: Server) -> None:
    response = post(server, {"model": EMBEDDER, "input": ["ab", "c"]})
    tenth = float(np.float32(0.1))

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [tenth, 2, 0]},
            {"object": "embedding", "index": 1, "embedding": [tenth, 1, 1]},
        ],
        "model": EMBEDDER,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert server.embeddings.started[-1].is_cancelled.is_set()  # so that nothing stays behind


def test_base64_is_float32_lowest_byte_first(server: Server) -> None:
    body = {"model": EMBEDDER, "input": "ab", "encoding_format": "base64"}
    raw = post(server, body).json()["data"][0]["embedding"]

    assert b64decode(raw) == np.array([0.1, 2, 0], "<f4").tobytes()


def test_a_whole_number_is_a_token_however_it_is_written(server: Server) -> None:
    whole = post(server, {"model": EMBEDDER, "input": [1, 2], "dimensions": 2})
    written = post(server, {"model": EMBEDDER, "input": [1.0, 2], "dimensions": 2.0})

    assert written.status_code == 200
    assert written.json() == whole.json()


def test_what_is_ignored_is_said(server: Server) -> None:
    body = {"model": EMBEDDER, "input": "ab", "user": "anna", "truncate": True}
    answer = post(server, body).json()

    assert [one.split()[0] for one in answer["openledger"]["warnings"]] == ["truncate", "user"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [1, [1]]}, "input"),
        ({"input": [1.5]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a"] * (MOST_INPUTS + 1)}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "3"}, "dimensions"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"model": 3}, "model"),
    ],
)
def test_a_wrong_field_is_named(server: Server, changes: dict[str, Any], param: str) -> None:
    response = post(server, {"model": EMBEDDER, "input": "a"} | changes)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert not server.embeddings.started


def test_an_unknown_model_is_never_another(server: Server) -> None:
    response = post(server, {"model": "smollm2-embed", "input": "a"})

    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


def test_a_broken_engine_is_a_server_error(server: Server) -> None:
    server.breaks = True
    response = post(server, {"model": EMBEDDER, "input": "a"})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "engine_fault"


def test_a_key_is_needed(server: Server) -> None:
    response = post(server, {"model": EMBEDDER, "input": "a"}, Authorization="Bearer sk-ol-wrong")

    assert response.status_code == 401
    assert not server.embeddings.started


def test_a_server_without_embeddings_has_no_such_route(server: Server) -> None:
    async def call() -> httpx.Response:
        async with client(server, embeddings=None) as http:
            return await http.post(PATH, json={"model": EMBEDDER, "input": "a"})

    assert asyncio.run(call()).status_code == 404


def test_a_caller_who_hangs_up_stops_the_work(server: Server) -> None:
    async def story() -> None:
        server.gate.clear()
        connection = Connection({"model": EMBEDDER, "input": "a"}, path=PATH)
        call = asyncio.create_task(connection.run(server))
        await asyncio.to_thread(server.begun.wait, 5)
        connection.hang_up.set()
        await asyncio.wait_for(call, 5)

    asyncio.run(story())

    assert server.embeddings.started[0].is_cancelled.is_set()
