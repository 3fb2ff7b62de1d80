import asyncio
import json
from typing import Any

import httpx
import pytest

from openledger.web.app import Config
from tests.web.parts import MODEL, PIECES, RECEIPT, Connection, Server, client

CHAT = {"model": "folk/reels", "messages": [{"role": "user", "content": "A reel, please"}]}
TEXT = "".join(PIECES)


@pytest.fixture
def server() -> Server:
    return Server()


def post(server: Server, path: str, body: object, **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with client(server) as http:
            return await http.post(path, json=body, headers=headers)

    return asyncio.run(call())


def get(server: Server, path: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with client(server) as http:
            return await http.get(path)

    return asyncio.run(call())


def events(response: httpx.Response) -> list[Any]:
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines), "a stream has data lines only"
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_chat_answer_carries_its_receipt_in_header_id_and_object(server: Server) -> None:
    response = post(server, "/v1/chat/completions", CHAT)
    body = response.json()

    assert response.status_code == 200
    assert response.headers["OpenLedger-Receipt"] == RECEIPT
    assert response.headers["OpenLedger-Cost"] == "0.001"
    assert response.headers["x-request-id"].startswith("req_")
    assert body["id"] == f"chatcmpl-{RECEIPT}"
    assert body["object"] == "chat.completion"
    assert body["model"] == MODEL
    assert body["system_fingerprint"] == "fp_0123"
    assert body["choices"] == [
        {
            "index": 0,
            "logprobs": None,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": TEXT},
        }
    ]
    assert body["openledger"] == {
        "receipt": RECEIPT,
        "url": f"http://127.0.0.1:8700/v1/receipts/{RECEIPT}",
        "price": {"amount": "0.001", "currency": "OPEN"},
        "attribution": "pending",
        "settled": None,
    }


def test_usage_has_the_cost_and_who_gets_which_part_of_it(server: Server) -> None:
    usage = post(server, "/v1/chat/completions", CHAT).json()["usage"]

    assert usage["prompt_tokens_details"] == {"cached_tokens": 3}
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"] == 11
    assert usage["cost"] == 0.001
    assert usage["cost_details"] == {
        "currency": "OPEN",
        "receipt": RECEIPT,
        "platform": "0.0001",
        "data": "0.0009",
    }


def test_a_stream_without_usage_has_a_choice_in_every_chunk(server: Server) -> None:
    response = post(server, "/v1/chat/completions", CHAT | {"stream": True})
    chunks = events(response)

    assert response.headers["OpenLedger-Receipt"] == RECEIPT
    assert response.headers["content-type"].startswith("text/event-stream")
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{RECEIPT}"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert [delta["content"] for delta in deltas[1:-1]] == list(PIECES)
    assert deltas[-1] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 5
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["openledger"]["receipt"] == RECEIPT


def test_a_stream_with_usage_ends_with_a_chunk_without_choices(server: Server) -> None:
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(post(server, "/v1/chat/completions", body))

    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["cost"] == 0.001
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-2]["openledger"]["price"]["amount"] == "0.001"


def test_a_plain_completion_answers_in_its_own_style(server: Server) -> None:
    body = {"model": MODEL, "prompt": "X:1"}
    whole = post(server, "/v1/completions", body).json()
    chunks = events(post(server, "/v1/completions", body | {"stream": True}))

    assert whole["id"] == f"cmpl-{RECEIPT}"
    assert whole["object"] == chunks[0]["object"] == "text_completion"
    assert whole["choices"][0]["text"] == TEXT
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert server.started[0].request.prompt == "X:1"


