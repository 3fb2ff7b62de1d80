import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, current_thread

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openledger.core.errors import (
    DigestMismatchError,
    EngineFaultError,
    EngineFullError,
    InvalidInputError,
    UnavailableError,
)
from openledger.core.types import Digest
from openledger.serving.batch import Chunk, Output
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Combine, Config, Stats, Tier
from openledger.serving.request import Finish, GenerationRequest, MixMember, Token
from tests.fakes import BREAKING_TOKEN, HashAdapter, HashRunner, hash_logits
from tests.serving.conformance import answer, ask, drawn, use
from tests.serving.tiny import hash_adapter

CONFIG = Config(
    threads=1, max_active=2, max_waiting=2, buffer_tokens=4, prefill_chunk=16, step_tokens=32
)


class Bench:
    """An engine over a HashRunner, with a clock that the test moves."""

    def __init__(self, config: Config = CONFIG, context: int = 64) -> None:
        self.now_s = 1_000.0
        self.runner = HashRunner(context)
        self.engine: EmbeddedEngine[HashAdapter] = EmbeddedEngine(
            self.runner, config, lambda: self.now_s
        )

    def wait_until(self, is_so: Callable[[Stats], bool]) -> None:
        for _ in range(2_000):
            if is_so(self.engine.stats()):
                return
            time.sleep(0.005)
        raise AssertionError(f"never: {self.engine.stats()}")

    def wait_for_paused(self, count: int) -> None:
        self.wait_until(lambda stats: stats.paused == count)

    def hold_reading(self) -> tuple[Event, Event]:
        """Stop whoever reads an adapter; the first event tells of it, the second lets it go on."""
        reading, gate = Event(), Event()

        def wait() -> None:
            reading.set()
            gate.wait(5)

        self.runner.on_read = wait
        return reading, gate

    def hold(self) -> None:
        """Stop the engine inside its next step."""
        self.runner.is_at_gate.clear()
        self.runner.gate.clear()

    def close(self) -> None:
        self.runner.gate.set()
        self.engine.close()


@pytest.fixture
def open_bench() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(context: int = 64, **changes: object) -> Bench:
        config = msgspec.structs.replace(CONFIG, **changes)
        benches.append(Bench(config, context))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def bench(open_bench: Callable[..., Bench]) -> Bench:
    return open_bench()


def expected(request: GenerationRequest, mix: Sequence[tuple[str, float]] = ()) -> list[Token]:
    return drawn(request, lambda ids: hash_logits(ids, mix))


def of(tenant: str, request: GenerationRequest) -> GenerationRequest:
    fields = {name: getattr(request, name) for name in request.__struct_fields__}
    return GenerationRequest(**fields | {"tenant": tenant, "id": f"{tenant} {request.id}"})


def test_the_caps_are_those_of_the_runner_within_the_configuration(bench: Bench) -> None:
    caps = bench.engine.caps

    assert (caps.base, caps.vocabulary, caps.dtype) == ("b" * 64, 32, "float32")
    assert (caps.context, caps.max_mix, caps.combine) == (64, 8, Combine.ROW)
    assert caps.max_rank is None


def test_a_long_prompt_is_read_in_pieces(bench: Bench) -> None:
    answer(bench.engine, ask((1,) * 40, max_tokens=3))

    assert bench.runner.fed == [16, 16, 8, 1, 1]


def test_a_step_holds_all_answers_and_pieces_of_prompts(bench: Bench) -> None:
    bench.hold()
    first = bench.engine.submit(ask((1, 2), max_tokens=4))
    bench.runner.is_at_gate.wait(5)
    second = bench.engine.submit(ask((3,) * 20, max_tokens=2))
    bench.runner.gate.set()

    assert (len(list(first)), len(list(second))) == (4, 2)
    sizes = [[len(token_ids) for token_ids in step] for step in bench.runner.steps]
    assert sizes == [[2], [1, 16], [1, 4], [1, 1]]
    assert bench.engine.stats().batches == {1: 1, 2: 3}


