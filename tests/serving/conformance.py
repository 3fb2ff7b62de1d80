"""The contract of every engine, as tests; `test_conformance.py` runs them on each there is.

Nothing here looks inside an engine. An answer that nobody reads stays in flight, because its
buffer fills or because nothing asked for it: that is how these tests hold an engine busy.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from threading import Thread

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from openledger.core.errors import (
    ConflictError,
    DigestMismatchError,
    EngineFullError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.engine import AdapterRef, Combine, Draws, Engine, Stream, Tier
from openledger.serving.request import (
    Finish,
    GenerationRequest,
    MixMember,
    Sampling,
    Token,
    Usage,
)
from openledger.serving.sampling import Sampler

SHORT_WAIT_S = 0.2
ROUNDING = 1e-4  # of a log-probability

# (V,) logits after these tokens under a mix of `first` and `second`.
Reference = Callable[[Sequence[int], tuple[MixMember, ...]], NDArray[np.float32]]


@dataclass
class Kit:
    """An engine under test: idle, with room for `capacity` requests, nothing loaded.

    Its buffer must be shorter than `context` less a few tokens, and its context at most 128.
    """

    engine: Engine
    first: AdapterRef
    second: AdapterRef
    broken: AdapterRef  # the folder is there and holds something else
    missing: AdapterRef  # no such folder
    capacity: int
    reference: Reference | None = None  # what it must compute; None: it computes nothing


def ask(
    prompt: tuple[int, ...] = (5, 6, 7),
    mix: tuple[MixMember, ...] = (),
    temperature: float = 0.0,
    seed: bytes = b"seed",
    max_tokens: int = 8,
    **changes: object,
) -> GenerationRequest:
    """A request with an id that follows from its content."""
    sampling = Sampling(sha256(seed).digest(), temperature=temperature)
    fields: dict[str, object] = {"stop_ids": frozenset[int](), "deadline_s": 60.0}
    fields |= {"tenant": "alice", **changes}
    name = sha256(repr((prompt, mix, sampling, max_tokens, changes)).encode()).hexdigest()
    fields.setdefault("id", name)
    return GenerationRequest(
        prompt_ids=prompt,
        mix=mix,
        sampling=sampling,
        max_tokens=max_tokens,
        **fields,  # type: ignore[arg-type]  # the test says which field
    )


def answer(engine: Engine, request: GenerationRequest) -> list[Token]:
    """The whole answer."""
    return list(engine.submit(request))


def same(one: list[Token], other: list[Token]) -> bool:
    """Whether two answers are the same, but for how a batch rounds."""
    return [token.id for token in one] == [token.id for token in other] and all(
        abs(a.logprob - b.logprob) < ROUNDING for a, b in zip(one, other, strict=True)
    )


def use(*adapters: AdapterRef) -> tuple[MixMember, ...]:
    """A mix of these, each in full."""
    return tuple(MixMember(ref.digest, 1.0) for ref in adapters)


def drawn(
    request: GenerationRequest, logits: Callable[[Sequence[int]], NDArray[np.float32]]
) -> list[Token]:
    """The answer that follows from the request, and from the (V,) logits after some tokens."""
    sampler = Sampler(request.sampling, request.prompt_ids)
    tokens: list[Token] = []
    while len(tokens) < request.max_tokens:
        ids = [*request.prompt_ids, *(token.id for token in tokens)]
        token = sampler.draw(logits(ids))
        if token.id in request.stop_ids:
            break
        tokens.append(token)
    return tokens


def mixes_of(kit: Kit) -> list[tuple[MixMember, ...]]:
    """The base alone, one adapter, and, where the engine serves them, weighted sums of both."""
    first, second = kit.first.digest, kit.second.digest
    some: list[tuple[MixMember, ...]] = [(), use(kit.first), use(kit.second)]
    if kit.engine.caps.combine is not Combine.NONE:
        some += [(MixMember(first, 0.7), MixMember(second, 0.3))]
        some += [(MixMember(second, -0.4),), (MixMember(first, 1.0), MixMember(second, 0.0))]
    return some


class EngineConformance:
    """Every test takes the fixture `kit`, which says which engine is under test."""

    # What it computes

    def test_a_greedy_answer_is_that_of_the_reference(self, kit: Kit) -> None:
        reference = _reference_of(kit)
        for ref in (kit.first, kit.second):
            kit.engine.load(ref)
        for mix in mixes_of(kit):
            request = ask((3, 1, 4, 1, 5, 9, 2, 6), mix, max_tokens=6)

            assert same(answer(kit.engine, request), _expected(reference, request))

    def test_a_sampled_answer_is_drawn_from_the_seed_or_the_caps_say_otherwise(
        self, kit: Kit
    ) -> None:
        reference = _reference_of(kit)
        request = ask((3, 1, 4, 1, 5, 9, 2, 6), temperature=1.0, max_tokens=12)
        tokens = answer(kit.engine, request)

        if kit.engine.caps.draws is Draws.SEED:
            assert same(tokens, _expected(reference, request))
            assert "draws" not in kit.engine.caps.determinism
        else:
            assert kit.engine.caps.determinism.endswith("/own-draws")
            assert all(
                abs(token.logprob - wanted) < ROUNDING
                for token, wanted in zip(tokens, _logprobs(reference, request, tokens), strict=True)
            )

    def test_penalties_and_filters_leave_log_probabilities_alone(self, kit: Kit) -> None:
        reference = _reference_of(kit)
        sampling = Sampling(
            bytes(32),
            temperature=0.5,
            top_p=0.9,
            top_k=5,
            repetition_penalty=1.3,
            presence_penalty=0.5,
            frequency_penalty=0.5,
        )
        request = msgspec.structs.replace(ask((3, 1, 4), max_tokens=8), sampling=sampling)
        tokens = answer(kit.engine, request)

        found = [token.logprob for token in tokens]
        assert np.allclose(found, _logprobs(reference, request, tokens), atol=ROUNDING)

    # What an answer is

    def test_a_greedy_answer_is_the_same_twice(self, kit: Kit) -> None:
        assert same(answer(kit.engine, ask()), answer(kit.engine, ask()))

    def test_a_sampled_answer_depends_on_its_seed_only(self, kit: Kit) -> None:
        first = answer(kit.engine, ask(temperature=1.0, max_tokens=12))
        again = answer(kit.engine, ask(temperature=1.0, max_tokens=12))
        other = answer(kit.engine, ask(temperature=1.0, max_tokens=12, seed=b"other"))

        assert same(first, again)
        assert not same(first, other)

    def test_company_does_not_change_an_answer(self, kit: Kit) -> None:
        kit.engine.load(kit.first)
        prompts = [tuple(range(1, 2 + 9 * i)) for i in range(kit.capacity)]
        requests = [
            ask(prompt, use(kit.first) if i % 2 else (), temperature, bytes([i]), max_tokens=20)
            for i, prompt in enumerate(prompts)
            for temperature in (0.0, 1.0)
        ]
        alone = [answer(kit.engine, request) for request in requests]

        for batch in (requests[0::2], requests[1::2]):
            streams = [kit.engine.submit(request) for request in batch]
            with ThreadPoolExecutor(len(streams)) as pool:
                together = list(pool.map(_read, streams))

            for one, request in zip(together, batch, strict=True):
                assert same(one, alone[requests.index(request)])

    def test_every_token_is_in_the_vocabulary_and_has_a_log_probability(self, kit: Kit) -> None:
        tokens = answer(kit.engine, ask(temperature=1.0))

        assert all(0 <= token.id < kit.engine.caps.vocabulary for token in tokens)
        assert all(token.logprob <= 0 for token in tokens)

    def test_hidden_states_are_kept_on_request_or_refused(self, kit: Kit) -> None:
        assert all(token.hidden is None for token in answer(kit.engine, ask()))
        hidden = kit.engine.caps.hidden
        if hidden is None:
            with pytest.raises(InvalidInputError, match="hidden"):
                kit.engine.submit(ask(keeps_hidden=True))
            return
        tokens = answer(kit.engine, ask(keeps_hidden=True))

        assert same(tokens, answer(kit.engine, ask()))
        assert {len(token.hidden or b"") for token in tokens} == {2 * hidden}

    def test_max_tokens_ends_an_answer(self, kit: Kit) -> None:
        stream = kit.engine.submit(ask(max_tokens=3))
        tokens = list(stream)

        assert len(tokens) == 3
        assert stream.usage().finish is Finish.LENGTH
        assert stream.usage().completion_tokens == 3
        assert stream.usage().prompt_tokens == 3

    def test_a_full_context_ends_an_answer(self, kit: Kit) -> None:
        room = 2
        prompt = (1,) * (kit.engine.caps.context - room)
        stream = kit.engine.submit(ask(prompt, max_tokens=50))

        assert len(list(stream)) == room
        assert stream.usage().finish is Finish.LENGTH

    def test_a_stop_token_ends_an_answer_and_is_no_part_of_it(self, kit: Kit) -> None:
        ids = [token.id for token in answer(kit.engine, ask(temperature=1.0))]
        stop = ids[3]
        stream = kit.engine.submit(ask(temperature=1.0, stop_ids=frozenset({stop})))

        assert [token.id for token in stream] == ids[: ids.index(stop)]
        assert stream.usage().finish is Finish.STOP

    # What was read before

    def test_a_prompt_of_any_length_is_read_to_its_end(self, kit: Kit) -> None:
        lengths = range(1, kit.engine.caps.context - 8, 5)
        prompts = [tuple(i % 7 + 1 for i in range(length)) for length in lengths]
        first = [answer(kit.engine, ask(prompt, max_tokens=4)) for prompt in prompts]
        again = [answer(kit.engine, ask(prompt, max_tokens=4)) for prompt in reversed(prompts)]

        assert all(same(a, b) for a, b in zip(first, reversed(again), strict=True))

    def test_a_prompt_read_before_answers_the_same_under_its_own_mix(self, kit: Kit) -> None:
        for ref in (kit.first, kit.second):
            kit.engine.load(ref)
        mixes = [use(kit.first), (), use(kit.first, kit.second), use(kit.second)]
        requests = [ask((1, 2, 3, 4) * 10, mix, max_tokens=8) for mix in mixes]
        first = [answer(kit.engine, request) for request in requests]
        again = [answer(kit.engine, request) for request in reversed(requests)]

        assert all(same(a, b) for a, b in zip(first, reversed(again), strict=True))
        assert len({tuple(token.id for token in one) for one in first}) == len(mixes)

    # Adapters

    def test_an_adapter_changes_the_answer_and_weight_zero_does_not(self, kit: Kit) -> None:
        kit.engine.load(kit.first)
        base = answer(kit.engine, ask(max_tokens=16))
        mixed = answer(kit.engine, ask(max_tokens=16, mix=use(kit.first)))
        nothing = answer(kit.engine, ask(max_tokens=16, mix=(MixMember(kit.first.digest, 0.0),)))

        assert mixed != base
        assert [token.id for token in nothing] == [token.id for token in base]

    def test_two_adapters_serve_side_by_side_and_mixed(self, kit: Kit) -> None:
        for ref in (kit.first, kit.second):
            kit.engine.load(ref)
        if kit.engine.caps.combine is Combine.NONE:
            with pytest.raises(InvalidInputError):
                kit.engine.submit(ask(mix=use(kit.first, kit.second)))
            return
        mixes = [use(kit.first), use(kit.second), use(kit.first, kit.second)]
        answers = [answer(kit.engine, ask(max_tokens=16, mix=mix)) for mix in mixes]

        assert answers[0] != answers[1] != answers[2] != answers[0]

    def test_an_unknown_adapter_is_not_found(self, kit: Kit) -> None:
        with pytest.raises(NotFoundError):
            kit.engine.submit(ask(mix=use(kit.first)))

    def test_a_missing_folder_is_not_found(self, kit: Kit) -> None:
        with pytest.raises(NotFoundError):
            kit.engine.load(kit.missing)
        assert kit.engine.residency() == ()

    def test_a_corrupted_adapter_is_refused_and_stays_unknown(self, kit: Kit) -> None:
        with pytest.raises(DigestMismatchError):
            kit.engine.load(kit.broken)
        assert kit.engine.residency() == ()
        with pytest.raises(NotFoundError):
            kit.engine.submit(ask(mix=use(kit.broken)))

    def test_residency_tells_pins_and_references(self, kit: Kit) -> None:
        kit.engine.load(kit.first, pin=True)
        stream = kit.engine.submit(ask(mix=use(kit.first), max_tokens=100))
        (one,) = kit.engine.residency()
        stream.cancel()
        stream.usage()

        assert (one.digest, one.tier) == (kit.first.digest, Tier.RAM)
        assert (one.is_pinned, one.references) == (True, 1)
        assert kit.engine.residency()[0].references == 0

    def test_loads_at_once_are_one_load_each(self, kit: Kit) -> None:
        refs = [kit.first, kit.second] * 3
        with ThreadPoolExecutor(len(refs)) as pool:
            found = list(pool.map(kit.engine.load, refs))

        assert [one.digest for one in found] == [ref.digest for ref in refs]
        assert len(kit.engine.residency()) == 2
        assert answer(kit.engine, ask(mix=use(kit.first)))

    def test_loading_twice_is_loading_once(self, kit: Kit) -> None:
        assert kit.engine.load(kit.first) == kit.engine.load(kit.first)
        assert len(kit.engine.residency()) == 1

    def test_an_unloaded_adapter_is_unknown_until_loaded_again(self, kit: Kit) -> None:
        kit.engine.load(kit.first)
        before = answer(kit.engine, ask(mix=use(kit.first)))
        kit.engine.unload(kit.first.digest)
        with pytest.raises(NotFoundError):
            kit.engine.submit(ask(mix=use(kit.first)))
        with pytest.raises(NotFoundError):
            kit.engine.unload(kit.first.digest)
        kit.engine.load(kit.first)

        assert same(answer(kit.engine, ask(mix=use(kit.first))), before)

    def test_unloading_waits_for_the_last_user(self, kit: Kit) -> None:
        kit.engine.load(kit.first)
        stream = kit.engine.submit(ask(mix=use(kit.first), max_tokens=100))
        unloading = Thread(target=kit.engine.unload, args=[kit.first.digest])
        unloading.start()
        unloading.join(SHORT_WAIT_S)
        waited = unloading.is_alive()
        with pytest.raises(NotFoundError):
            kit.engine.submit(ask(mix=use(kit.first)))
        stream.cancel()
        unloading.join(10)

        assert waited
        assert not unloading.is_alive()
        assert kit.engine.residency() == ()

    # What is refused

    def test_an_overlong_prompt_is_refused_with_both_lengths(self, kit: Kit) -> None:
        context = kit.engine.caps.context
        with pytest.raises(InvalidInputError, match=rf"{context + 1} tokens.*holds {context}"):
            kit.engine.submit(ask((1,) * (context + 1)))

    @pytest.mark.parametrize("max_tokens", [0, -1])
    def test_max_tokens_below_one_is_refused(self, kit: Kit, max_tokens: int) -> None:
        with pytest.raises(InvalidInputError, match=f"not {max_tokens}"):
            kit.engine.submit(ask(max_tokens=max_tokens))

    def test_an_empty_or_foreign_prompt_is_refused(self, kit: Kit) -> None:
        for prompt in [(), (-1,), (kit.engine.caps.vocabulary,)]:
            with pytest.raises(InvalidInputError):
                kit.engine.submit(ask(prompt))

    def test_a_mix_that_is_too_long_or_names_one_twice_is_refused(self, kit: Kit) -> None:
        many = tuple(MixMember(Digest(f"{i:064x}"), 1.0) for i in range(100))
        for mix in [many, use(kit.first, kit.first), (MixMember(kit.first.digest, float("nan")),)]:
            with pytest.raises(InvalidInputError):
                kit.engine.submit(ask(mix=mix))

    def test_an_id_in_flight_is_refused_and_free_again_afterwards(self, kit: Kit) -> None:
        stream = kit.engine.submit(ask(max_tokens=100))
        with pytest.raises(ConflictError):
            kit.engine.submit(ask(max_tokens=100))
        stream.cancel()
        stream.usage()

        kit.engine.submit(ask(max_tokens=100)).cancel()

    def test_a_full_engine_says_when_to_try_again(self, kit: Kit) -> None:
        streams = self._fill(kit)
        with pytest.raises(EngineFullError) as caught:
            kit.engine.submit(ask())
        for stream in streams:
            stream.cancel()
            stream.usage()

        assert int(caught.value.details["retry_after_s"]) >= 1
        assert kit.engine.stats().rejected == 1
        assert answer(kit.engine, ask())

    # How it ends early

    def test_a_cancelled_answer_ends_and_frees_its_place(self, kit: Kit) -> None:
        for stream in self._fill(kit):
            assert next(stream).logprob <= 0
            stream.cancel()
            stream.cancel()
            usage = stream.usage()

            assert usage.finish is Finish.CANCELLED
            assert usage.completion_tokens >= 1
            assert list(stream) == []
        assert kit.engine.stats().active == 0

    def test_cancelling_what_is_not_in_flight_is_no_error(self, kit: Kit) -> None:
        stream = kit.engine.submit(ask(max_tokens=2))
        tokens = list(stream)
        kit.engine.cancel(stream.request_id)
        kit.engine.cancel("nobody")

        assert len(tokens) == 2
        assert stream.usage().finish is Finish.LENGTH

    def test_a_deadline_ends_an_answer(self, kit: Kit) -> None:
        stream = kit.engine.submit(ask(max_tokens=100, deadline_s=1e-9))

        assert stream.usage().finish is Finish.DEADLINE
        assert list(stream) == []

    def test_cancelling_at_every_stage_leaves_an_idle_engine(self, kit: Kit) -> None:
        kit.engine.load(kit.first)
        before = answer(kit.engine, ask())
        for read in range(6):
            streams = self._fill(kit, mix=use(kit.first))
            for stream in streams[:2]:
                for _ in range(read):
                    next(stream)
            with ThreadPoolExecutor(len(streams)) as pool:
                list(pool.map(_cancel, streams))
            assert {stream.usage().finish for stream in streams} == {Finish.CANCELLED}

        stats = kit.engine.stats()
        assert (stats.waiting, stats.active, stats.kv_blocks_used) == (0, 0, 0)
        assert [one.references for one in kit.engine.residency()] == [0]
        assert same(answer(kit.engine, ask()), before)

    def test_a_reader_that_never_reads_keeps_nobody_waiting(self, kit: Kit) -> None:
        before = answer(kit.engine, ask())
        silent = kit.engine.submit(ask(max_tokens=100))

        assert same(answer(kit.engine, ask()), before)
        silent.cancel()
        assert silent.usage().finish is Finish.CANCELLED

    def test_closing_ends_those_at_work_and_those_that_wait(self, kit: Kit) -> None:
        streams = self._fill(kit)
        kit.engine.close()

        assert {stream.usage().finish for stream in streams} == {Finish.SHUTDOWN}
        assert (kit.engine.stats().waiting, kit.engine.stats().active) == (0, 0)

    def test_a_closed_engine_fails_what_is_in_flight_and_takes_nothing_new(self, kit: Kit) -> None:
        stream = kit.engine.submit(ask(max_tokens=100))
        was_alive = kit.engine.is_alive
        kit.engine.close()
        with pytest.raises(UnavailableError):
            list(stream)
        with pytest.raises(UnavailableError):
            kit.engine.submit(ask())

        assert stream.usage().finish is Finish.SHUTDOWN
        assert was_alive
        assert not kit.engine.is_alive
        kit.engine.close()

    # The books

    def test_usage_adds_up_to_the_stats(self, kit: Kit) -> None:
        usages: list[Usage] = []
        for count in (1, 4, 7):
            stream = kit.engine.submit(ask((3,) * count, max_tokens=count))
            list(stream)
            usages.append(stream.usage())
        stats = kit.engine.stats()

        assert stats.prompt_tokens == sum(one.prompt_tokens for one in usages) == 12
        assert stats.completion_tokens == sum(one.completion_tokens for one in usages) == 12
        assert stats.steps == sum(one.steps for one in usages)
        assert stats.finished[Finish.LENGTH] == 3
        assert (stats.waiting, stats.active) == (0, 0)

    def _fill(self, kit: Kit, mix: tuple[MixMember, ...] = ()) -> list[Stream]:
        return [
            kit.engine.submit(ask(max_tokens=100, seed=bytes([i]), mix=mix))
            for i in range(kit.capacity)
        ]


def _reference_of(kit: Kit) -> Reference:
    if kit.reference is None:
        pytest.skip("this engine has no model behind it")
    return kit.reference


def _expected(reference: Reference, request: GenerationRequest) -> list[Token]:
    return drawn(request, lambda ids: reference(ids, request.mix))


def _logprobs(
    reference: Reference, request: GenerationRequest, tokens: Sequence[Token]
) -> list[float]:
    """What the reference says of each of these tokens."""
    found = []
    for place, token in enumerate(tokens):
        ids = [*request.prompt_ids, *(one.id for one in tokens[:place])]
        logits = reference(ids, request.mix).astype(np.float64)
        found.append(float(logits[token.id] - np.logaddexp.reduce(logits)))
    return found


def _cancel(stream: Stream) -> None:
    stream.cancel()


def _read(stream: Stream) -> list[Token]:
    return list(stream)