def test_options_reach_the_call(server: Server) -> None:
    body = CHAT | {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 40,
        "seed": 7,
        "max_tokens": 5,
        "max_completion_tokens": 6,
        "stop": ["\n\n"],
        "openledger": {"max_cost": "0.10"},
        "messages": [
            {
                "role": "developer",
                "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief"}],
            },
            {"role": "user", "content": "Hi"},
        ],
    }
    post(server, "/v1/chat/completions", body)
    request = server.started[0].request

    assert (request.temperature, request.top_p, request.top_k, request.seed) == (0, 0.5, 40, 7)
    assert (request.max_tokens, request.stop, request.max_cost) == (6, ("\n\n",), 10**17)
    assert request.messages is not None
    assert [(one.role, one.content) for one in request.messages] == [
        ("system", "Be brief"),
        ("user", "Hi"),
    ]
    assert not request.is_streamed


@pytest.mark.parametrize("field", ["max_tokens", "top_k", "seed"])
def test_an_integer_may_be_written_with_a_point(server: Server, field: str) -> None:
    response = post(server, "/v1/chat/completions", CHAT | {field: 5.0})
    value = getattr(server.started[0].request, field)

    assert response.status_code == 200
    assert (value, type(value)) == (5, int)
    assert post(server, "/v1/chat/completions", CHAT | {field: 5.5}).status_code == 400


def test_the_header_sets_the_cap_when_the_body_does_not(server: Server) -> None:
    post(server, "/v1/chat/completions", CHAT, **{"OpenLedger-Max-Cost": "0.5"})

    assert server.started[0].request.max_cost == 5 * 10**17


def test_unknown_fields_are_ignored_with_a_warning(server: Server) -> None:
    body = post(server, "/v1/chat/completions", CHAT | {"user": "bob", "metadata": {}}).json()

    assert body["openledger"]["warnings"] == [
        "metadata is not supported and was ignored",
        "user is not supported and was ignored",
    ]


def test_a_null_option_is_as_good_as_none(server: Server) -> None:
    nothing = dict.fromkeys(("temperature", "stop", "tools", "n", "stream", "seed"))

    assert post(server, "/v1/chat/completions", CHAT | nothing).status_code == 200
    assert server.started[0].request.temperature == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"openledger": {"colour": "green"}}, "openledger"),
    ],
)
def test_a_wrong_field_is_a_400_that_names_it(
    server: Server, change: dict[str, object], param: str
) -> None:
    response = post(server, "/v1/chat/completions", CHAT | change)
    error = response.json()["error"]

    assert response.status_code == 400
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_input")
    assert error["param"] == param
    assert server.started == []


def mixed(*members: object, model: str = "mix") -> dict[str, object]:
    return {"model": model, "openledger": {"mix": list(members)}}


ONE = {"model": MODEL}


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ({"model": f"mix:{MODEL}*0.7+folk/reels*0.3"}, f"mix:{MODEL}*0.7+folk/reels*0.3"),
        (
            mixed(ONE | {"weight": 0.7}, {"model": "folk/reels", "weight": 3e-1}),
            f"mix:{MODEL}*0.7+folk/reels*0.3",
        ),
        (mixed(ONE | {"weight": "-0.000000001"}, ONE), f"mix:{MODEL}*-0.000000001+{MODEL}*1"),
        (mixed(ONE), MODEL),
        # A difference is weighed unevenly, by as little as one likes.
        (mixed(ONE, ONE | {"weight": "-0.999999999"}), f"mix:{MODEL}*1+{MODEL}*-0.999999999"),
        ({"model": MODEL, "openledger": {"mix": None}}, MODEL),
    ],
)
def test_a_mix_is_one_name_however_it_is_asked_for(
    server: Server, asked: dict[str, object], model: str
) -> None:
    response = post(server, "/v1/chat/completions", CHAT | asked)

    assert response.status_code == 200, response.text
    assert [one.request.model for one in server.started] == [model]


