"""Hidden states that answers keep, and vectors made of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from openledger.core.errors import EngineFaultError, EngineFullError, InvalidInputError
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.serving.batch import Chunk, Output
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import EmbeddingRequest, Finish
from openledger.serving.runner import Arithmetic, LlamaRunner
from tests.fakes import HASH_VOCABULARY, HashAdapter, HashRunner, hash_states
from tests.serving.conformance import answer, ask, use
from tests.serving.tiny import hash_adapter, llama_adapter

CONFIG = Config(
    threads=1, max_active=4, max_waiting=4, buffer_tokens=64, prefill_chunk=16, step_tokens=32
)
_IDS = st.lists(st.integers(0, HASH_VOCABULARY - 2), min_size=1, max_size=64).map(tuple)


class Bench:
    """An engine over a HashRunner, with a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.runner = HashRunner()
        self.engine: EmbeddedEngine[HashAdapter] = EmbeddedEngine(
            self.runner, CONFIG, lambda: self.now_s
        )

    def vector(self, *prompt_ids: int, **changes: object) -> NDArray[np.float32]:
        return next(self.engine.embed(text(*prompt_ids, **changes)))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.runner.gate.set()
    made.engine.close()


def text(*prompt_ids: int, **changes: object) -> EmbeddingRequest:
    fields: dict[str, object] = {"id": repr(prompt_ids), "tenant": "alice", "deadline_s": 60.0}
    return EmbeddingRequest(
        prompt_ids=prompt_ids,
        **fields | changes,  # type: ignore[arg-type]  # the test says which field
    )


def direction(states: NDArray[np.generic]) -> NDArray[np.float32]:
    """(D,) of (T, D)."""
    mean = states.astype(np.float64).mean(0)
    found: NDArray[np.float32] = (mean / np.linalg.norm(mean)).astype(np.float32)
    return found


@settings(max_examples=30, deadline=None)
@given(st.lists(_IDS, min_size=1, max_size=4, unique=True))
def test_a_vector_is_the_mean_of_all_states_in_any_company(texts: list[tuple[int, ...]]) -> None:
    bench = Bench()
    pending = [bench.engine.embed(text(*ids)) for ids in texts]
    found = [next(one) for one in pending]
    bench.engine.close()

    for ids, vector in zip(texts, found, strict=True):
        np.testing.assert_array_max_ulp(vector, direction(hash_states(ids, [])), 1)


def test_a_vector_may_be_of_a_mix(bench: Bench, tmp_path: Path) -> None:
    ref = hash_adapter(tmp_path / "a", "a")
    bench.engine.load(ref)
    found = bench.vector(1, 2, 3, mix=use(ref))

    np.testing.assert_allclose(found, direction(hash_states((1, 2, 3), [("a", 1.0)])), rtol=1e-6)


def test_it_takes_nothing_from_the_cache_and_leaves_nothing(bench: Bench) -> None:
    ids = (5,) * 20
    bench.vector(*ids)
    after_vector = bench.engine.stats()
    answer(bench.engine, ask(ids, max_tokens=1))
    bench.vector(*ids)
    stats = bench.engine.stats()

    assert (after_vector.kv_blocks_idle, after_vector.kv_blocks_used) == (0, 0)
    assert stats.cached_tokens == 0
    assert bench.runner.fed == [16, 4] * 3
    assert (stats.prompt_tokens, stats.completion_tokens) == (60, 1)


def test_answers_go_on_while_a_text_is_read(bench: Bench) -> None:
    bench.runner.gate.clear()
    stream = bench.engine.submit(ask((1, 2), max_tokens=5))
    bench.runner.is_at_gate.wait(5)
    pending = bench.engine.embed(text(*(3,) * 60))
    bench.runner.gate.set()
    next(pending)

    assert len(list(stream)) == 5
    assert [[len(ids) for ids in step] for step in bench.runner.steps] == [
        [2], [1, 16], [1, 16], [1, 16], [1, 12],
    ]  # fmt: skip


def test_who_no_longer_wants_it_stops_within_a_step(bench: Bench) -> None:
    bench.runner.gate.clear()
    pending = bench.engine.embed(text(*(3,) * 60))
    bench.runner.is_at_gate.wait(5)
    pending.cancel()
    bench.runner.gate.set()

    assert pending.usage().finish is Finish.CANCELLED
    assert next(pending, None) is None
    assert len(bench.runner.steps) == 1


def test_it_has_a_deadline(bench: Bench) -> None:
    bench.runner.gate.clear()
    pending = bench.engine.embed(text(*(3,) * 60, deadline_s=5.0))
    bench.runner.is_at_gate.wait(5)
    bench.now_s += 5
    bench.runner.gate.set()

    assert next(pending, None) is None
    assert pending.usage().finish is Finish.DEADLINE


