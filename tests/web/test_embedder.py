"""Vectors over a real engine; only its arithmetic is a fake."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import (
    EngineFullError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.core.types import Account
from openledger.lm.base import load_base
from openledger.lm.tiny import build_tiny
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config
from openledger.serving.request import EmbeddingRequest
from openledger.web.embeddings import EmbeddingCall
from openledger.web.errors import RateLimitedError
from openledger.web.inference import Payer
from openledger.web.parts.embedder import Allowance, BaseEmbeddings
from openledger.web.wire.embeddings import Input
from tests.fakes import HashAdapter, HashRunner, hash_states

ALICE, BOB = Account("0x" + "a" * 40), Account("0x" + "b" * 40)
CONFIG = Config(threads=1, max_active=2, max_waiting=8, prefill_chunk=16, step_tokens=32)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder).tokenizer


class Desk:
    """Embeddings over a HashRunner, with a clock of its own."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.now_s = 0.0
        self.runner = HashRunner()
        self.runner.vocabulary = tokenizer.size
        self.engine: EmbeddedEngine[HashAdapter] = EmbeddedEngine(self.runner, CONFIG)
        allowance = Allowance(600, lambda: self.now_s)
        self.embeddings = BaseEmbeddings(self.engine, tokenizer, "Tiny", allowance)

    def embed(
        self, *inputs: Input, payer: Account = ALICE, dimensions: int | None = None
    ) -> list[list[float]]:
        call = EmbeddingCall(Payer(payer), "Tiny", inputs, dimensions)
        return [one.tolist() for one in self.embeddings.start(call).result().vectors]


@pytest.fixture
def desk(tokenizer: Tokenizer) -> Iterator[Desk]:
    made = Desk(tokenizer)
    yield made
    made.runner.gate.set()
    made.engine.close()


def expected(*token_ids: int) -> list[float]:
    mean = hash_states(token_ids, []).mean(0)
    return list((mean / np.linalg.norm(mean)).astype(np.float32).tolist())


def test_texts_and_their_tokens_have_the_same_vectors(desk: Desk, tokenizer: Tokenizer) -> None:
    texts = ("X:1", "The Cliffs of Moher", "K:G")
    ids = [tuple(tokenizer.encode(text)) for text in texts]
    call = EmbeddingCall(Payer(ALICE), "Tiny", texts)
    found = desk.embeddings.start(call).result()

    assert found.tokens == sum(map(len, ids))
    assert [one.tolist() for one in found.vectors] == [expected(*one) for one in ids]
    assert desk.embed(*ids) == desk.embed(*texts)


def test_more_texts_than_places_come_in_their_order(desk: Desk) -> None:
    inputs = [(3, 100 + place) for place in range(40)]

    assert desk.embed(*inputs) == [expected(*one) for one in inputs]


def test_fewer_dimensions_are_the_first_ones_of_length_one(desk: Desk) -> None:
    whole, cut = np.array(desk.embed("X:1")[0]), np.array(desk.embed("X:1", dimensions=5)[0])

    np.testing.assert_allclose(cut, whole[:5] / np.linalg.norm(whole[:5]), rtol=1e-6)
    assert desk.embed("X:1", dimensions=16) == [whole.tolist()]
    with pytest.raises(InvalidInputError, match="at most 16"):
        desk.embed("X:1", dimensions=17)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("ok", (1,) * 65), "input 1 has 65 tokens and the context holds 64"),
        (((100_257,),), "another model's tokenizer"),
        (((-1,),), "outside the vocabulary"),
        (((1,) * 64,) * 10, "640 tokens and one call may have 600"),
    ],
)
def test_what_cannot_be_read_is_refused(
    desk: Desk, inputs: tuple[Input, ...], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message) as caught:
        desk.embed(*inputs)

    assert caught.value.details["param"] == "input"
    assert desk.runner.steps == []


def test_another_model_is_not_there(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="the one here is 'Tiny'"):
        desk.embeddings.start(EmbeddingCall(Payer(ALICE), "Tine", ("a",)))


def test_each_payer_has_so_many_tokens_a_minute(desk: Desk) -> None:
    for _ in range(10):
        desk.embed((1,) * 60)
    with pytest.raises(RateLimitedError) as caught:
        desk.embed((1,) * 50)
    desk.embed((1,) * 60, payer=BOB)
    desk.now_s += float(caught.value.details["retry_after_s"])

    assert len(desk.embed((1,) * 50)) == 1
    with pytest.raises(RateLimitedError):
        desk.embed((1,) * 50)


def test_a_full_engine_refuses_and_takes_nothing_off_the_allowance(desk: Desk) -> None:
    desk.runner.gate.clear()
    full = [desk.engine.embed(EmbeddingRequest(f"{n}", ALICE, (1, n), 60.0)) for n in range(8)]
    for _ in range(20):
        with pytest.raises(EngineFullError):
            desk.embed((1,) * 60)
    desk.runner.gate.set()

    assert all(len(next(one)) for one in full)
    assert len(desk.embed((1,) * 60)) == 1


def test_cancelling_frees_every_place(desk: Desk) -> None:
    desk.runner.gate.clear()
    call = EmbeddingCall(Payer(ALICE), "Tiny", ((1,) * 60,) * 9)
    pending = desk.embeddings.start(call)
    pending.cancel()
    pending.cancel()
    desk.runner.gate.set()

    with pytest.raises(UnavailableError, match="cancelled"):
        pending.result()
    desk.engine.close(drain_s=5)
    assert desk.engine.stats().finished["cancelled"] == 8
    assert len(desk.runner.steps) <= 1


def test_a_stopping_engine_is_said(desk: Desk) -> None:
    desk.engine.close()

    with pytest.raises(UnavailableError, match="stopping"):
        desk.embed("a")


@given(st.lists(st.tuples(st.floats(0, 90), st.integers(1, 100)), max_size=40))
def test_an_allowance_lets_no_more_pass_than_it_says(asked: list[tuple[float, int]]) -> None:
    now_s = 0.0
    allowance = Allowance(100, lambda: now_s)
    passed: list[tuple[float, int]] = []
    for wait_s, tokens in asked:
        now_s += wait_s
        try:
            allowance.take(ALICE, tokens)
        except RateLimitedError as error:
            now_s += int(error.details["retry_after_s"])
            allowance.take(ALICE, tokens)
        passed.append((now_s, tokens))

    for first, (start_s, _) in enumerate(passed):
        for last in range(first, len(passed)):
            spent = sum(tokens for _, tokens in passed[first : last + 1])
            assert spent <= 100 + (passed[last][0] - start_s) * 100 / 60 + 1e-6