def test_a_step_keeps_within_its_tokens(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench(max_active=4, step_tokens=20)
    bench.hold()
    streams = [bench.engine.submit(ask((n,) * 40, max_tokens=1)) for n in range(4)]
    bench.runner.gate.set()
    for stream in streams:
        assert len(list(stream)) == 1

    assert max(sum(map(len, step)) for step in bench.runner.steps[1:]) == 20


def test_a_slow_reader_pauses_its_own_answer_only(bench: Bench) -> None:
    slow = bench.engine.submit(ask(max_tokens=50))
    bench.wait_for_paused(1)

    assert len(answer(bench.engine, ask(seed=b"quick", max_tokens=50))) == 50
    assert bench.engine.stats().active == 1
    assert len(list(slow)) == 50


def test_a_reader_that_stays_slow_is_dropped_with_what_was_made(bench: Bench) -> None:
    slow = bench.engine.submit(ask(max_tokens=50))
    bench.wait_for_paused(1)
    bench.now_s += CONFIG.slow_reader_s

    assert slow.usage().finish is Finish.SLOW_READER
    assert len(list(slow)) == CONFIG.buffer_tokens


def test_what_breaks_a_step_fails_alone_and_as_our_fault(bench: Bench) -> None:
    bench.hold()
    first = bench.engine.submit(ask(max_tokens=50))
    bench.runner.is_at_gate.wait(5)
    bad = bench.engine.submit(ask((1, BREAKING_TOKEN)))
    bench.runner.gate.set()

    with pytest.raises(EngineFaultError, match="RuntimeError") as caught:
        list(bad)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert bad.usage().finish is Finish.FAULT
    assert list(first) == expected(ask(max_tokens=50))
    stats = bench.engine.stats()
    assert (stats.finished[Finish.FAULT], stats.broken_batches, stats.kv_blocks_used) == (1, 1, 0)


def test_a_logit_that_is_no_number_ends_its_own_row(bench: Bench) -> None:
    run = bench.runner.run
    bench.runner.run = lambda chunks: _spoiled(run(chunks))  # type: ignore[method-assign]
    bench.hold()
    good = bench.engine.submit(ask((1, 2), max_tokens=3))
    bad = bench.engine.submit(ask((3, 4, 5), seed=b"spoiled", max_tokens=3))
    bench.runner.gate.set()

    with pytest.raises(EngineFaultError, match="EngineFaultError"):
        list(bad)
    assert list(good) == expected(ask((1, 2), max_tokens=3))


def test_a_waiting_request_has_a_deadline_too(bench: Bench) -> None:
    bench.runner.gate.clear()
    first = [bench.engine.submit(ask(seed=bytes([i]), max_tokens=2)) for i in range(2)]
    bench.runner.is_at_gate.wait(5)
    late = bench.engine.submit(ask(max_tokens=2, deadline_s=5.0))
    bench.now_s += 5
    bench.runner.gate.set()

    assert late.usage().finish is Finish.DEADLINE
    assert late.usage().queue_s == 5
    assert late.usage().steps == 0
    assert [len(list(stream)) for stream in first] == [2, 2]


def test_tenants_take_turns_in_the_queue(bench: Bench) -> None:
    bench.runner.gate.clear()
    greedy = [of("greedy", ask(seed=bytes([i]), max_tokens=50)) for i in range(3)]
    streams = [bench.engine.submit(request) for request in greedy]
    polite = bench.engine.submit(of("polite", ask(max_tokens=50)))
    bench.runner.gate.set()
    bench.wait_for_paused(2)
    list(streams[0])
    bench.wait_for_paused(2)

    # The place went to the polite one, though a greedy request had waited longer.
    assert next(polite).logprob <= 0
    assert bench.engine.stats().waiting == 1
    for stream in (*streams, polite):
        stream.cancel()


def test_an_evicted_adapter_is_read_again_when_needed(tmp_path: Path) -> None:
    bench = Bench(Config(threads=1, adapter_bytes=25))
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b", "c")]
    for ref in refs:
        bench.engine.load(ref)
    tiers = {one.digest: one.tier for one in bench.engine.residency()}
    before = answer(bench.engine, ask(mix=use(refs[0])))

    assert [tiers[ref.digest] for ref in refs] == [Tier.DISK, Tier.RAM, Tier.RAM]
    assert before == answer(bench.engine, ask(mix=use(refs[0])))
    stats = bench.engine.stats()
    assert (stats.adapter_loads, stats.adapter_evictions) == (4, 2)
    assert stats.resident_bytes == 20
    bench.engine.close()


def test_a_mix_that_never_fits_fails_and_leaves_nothing_behind(tmp_path: Path) -> None:
    bench = Bench(Config(threads=1, adapter_bytes=25))
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b", "c")]
    for ref in refs:
        bench.engine.load(ref)
    with pytest.raises(InvalidInputError, match="take 30 bytes together"):
        answer(bench.engine, ask(mix=use(*refs)))

    assert all(one.references == 0 for one in bench.engine.residency())
    assert answer(bench.engine, ask(mix=use(*refs[:2])))
    bench.close()


def test_closing_gives_those_in_flight_time_to_end(bench: Bench) -> None:
    bench.runner.gate.clear()
    stream = bench.engine.submit(ask(max_tokens=3))
    bench.runner.gate.set()
    bench.engine.close(drain_s=10)

    assert len(list(stream)) == 3
    assert stream.usage().finish is Finish.LENGTH


def test_closing_ends_what_waits_too(bench: Bench) -> None:
    streams = [bench.engine.submit(ask(seed=bytes([i]), max_tokens=50)) for i in range(3)]
    bench.wait_for_paused(2)
    bench.engine.close()

    assert {stream.usage().finish for stream in streams} == {Finish.SHUTDOWN}
    assert bench.engine.stats().kv_blocks_used == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_broke_says_so() -> None:
    broken = EmbeddedEngine(HashRunner(), Config(threads=0))  # which the runner does not survive
    for _ in range(1_000):
        if not broken.is_alive:
            break
        time.sleep(0.005)

    assert not broken.is_alive
    with pytest.raises(UnavailableError):
        broken.submit(ask())
    broken.close()  # the thread's last words belong to this test


def test_a_mix_longer_than_the_configuration_allows_is_refused(bench: Bench) -> None:
    mix = use(*(AdapterRef(Digest(f"{i:064x}"), Path()) for i in range(9)))
    with pytest.raises(InvalidInputError, match="at most 8 adapters"):
        bench.engine.submit(ask(mix=mix))


def serve_while_reading(bench: Bench, folder: Path, *, until_ended: bool) -> tuple[int, int]:
    """How many tokens two answers get, the second of an adapter that is read meanwhile.

    Reading it goes on when the first answer's first step has ended; or not until all of it has.
    """
    refs = [hash_adapter(folder / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)  # of which one has room
    reading, gate = bench.hold_reading()
    bench.hold()
    first = bench.engine.submit(ask((1, 1), max_tokens=3))
    bench.runner.is_at_gate.wait(5)
    second = bench.engine.submit(ask((2, 2), use(refs[0]), max_tokens=2))
    reading.wait(5)
    bench.now_s += 0.05 if until_ended else 10
    bench.runner.gate.set()
    if until_ended:
        first.usage()
    gate.set()
    return len(list(first)), len(list(second))


def test_a_step_awaits_an_adapter_that_is_being_read(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = open_bench(adapter_bytes=10)

    assert serve_while_reading(bench, tmp_path, until_ended=False) == (3, 2)
    assert [len(step) for step in bench.runner.steps] == [1, 2, 2]


def test_answers_await_an_adapter_for_part_of_a_step_only(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = open_bench(adapter_bytes=10)

    assert serve_while_reading(bench, tmp_path, until_ended=True) == (3, 2)
    assert [len(step) for step in bench.runner.steps] == [1, 1, 1, 1, 1]


def test_an_engine_that_stops_while_an_adapter_is_read_ends_that_request(tmp_path: Path) -> None:
    bench = Bench(Config(threads=1, adapter_bytes=10))
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    reading, gate = bench.hold_reading()
    stream = bench.engine.submit(ask(mix=use(refs[0])))
    reading.wait(5)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(bench.engine.close)
        finish = stream.usage().finish
        gate.set()
        closing.result()

    assert finish is Finish.SHUTDOWN
    assert all(one.references == 0 for one in bench.engine.residency())
    assert bench.engine.stats().resident_bytes <= 10


# Every answer is the one that follows from its request alone


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    beginning = draw(st.sampled_from([(), (1, 2, 3, 4, 5), (1, 2, 3, 4, 6, 7, 8, 9, 10)]))
    prompt = (*beginning, *draw(st.lists(st.integers(0, 9), min_size=1, max_size=40)))
    how = st.sampled_from([0.0, 0.7, 1.0])
    seed = draw(st.binary(min_size=1, max_size=2))
    return ask(prompt, (), draw(how), seed, draw(st.integers(1, 12)), tenant=draw(tenants))


tenants = st.sampled_from(["alice", "bob"])
mixes = st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=2)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(requests(), mixes, st.integers(0, 12)), min_size=1, max_size=14))
def test_company_shared_prefixes_evictions_and_cancelling_change_no_answer(
    tmp_path_factory: pytest.TempPathFactory,
    work: list[tuple[GenerationRequest, list[str], int]],
) -> None:
    folder = tmp_path_factory.mktemp("adapters")
    config = Config(
        threads=1,
        max_active=5,
        max_waiting=100,
        prefill_chunk=7,
        step_tokens=16,
        kv_bytes=30 * HashRunner.block_bytes,
        adapter_bytes=20,
    )
    bench = Bench(config)
    refs = {name: hash_adapter(folder / name, name) for name in ("a", "b", "c")}
    for ref in refs.values():
        bench.engine.load(ref)
    streams = []
    for place, (request, names, _) in enumerate(work):
        mix = tuple(MixMember(refs[name].digest, 0.5) for name in names)
        full = msgspec.structs.replace(request, id=str(place), mix=mix)
        streams.append(bench.engine.submit(full))
    for (request, names, stop), stream in zip(work, streams, strict=True):
        read = [token for token, _ in zip(stream, range(stop), strict=False)]
        stream.cancel()
        mixed = [(name, 0.5) for name in names]
        assert read == expected(request, mixed)[:stop]
    bench.wait_until(lambda stats: not stats.active and not stats.waiting)

    assert bench.engine.stats().kv_blocks_used == 0
    assert all(one.references == 0 for one in bench.engine.residency())
    bench.close()


def test_an_answer_is_a_prefix_of_the_next_question(bench: Bench) -> None:
    prompt = (1, 2, 3, 4, 5, 6)
    long = answer(bench.engine, ask(prompt, max_tokens=16))
    head = tuple(token.id for token in long[:8])
    stream = bench.engine.submit(ask((*prompt, *head), max_tokens=8))

    assert list(stream) == long[8:]
    assert stream.usage().cached_tokens == 12
    assert bench.engine.stats().cached_tokens == 12


def test_two_that_ask_the_same_at_once_read_it_once(bench: Bench) -> None:
    bench.hold()
    first = bench.engine.submit(ask((1, 2) * 12, max_tokens=2))
    bench.runner.is_at_gate.wait(5)
    second = bench.engine.submit(ask((1, 2) * 12, seed=b"other", max_tokens=2))
    bench.runner.gate.set()

    assert list(first) == list(second) == expected(ask((1, 2) * 12, max_tokens=2))
    assert first.usage().cached_tokens == 0
    assert second.usage().cached_tokens == 16


def test_one_who_waited_while_another_read_the_same_takes_it_over(
    open_bench: Callable[..., Bench],
) -> None:
    bench = open_bench(max_active=3, max_waiting=3, step_tokens=22)
    bench.hold()
    streams = [bench.engine.submit(ask((9, 9), max_tokens=1))]
    bench.runner.is_at_gate.wait(5)
    seeds = (b"1", b"2", b"3")
    streams += [bench.engine.submit(ask((1, 2) * 12, (), 1.0, seed, 2)) for seed in seeds]
    bench.runner.gate.set()
    answers = [list(stream) for stream in streams]

    assert answers[1:] == [expected(ask((1, 2) * 12, (), 1.0, seed, 2)) for seed in seeds]
    # In one step: 16 of the first, 4 of the second, which fill a block; 2 are too few for it.
    assert [stream.usage().cached_tokens for stream in streams[1:]] == [0, 12, 16]


@pytest.mark.parametrize("change", [{"tenant": "bob"}, {"mixed": True}])
def test_a_prefix_is_not_shared_with_another_tenant_or_mix(
    bench: Bench, tmp_path: Path, change: dict[str, object]
) -> None:
    ref = hash_adapter(tmp_path / "a", "a")
    bench.engine.load(ref)
    answer(bench.engine, ask((1, 2) * 12))
    mix = use(ref) if change.pop("mixed", False) else ()
    request = ask((1, 2) * 12, mix, **change)  # type: ignore[arg-type]  # a tenant, if anything
    stream = bench.engine.submit(request)

    assert list(stream) == expected(request, [("a", 1.0)] if mix else [])
    assert stream.usage().cached_tokens == 0


# Who gets a place, and when


def order(bench: Bench) -> list[int]:
    """The first tokens of prompts in the order in which reading them began."""
    seen: dict[int, None] = {}
    for step in bench.runner.steps:
        for token_ids in step:
            if len(token_ids) > 1:
                seen[token_ids[0]] = None
    return list(seen)


def test_the_polite_do_not_wait_behind_the_greedy(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench(max_waiting=60, buffer_tokens=50)
    bench.hold()
    greedy = [ask((n, 1, 1), max_tokens=10, tenant="greedy") for n in range(20)]
    polite = [ask((n, 1, 1), max_tokens=10, tenant=f"polite {n}") for n in range(20, 27)]
    streams = [bench.engine.submit(greedy[0])]
    bench.runner.is_at_gate.wait(5)
    streams += [bench.engine.submit(request) for request in [*greedy[1:], *polite]]
    bench.runner.gate.set()
    for stream in streams:
        assert len(list(stream)) == 10

    # One place was the greedy one's before anybody else was there.
    assert set(order(bench)[1:8]) == set(range(20, 27))


def test_a_long_prompt_counts_for_more_than_a_short_one(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench(max_waiting=60, buffer_tokens=60)
    bench.hold()
    streams = [bench.engine.submit(ask((0, 1), max_tokens=50, tenant="steady"))]
    bench.runner.is_at_gate.wait(5)
    for n, tenant in enumerate(["long", "short", "long", "short"], 1):
        prompt = (n,) * (40 if tenant == "long" else 2)
        streams.append(bench.engine.submit(ask(prompt, max_tokens=1, tenant=tenant)))
    bench.runner.gate.set()
    for stream in streams:
        assert list(stream)

    assert order(bench) == [0, 1, 2, 4, 3]


def test_a_request_for_many_blocks_is_passed_by_for_so_long_only(
    open_bench: Callable[..., Bench],
) -> None:
    blocks = 16  # of four tokens: the large one needs them all, each small one half
    bench = open_bench(max_active=8, max_waiting=60, kv_bytes=blocks * HashRunner.block_bytes)
    small = [bench.engine.submit(ask((0, 1), max_tokens=30))]
    large = bench.engine.submit(ask((20, 1), max_tokens=63))
    small += [bench.engine.submit(ask((n, 1), max_tokens=30)) for n in range(1, 4)]
    bench.wait_for_paused(2)
    passed = order(bench)
    bench.now_s += CONFIG.skip_limit_s
    list(small[0])
    bench.wait_until(lambda stats: stats.active == 1)
    list(small[1])
    next(large)

    assert passed == [0, 1]
    assert order(bench) == [0, 1, 20]
    assert bench.engine.stats().kv_blocks_used > 0
    large.cancel()
    assert [len(list(stream)) for stream in small[2:]] == [30, 30]


def test_one_whose_adapter_finds_no_room_is_passed_by_for_so_long_only(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = open_bench(max_waiting=60, adapter_bytes=10)
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    same = [bench.engine.submit(ask((0, 1), use(refs[1]), max_tokens=30))]
    bench.wait_for_paused(1)
    other = bench.engine.submit(ask((20, 1), use(refs[0]), max_tokens=30))
    same += [bench.engine.submit(ask((n, 1), use(refs[1]), max_tokens=30)) for n in range(1, 5)]
    bench.wait_for_paused(2)
    list(same[0])
    bench.wait_for_paused(2)
    passed = order(bench)
    bench.now_s += CONFIG.skip_limit_s
    list(same[1])
    bench.wait_until(lambda stats: stats.active == 1)
    list(same[2])
    next(other)

    assert passed == [0, 1, 2]
    assert order(bench)[3] == 20
    other.cancel()
    assert other.usage().load_s > 0
    assert [len(list(stream)) for stream in same[3:]] == [30, 30]


def test_one_tenant_cannot_take_the_whole_queue(open_bench: Callable[..., Bench]) -> None:
    bench = open_bench(max_waiting=18)
    greedy = [ask(seed=bytes([i]), max_tokens=50, tenant="greedy") for i in range(20)]
    streams = [bench.engine.submit(request) for request in greedy[:16]]
    with pytest.raises(EngineFullError, match="16 of them yours") as caught:
        bench.engine.submit(greedy[16])
    streams += [
        bench.engine.submit(ask(max_tokens=50, tenant=name)) for name in ("anne", "bob", "carl")
    ]

    assert int(caught.value.details["retry_after_s"]) >= 1
    for stream in streams:
        stream.cancel()


def test_a_slow_disk_delays_only_those_who_need_it(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = open_bench(adapter_bytes=10)
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    gate, readers = Event(), []

    def wait() -> None:
        readers.append(current_thread().name)
        gate.wait(5)

    bench.runner.on_read = wait
    slow = bench.engine.submit(ask(mix=use(refs[0]), max_tokens=4))
    others = [bench.engine.submit(ask(mix=mix, max_tokens=4)) for mix in ((), use(refs[1]))]
    before = [list(stream) for stream in others]
    stats = bench.engine.stats()
    gate.set()

    assert before == [
        expected(ask(max_tokens=4)),
        expected(ask(max_tokens=4), [("b", 1.0)]),
    ]
    assert (stats.waiting, stats.active) == (1, 0)
    assert list(slow) == expected(ask(max_tokens=4), [("a", 1.0)])
    assert readers == ["openledger-adapters_0"]


def test_one_cancelled_while_its_adapter_is_read_leaves_the_room_to_others(
    open_bench: Callable[..., Bench], tmp_path: Path
) -> None:
    bench = open_bench(adapter_bytes=10)
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    reading, gate = bench.hold_reading()
    gone = bench.engine.submit(ask(mix=use(refs[0]), max_tokens=4))
    reading.wait(5)
    gone.cancel()
    finish = gone.usage().finish
    gate.set()
    bench.wait_until(lambda stats: stats.adapter_loads == 3)

    assert finish is Finish.CANCELLED
    assert answer(bench.engine, ask(mix=use(refs[1]))) == expected(ask(), [("b", 1.0)])
    bench.engine.unload(refs[0].digest)
    assert [one.digest for one in bench.engine.residency()] == [refs[1].digest]


def test_a_cancelled_answer_is_in_no_later_step(bench: Bench) -> None:
    bench.hold()
    first = bench.engine.submit(ask((1, 1), max_tokens=4))
    bench.runner.is_at_gate.wait(5)
    second = bench.engine.submit(ask((2, 2), max_tokens=4))
    first.cancel()
    bench.runner.gate.set()

    assert len(list(second)) == 4
    assert first.usage().finish is Finish.CANCELLED
    assert [len(step) for step in bench.runner.steps] == [1] * 5


def test_a_deadline_passes_between_two_steps(bench: Bench) -> None:
    late = bench.engine.submit(ask(max_tokens=50, deadline_s=5.0))
    bench.wait_for_paused(1)
    bench.now_s += 5

    assert late.usage().finish is Finish.DEADLINE
    assert late.usage().completion_tokens == CONFIG.buffer_tokens


def test_two_hundred_answers_at_once_lose_and_mix_up_no_token(tmp_path: Path) -> None:
    config = Config(threads=1, max_waiting=400, buffer_tokens=8, adapter_bytes=40)
    bench = Bench(config)
    refs = [hash_adapter(tmp_path / str(i), f"adapter {i}") for i in range(6)]
    for ref in refs:
        bench.engine.load(ref)
    requests = [
        ask(
            (n % 9, n // 9 % 30, 3, 4, 5, 6, 7), (), n % 2, bytes([n]), 12, tenant=f"tenant {n % 7}"
        )
        for n in range(200)
    ]
    streams = [
        bench.engine.submit(
            msgspec.structs.replace(request, id=str(n), mix=use(refs[n % 6]) if n % 3 else ())
        )
        for n, request in enumerate(requests)
    ]
    with ThreadPoolExecutor(40) as pool:
        answers: list[list[Token]] = list(pool.map(list, streams))
    stats = bench.engine.stats()
    bench.close()

    for n, request in enumerate(requests):
        assert answers[n] == expected(request, [(f"adapter {n % 6}", 1.0)] if n % 3 else [])
    assert stats.finished[Finish.LENGTH] == 200
    assert (stats.kv_blocks_used, stats.broken_batches) == (0, 0)


def test_a_full_engine_tells_how_long_it_takes_until_a_place_is_free(bench: Bench) -> None:
    run = bench.runner.run

    def slow(chunks: Sequence[Chunk[HashAdapter]]) -> Output:
        bench.now_s += 3
        return run(chunks)

    bench.runner.run = slow  # type: ignore[method-assign]
    for _ in range(3):
        assert len(answer(bench.engine, ask(max_tokens=2))) == 2
    streams = [bench.engine.submit(ask(seed=bytes([i]), max_tokens=40)) for i in range(4)]
    with pytest.raises(EngineFullError) as caught:
        bench.engine.submit(ask(max_tokens=40))
    for stream in streams:
        stream.cancel()

    # Three answers of two steps each, and what was begun since.
    assert 6 <= int(caught.value.details["retry_after_s"]) <= 15


def test_a_step_without_room_for_prompts_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="step_tokens"):
        EmbeddedEngine(HashRunner(), Config(max_active=8, step_tokens=8))


def test_a_cache_without_room_for_one_request_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="holds 60 tokens and one request may have 64"):
        EmbeddedEngine(HashRunner(), Config(kv_bytes=15 * HashRunner.block_bytes))


def test_an_adapter_that_changed_on_disk_fails_the_requests_that_need_it(
    bench: Bench, tmp_path: Path, open_bench: Callable[..., Bench]
) -> None:
    bench = open_bench(adapter_bytes=10)
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    (refs[0].path / "name").write_text("altered")
    stream = bench.engine.submit(ask(mix=use(refs[0])))

    with pytest.raises(DigestMismatchError):
        list(stream)
    assert stream.usage().finish is Finish.FAULT
    assert answer(bench.engine, ask(mix=use(refs[1])))


def _spoiled(output: Output) -> Output:
    """The second row is no number."""
    output.logits[1:] = np.nan
    return output