def test_texts_fill_the_queue_as_answers_do(bench: Bench) -> None:
    bench.runner.gate.clear()
    pending = [bench.engine.embed(text(3, 3, place)) for place in range(7)]
    with pytest.raises(EngineFullError) as caught:
        bench.engine.embed(text(4))
    bench.runner.gate.set()

    assert int(caught.value.details["retry_after_s"]) > 0
    assert all(next(one) is not None for one in pending)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (text(), "empty"),
        (text(*(1,) * 65), "65 tokens and the context holds 64"),
        (text(1, HASH_VOCABULARY), "outside the vocabulary"),
        (text(1, deadline_s=0.0), "deadline_s"),
    ],
)
def test_what_no_engine_can_read_is_refused(
    bench: Bench, request_: EmbeddingRequest, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        bench.engine.embed(request_)
    assert len(bench.vector(*(1,) * 64)) == hash_states((1,), []).shape[1]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_states_without_a_direction_are_a_fault(bench: Bench, value: float) -> None:
    run = bench.runner.run

    def spoiled(chunks: Sequence[Chunk[HashAdapter]]) -> Output:
        output = run(chunks)
        return Output(
            output.logits, {place: np.full(4, value) for place in range(len(output.captured))}
        )

    bench.runner.run = spoiled  # type: ignore[method-assign]
    with pytest.raises(EngineFaultError):
        bench.vector(1, 2)


def test_tokens_come_with_their_states_if_asked(bench: Bench) -> None:
    ids = (7,) * 20
    answer(bench.engine, ask(ids, max_tokens=1))  # the second time most of the prompt is cached
    tokens = answer(bench.engine, ask(ids, max_tokens=6, keeps_hidden=True))
    whole = (*ids, *(token.id for token in tokens))

    assert bench.engine.stats().cached_tokens > 0
    assert [token.hidden for token in tokens] == [
        state.astype("<u2").tobytes() for state in hash_states(whole, [])[19:-1]
    ]
    assert {token.hidden for token in answer(bench.engine, ask(ids))} == {None}


# The arithmetic


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder)


@pytest.fixture(scope="module", params=[True, False], ids=["native", "torch"])
def engine(
    base: BaseModel, request: pytest.FixtureRequest
) -> Iterator[EmbeddedEngine[PackedAdapter]]:
    made = EmbeddedEngine(LlamaRunner(base, arithmetic=Arithmetic(is_native=request.param)), CONFIG)
    yield made
    made.close()


def states_of(base: BaseModel, ids: Sequence[int]) -> Tensor:
    """(T, D) of transformers."""
    with torch.inference_mode():
        found: Tensor = base.model.model(torch.tensor([ids])).last_hidden_state[0]
    return found


@pytest.mark.parametrize("length", [1, 17, 50])
def test_a_vector_is_that_of_transformers(
    engine: EmbeddedEngine[PackedAdapter], base: BaseModel, length: int
) -> None:
    ids = tuple(range(3, 3 + length))
    found = next(engine.embed(text(*ids)))

    assert found.dtype == np.float32
    assert found.shape == (base.model.config.hidden_size,)
    assert abs(np.linalg.norm(found) - 1) < 1e-6
    assert abs(found - direction(states_of(base, ids).numpy())).max() < 1e-5


def test_log_probabilities_and_states_are_those_of_transformers(
    engine: EmbeddedEngine[PackedAdapter], base: BaseModel
) -> None:
    prompt = tuple(range(3, 23))
    tokens = answer(engine, ask(prompt, temperature=1.0, max_tokens=12, keeps_hidden=True))
    ids = [token.id for token in tokens]
    states = states_of(base, [*prompt, *ids[:-1]])[len(prompt) - 1 :]
    with torch.inference_mode():
        logprobs = base.model.lm_head(states).log_softmax(-1)[range(len(ids)), ids]
    raw = b"".join(token.hidden or b"" for token in tokens)
    kept = torch.frombuffer(bytearray(raw), dtype=torch.bfloat16).view(states.shape)

    assert np.allclose([token.logprob for token in tokens], logprobs, atol=1e-4)
    assert torch.allclose(kept.float(), states, rtol=2**-7, atol=1e-5)


def test_a_vector_under_an_adapter_is_another(
    engine: EmbeddedEngine[PackedAdapter], base: BaseModel, tmp_path: Path
) -> None:
    ref = llama_adapter(tmp_path / "a", base, 1)
    engine.load(ref)
    plain, tuned = (next(engine.embed(text(*range(3, 9), mix=mix))) for mix in ((), use(ref)))

    assert abs(plain - tuned).max() > 0.01
