"""What /v1 says of itself; that it is true of every answer is for tests/clients to find out."""

import asyncio

import httpx
import msgspec
import pytest

from openledger.web.app import Config, create_app
from openledger.web.description import describe
from tests.web.parts import MODEL, Server, client

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def call(server: Server, method: str, path: str, body: object = None) -> httpx.Response:
    async def run() -> httpx.Response:
        async with client(server) as http:
            return await http.request(method, path, json=body)

    return asyncio.run(run())


def test_every_route_of_v1_is_described_and_no_other() -> None:
    parts = msgspec.structs.replace(Server().parts(), evidence=lambda _: msgspec.Raw(b"{}"))
    routes = create_app(parts, Config()).openapi()["paths"]  # bare, as the framework sees them
    there = {(way, path) for path in routes for way in routes[path] if path.startswith("/v1/")}
    said = {(method, path) for path, ways in describe()["paths"].items() for method in ways}

    assert said == there


def test_the_description_can_be_fetched_without_a_key() -> None:
    async def run() -> httpx.Response:
        async with client(Server()) as http:
            del http.headers["Authorization"]
            return await http.get("/openapi.json")

    assert asyncio.run(run()).json() == describe()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", 0),  # JSON's false is not 0, nor its true 1
        ("n", True),
        ("top_logprobs", False),
        ("repetition_penalty", 1e308),  # a thousand times this is no number
        ("repetition_penalty", 0),
        ("seed", 2**63),
        ("top_k", 2**31),
        ("temperature", 2.1),
        ("presence_penalty", -2.1),
    ],
)
def test_what_the_description_rules_out_is_refused_by_name(field: str, value: object) -> None:
    answer = call(Server(), "POST", "/v1/chat/completions", CHAT | {field: value})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(("path", "allowed"), [("/v1/models", "GET"), ("/v1/completions", "POST")])
def test_an_unknown_method_is_told_the_known_ones(path: str, allowed: str) -> None:
    answer = call(Server(), "DELETE", path)

    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)
