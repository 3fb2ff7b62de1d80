import math
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openledger.core.errors import EngineFaultError
from openledger.serving.request import Sampling
from openledger.serving.sampling import Sampler

SEED = sha256(b"seed").digest()

logits_rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=40).map(
    lambda row: np.array(row, np.float32)
)


def draws(how: Sampling, logits: NDArray[np.float32], count: int) -> list[int]:
    sampler = Sampler(how, [])
    return [sampler.draw(logits).id for _ in range(count)]


@given(logits_rows)
def test_temperature_zero_takes_the_likeliest(logits: NDArray[np.float32]) -> None:
    token = Sampler(Sampling(SEED, temperature=0), []).draw(logits)

    assert token.id == int(logits.argmax())


@given(logits_rows, st.floats(0, 2), st.floats(0.01, 1), st.integers(1, 50), st.binary(min_size=1))
def test_the_log_probability_is_that_of_temperature_one(
    logits: NDArray[np.float32], temperature: float, top_p: float, top_k: int, seed: bytes
) -> None:
    how = Sampling(sha256(seed).digest(), temperature=temperature, top_p=top_p, top_k=top_k)
    token = Sampler(how, [0]).draw(logits)
    exact = logits.astype(np.float64)

    assert token.logprob == pytest.approx(exact[token.id] - math.log(np.exp(exact).sum()), abs=3e-7)


@given(logits_rows, st.integers(1, 10))
def test_top_k_draws_among_the_k_likeliest(logits: NDArray[np.float32], top_k: int) -> None:
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))

    assert set(draws(Sampling(SEED, top_k=top_k), logits, 20)) <= set(ranked[:top_k])


@given(logits_rows, st.floats(0.01, 0.99))
def test_top_p_draws_from_the_smallest_set_that_holds_p(
    logits: NDArray[np.float32], top_p: float
) -> None:
    weights = np.exp(logits.astype(np.float64))
    weights /= weights.sum()
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    before = 0.0
    allowed = set()
    for i in ranked:
        if before < top_p + 1e-9:
            allowed.add(i)
        before += weights[i]

    assert set(draws(Sampling(SEED, top_p=top_p), logits, 20)) <= allowed


def test_top_p_looks_beyond_the_first_thousand_when_it_must() -> None:
    flat = np.zeros(5_000, np.float32)

    assert max(draws(Sampling(SEED, top_p=0.9), flat, 50)) > 2_000
    assert max(draws(Sampling(SEED, top_p=0.9), flat, 50)) < 4_501


def naive(how: Sampling, logits: NDArray[np.float32], seen: list[int]) -> int:
    """The rule read aloud, for the first token of an answer."""
    scores = logits.astype(np.float64)
    for token in set(seen):
        factor = how.repetition_penalty
        scores[token] *= 1 / factor if scores[token] > 0 else factor
    if how.temperature == 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / how.temperature)
    ids = list(range(len(weights)))
    if how.top_k is not None or how.top_p < 1:
        ids.sort(key=lambda i: (-scores[i], i))
        ids = ids[: how.top_k]
    goal, held, kept = how.top_p * weights[ids].sum(), 0.0, []
    for i in ids:
        kept.append(i)
        held += weights[i]
        if how.top_p < 1 and held >= goal:
            break
    uniform = (int.from_bytes(sha256(how.seed + bytes(8)).digest()[:8], "big") >> 11) / 2**53
    cumulative = np.cumsum(weights[kept])
    return kept[int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([5, 128, 1_000, 1_300, 9_000]),
    st.sampled_from([0.0, 0.5, 1.0, 1.7]),
    st.sampled_from([None, 1, 40, 2_000]),
    st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([1.0, 1.3]),
)
def test_the_quick_way_draws_what_the_rule_draws(
    number: int,
    size: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    penalty: float,
) -> None:
    random = np.random.default_rng(number)
    # In steps of a quarter, so that there are ties; now flat, now peaked.
    logits = np.round(random.standard_normal(size) * random.choice([0.5, 3, 9]) * 4) / 4
    how = Sampling(sha256(b"%d" % number).digest(), temperature, top_p, top_k, penalty)
    token = Sampler(how, [0, 1, 2]).draw(logits.astype(np.float32))

    assert token.id == naive(how, logits.astype(np.float32), [0, 1, 2])


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    counts = Counter(draws(Sampling(SEED), logits, 5_000))

    assert counts[0] / 5_000 == pytest.approx(0.5, abs=0.03)
    assert counts[2] / 5_000 == pytest.approx(0.2, abs=0.03)


def test_the_same_seed_draws_the_same_and_another_differs() -> None:
    logits = np.zeros(100, np.float32)
    other = Sampling(sha256(b"other").digest())

    assert draws(Sampling(SEED), logits, 20) == draws(Sampling(SEED), logits, 20)
    assert draws(Sampling(SEED), logits, 20) != draws(other, logits, 20)


def test_the_generator_is_sha256_over_seed_and_position() -> None:
    logits = np.zeros(256, np.float32)
    expected = [sha256(SEED + n.to_bytes(8, "big")).digest()[0] for n in range(10)]

    assert draws(Sampling(SEED), logits, 10) == expected


def test_a_repetition_penalty_counts_prompt_and_answer() -> None:
    logits = np.array([2.0, 1.9, 1.8, -1.0], np.float32)
    sampler = Sampler(Sampling(SEED, temperature=0, repetition_penalty=2.0), [0])

    assert [sampler.draw(logits).id for _ in range(3)] == [1, 2, 0]


def test_presence_and_frequency_penalties_count_the_answer_only() -> None:
    logits = np.array([2.0, 1.5, 0.0], np.float32)
    presence = Sampling(SEED, temperature=0, presence_penalty=1.0)
    frequency = Sampling(SEED, temperature=0, frequency_penalty=0.4)

    assert draws(presence, logits, 3) == [0, 1, 0]
    assert draws(frequency, logits, 4) == [0, 0, 1, 0]


def test_a_logit_that_is_no_number_is_a_fault() -> None:
    with pytest.raises(EngineFaultError, match="not a finite number"):
        Sampler(Sampling(SEED), []).draw(np.array([0.0, np.nan], np.float32))
    with pytest.raises(EngineFaultError, match="not a finite number"):
        Sampler(Sampling(SEED), []).draw(np.array([0.0, -np.inf], np.float32))