@pytest.mark.parametrize(
    ("asked", "param", "reason"),
    [
        ({"model": "mix"}, "model", "a mix, but of what"),
        (mixed(ONE, model=MODEL), "model", "contradicts openledger.mix"),
        (mixed(ONE, model=f"mix:{MODEL}"), "model", "contradicts openledger.mix"),
        (mixed(), "openledger", "not 0"),
        (mixed(ONE | {"weight": 0}), "openledger", "not 0"),
        (mixed(ONE | {"weight": 0}, ONE | {"weight": -0.0}), "openledger", "not 0"),
        (mixed(ONE, ONE | {"weight": -1}), "openledger", "sum to 0"),
        ({"model": f"mix:{MODEL}+folk/reels*-1"}, None, "sum to 0"),
        (
            mixed(ONE | {"weight": 0.1}, ONE | {"weight": 0.2}, ONE | {"weight": "-0.3"}),
            "openledger",
            "sum to 0",
        ),
        (mixed(ONE | {"weight": 0.1 + 0.2}), "openledger", "at most 9 decimals"),
        (mixed(ONE | {"weight": 1e300}), "openledger", "between -10 and 10"),
        (mixed(ONE | {"weight": "nan"}), "openledger", "no finite number"),
        (mixed(ONE | {"weight": True}), "openledger", "decimal"),
        (mixed({"model": "mix:folk/reels"}), "openledger", "not a model name"),
        (mixed({"weight": 1}), "openledger", "model"),
        (mixed(ONE | {"name": 1}), "openledger", "name"),
    ],
)
def test_a_mix_that_is_none_is_a_400_that_says_why(
    server: Server, asked: dict[str, object], param: str | None, reason: str
) -> None:
    response = post(server, "/v1/chat/completions", CHAT | asked)
    error = response.json()["error"]

    assert response.status_code == 400
    assert (error["param"], reason in error["message"]) == (param, True), error
    assert server.started == []


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "1e999", "-1e999"])
def test_a_weight_that_json_does_not_know_is_a_400(server: Server, weight: str) -> None:
    body = json.dumps(CHAT | mixed(ONE | {"weight": "W"})).replace('"W"', weight)

    async def call() -> httpx.Response:
        async with client(server) as http:
            return await http.post("/v1/chat/completions", content=body)

    assert asyncio.run(call()).status_code == 400
    assert server.started == []


def test_an_unknown_member_is_a_404_with_the_nearest_name(server: Server) -> None:
    asked = mixed(ONE, {"model": "folk/reel"})
    response = post(server, "/v1/chat/completions", CHAT | asked)

    assert response.status_code == 404
    assert MODEL in response.json()["error"]["message"]


@pytest.mark.parametrize("prompt", ["", [], ["a", "b"], [""]])
def test_a_completion_takes_one_prompt(server: Server, prompt: object) -> None:
    response = post(server, "/v1/completions", {"model": MODEL, "prompt": prompt})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


def test_a_missing_model_and_broken_json_are_400(server: Server) -> None:
    missing = post(server, "/v1/chat/completions", {"messages": CHAT["messages"]})
    broken = post(server, "/v1/chat/completions", "no object")

    assert missing.status_code == broken.status_code == 400
    assert missing.json()["error"]["param"] == "model"


@pytest.mark.parametrize("max_tokens", [0, -3])
def test_max_tokens_below_one_is_a_400(server: Server, max_tokens: int) -> None:
    response = post(server, "/v1/chat/completions", CHAT | {"max_tokens": max_tokens})

    assert response.status_code == 400


@pytest.mark.parametrize("max_cost", ["ten", "-1", "1e400", "0.0000000000000000001", "NaN", ""])
def test_a_cap_that_is_no_amount_is_a_400(server: Server, max_cost: str) -> None:
    body = CHAT | {"openledger": {"max_cost": max_cost}}

    assert post(server, "/v1/chat/completions", body).status_code == 400


def test_a_cap_that_is_too_low_is_a_402(server: Server) -> None:
    response = post(server, "/v1/chat/completions", CHAT | {"openledger": {"max_cost": "0"}})

    assert response.status_code == 402
    assert response.json()["error"]["code"] == "insufficient_balance"


