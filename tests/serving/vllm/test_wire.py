import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import EngineFaultError
from openledger.serving.request import Finish, Sampling, Token
from openledger.serving.vllm.wire import AnswerReader, completion, salt, told
from tests.serving.conformance import ask

VOCABULARY = 50
STOP = 9


def reader(max_tokens: int = 3) -> AnswerReader:
    request = ask((5, 6, 7), max_tokens=max_tokens, stop_ids=frozenset({STOP}))
    return AnswerReader(request, "base", max_tokens, VOCABULARY)


def event(
    ids: list[Any], finish: object = None, logprobs: list[Any] | None = None, **more: object
) -> bytes:
    """One piece of an answer; `more` are fields of the choice."""
    found = [-0.5] * len(ids) if logprobs is None else logprobs
    choice = {"index": 0, "token_ids": ids, "logprobs": {"token_logprobs": found}}
    choice |= {"text": "?", "finish_reason": finish, **more}
    return json.dumps({"model": "base", "choices": [choice]}).encode()


def usage(prompt: object, cached: object = None) -> bytes:
    details = {"cached_tokens": cached}
    told = {"prompt_tokens": prompt, "prompt_tokens_details": details}
    return json.dumps({"model": "base", "choices": [], "usage": told}).encode()


def test_an_answer_is_read_to_its_length() -> None:
    answer = reader()
    first = answer.read(event([1, 2], prompt_token_ids=[5, 6, 7]))
    assert [answer.finish] == [None]
    last = answer.read(event([3], "length"))
    rest = answer.read(usage(3, 2))

    assert [*first, *last, *rest] == [Token(1, -0.5), Token(2, -0.5), Token(3, -0.5)]
    assert answer.finish is Finish.LENGTH
    assert answer.cached_tokens == 2


def test_the_stopping_token_is_no_part_of_an_answer() -> None:
    answer = reader()

    assert answer.read(event([1, STOP], "stop")) == [Token(1, -0.5)]
    assert answer.finish is Finish.STOP


def test_a_log_probability_rounded_above_zero_is_zero() -> None:
    assert reader().read(event([1], logprobs=[1e-6])) == [Token(1, 0.0)]


WRONG = {
    "no JSON": b"{",
    "no record": b"[]",
    "deep": b'{"model": "base", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "bad encoding": b'{"model": "\xff"}',
    "no model": b'{"choices": []}',
    "other model": event([1]).replace(b'"base"', b'"other"'),
    "ids of another type": event(["1"]),
    "ids that are truths": event([True]),
    "fractions": event([1.5]),
    "outside the vocabulary": event([VOCABULARY]),
    "below zero": event([-1]),
    "more than fit a number": event([10**30]),
    "no log-probability": event([1], logprobs=[]),
    "too many of them": event([1], logprobs=[-1.0, -1.0]),
    "null": event([1], logprobs=[None]),
    "NaN": event([1], logprobs=[math.nan]),
    "infinite": event([1], logprobs=[-math.inf]),
    "out of range": event([1]).replace(b"-0.5", b"-1e999"),
    "above zero": event([1], logprobs=[0.5]),
    "more than asked for": event([1, 2, 3, 4]),
    "too short": event([1], "length"),
    "a stop at nothing": event([1], "stop"),
    "a stop in the middle": event([STOP, 1], "stop"),
    "beyond the stop": event([STOP, 1]),
    "a length at a stop": event([1, 2, STOP], "length"),
    "an end unheard of": event([1], "abort"),
    "another prompt": event([1], prompt_token_ids=[5, 6]),
    "another's answer": event([1], index=1),
    "two answers": json.dumps(
        {"model": "base", "choices": [json.loads(event([1]))["choices"][0]] * 2}
    ).encode(),
    "an error": b'{"error": {"message": "out of memory", "code": 500}}',
    "another prompt's usage": usage(4),
    "more cached than asked": usage(3, 4),
    "a usage below zero": usage(-3),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_honest_server_sends_is_refused(name: str) -> None:
    with pytest.raises(EngineFaultError, match="costs nothing"):
        reader().read(WRONG[name])


def test_nothing_may_follow_the_end() -> None:
    answer = reader()
    answer.read(event([STOP], "stop"))

    with pytest.raises(EngineFaultError, match="after the end"):
        answer.read(event([1]))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_choices = st.fixed_dictionaries(
    {
        "index": st.just(0) | _json,
        "token_ids": st.lists(st.integers(-1, VOCABULARY), max_size=4) | _json,
        "logprobs": st.fixed_dictionaries(
            {"token_logprobs": st.lists(st.floats(-9, 1), max_size=4)}
        )
        | _json,
        "finish_reason": st.sampled_from([None, "stop", "length"]) | _json,
    }
)
_events = st.binary(max_size=30) | st.fixed_dictionaries(
    {"model": st.just("base") | _json, "choices": st.lists(_choices, max_size=2) | _json}
).map(lambda piece: json.dumps(piece).encode())


@given(st.lists(_events, max_size=4))
def test_whatever_is_sent_what_is_read_is_an_answer(events: list[bytes]) -> None:
    answer, tokens = reader(), list[Token]()
    try:
        for one in events:
            tokens += answer.read(one)
    except EngineFaultError:
        pass

    assert len(tokens) <= 3
    assert all(0 <= token.id < VOCABULARY and token.id != STOP for token in tokens)
    assert all(math.isfinite(token.logprob) and token.logprob <= 0 for token in tokens)
    assert answer.finish is not Finish.LENGTH or len(tokens) == 3


def test_a_request_leaves_nothing_to_the_server() -> None:
    request = ask((5, 6), temperature=1e-9, stop_ids=frozenset({STOP, 3}))
    body = completion(request, "name", 4, "salt")

    assert (body["model"], body["prompt"], body["max_tokens"]) == ("name", [5, 6], 4)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([3, STOP], True)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0, 1, -1, 0)
    assert (body["logprobs"], body["return_token_ids"], body["stream"]) == (0, True, True)
    assert body["cache_salt"] == "salt"


@given(st.binary(min_size=32, max_size=32))
def test_a_seed_is_a_signed_integer_of_64_bits(seed: bytes) -> None:
    request = ask()
    sampled = completion(
        type(request)(
            **{name: getattr(request, name) for name in request.__struct_fields__}
            | {"sampling": Sampling(seed)}
        ),
        "name",
        4,
        "salt",
    )

    assert -(2**63) <= sampled["seed"] < 2**63


def test_a_salt_is_the_tenants_own_and_does_not_name_him() -> None:
    assert salt(b"secret", "alice") == salt(b"secret", "alice")
    assert len({salt(b"secret", "alice"), salt(b"secret", "bob"), salt(b"other", "alice")}) == 3
    assert "alice" not in salt(b"secret", "alice")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no\\nroom"}}', "no room"),
        (b"<html>", "<html>"),
        (b"", "nothing"),
        (b"[" * 100_000, "[" * 200),
        (b"\xff\x1b[31m", "� [31m"),
    ],
)
def test_what_the_server_says_is_passed_on_in_one_short_line(body: bytes, said: str) -> None:
    assert told(body) == said