def test_an_unknown_model_is_a_404_with_the_nearest_name(server: Server) -> None:
    called = post(server, "/v1/chat/completions", CHAT | {"model": "folk/reel"})
    shown = get(server, "/v1/models/folk/reel@2")

    assert called.status_code == shown.status_code == 404
    assert MODEL in called.json()["error"]["message"]
    assert called.json()["error"]["param"] == "model"
    assert called.json()["error"]["code"] == "model_not_found"  # LiteLLM goes by it


def test_models_are_listed_and_shown_by_a_name_with_slashes(server: Server) -> None:
    listed = get(server, "/v1/models").json()
    shown = get(server, f"/v1/models/{MODEL}").json()

    assert listed == {"object": "list", "data": [shown]}
    assert (shown["id"], shown["object"], shown["owned_by"]) == (MODEL, "model", "folk")
    assert (shown["parent"], shown["root"], shown["context_length"]) == ("SmolLM2", MODEL, 2_048)
    assert shown["pricing"] == {
        "prompt": "0.000001",
        "completion": "0.000005",
        "request": "0.00001",
        "currency": "OPEN",
    }


def test_the_responses_route_names_the_one_that_works(server: Server) -> None:
    response = post(server, "/v1/responses", {})

    assert response.status_code == 404
    assert "/v1/chat/completions" in response.json()["error"]["message"]


def test_a_fault_is_a_500_and_in_a_stream_an_error_line(server: Server) -> None:
    server.breaks = True
    whole = post(server, "/v1/chat/completions", CHAT)
    stream = post(server, "/v1/chat/completions", CHAT | {"stream": True})
    lines = stream.text.strip().split("\n\n")

    assert whole.status_code == 500
    assert whole.json()["error"]["code"] == "engine_fault"
    assert stream.status_code == 200
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    assert all(inference.is_cancelled.is_set() for inference in server.started)


def test_a_caller_who_hangs_up_before_all_is_asked_is_no_fault_of_ours(server: Server) -> None:
    connection = Connection(CHAT, is_cut=True)
    connection.hang_up.set()
    asyncio.run(connection.run(server))

    assert server.started == []
    assert [message.get("status") for message in connection.sent][:1] == [499]


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_caller_who_hangs_up_stops_the_answer(server: Server, is_streamed: bool) -> None:
    async def story() -> None:
        server.gate.clear()
        connection = Connection(CHAT | {"stream": is_streamed})
        call = asyncio.create_task(connection.run(server))
        await asyncio.to_thread(server.begun.wait, 5)
        connection.hang_up.set()
        await asyncio.wait_for(call, 5)

    asyncio.run(story())

    assert server.started[0].is_cancelled.is_set()
    assert server.started[0].taken == []


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_stream_that_cannot_be_sent_is_cancelled(server: Server, fails_at: int) -> None:
    async def story() -> None:
        connection = Connection(CHAT | {"stream": True}, fails_at)
        with pytest.raises(OSError, match="gone"):
            await asyncio.wait_for(connection.run(server), 5)

    asyncio.run(story())

    assert server.started[0].is_cancelled.is_set()
    # Of what is sent, the first is the head, the second the opening: no piece of the answer.
    assert server.started[0].handed == max(0, fails_at - 3)


def test_who_takes_no_more_of_a_stream_is_dropped_in_time(server: Server) -> None:
    connection = Connection(CHAT | {"stream": True}, stuck_at=4)
    asyncio.run(asyncio.wait_for(connection.run(server, Config(slow_reader_s=0.05)), 5))

    assert server.started[0].handed == 1  # after the head and the opening


def test_an_answer_that_was_read_to_its_end_is_not_cancelled(server: Server) -> None:
    post(server, "/v1/chat/completions", CHAT)
    post(server, "/v1/chat/completions", CHAT | {"stream": True})

    assert not any(inference.is_cancelled.is_set() for inference in server.started)
