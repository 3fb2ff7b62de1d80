import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openledger.core.errors import EngineFaultError, InvalidInputError, UnavailableError
from openledger.core.types import Digest
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import AdapterRef, Combine, Config, Tier
from openledger.serving.request import Finish, GenerationRequest
from tests.serving.conformance import EngineConformance, Kit, answer, ask, use
from tests.serving.tiny import BREAKING_TOKEN, HashAdapter, HashRunner, hash_adapter

CONFIG = Config(threads=1, max_active=2, max_waiting=2, buffer_tokens=4, prefill_chunk=16)


class TestEmbeddedEngine(EngineConformance):
    @pytest.fixture
    def kit(self, tmp_path: Path) -> Iterator[Kit]:
        engine = EmbeddedEngine(HashRunner(), CONFIG)
        yield Kit(
            engine=engine,
            first=hash_adapter(tmp_path / "first", "first"),
            second=hash_adapter(tmp_path / "second", "second"),
            broken=hash_adapter(tmp_path / "broken", "broken", "altered"),
            missing=AdapterRef(Digest("f" * 64), tmp_path / "missing"),
            capacity=4,
        )
        engine.close()


class Bench:
    """An engine over a HashRunner, with a clock that the test moves."""

    def __init__(self, config: Config = CONFIG, context: int = 64) -> None:
        self.now_s = 1_000.0
        self.runner = HashRunner(context)
        self.engine: EmbeddedEngine[HashAdapter] = EmbeddedEngine(
            self.runner, config, lambda: self.now_s
        )

    def wait_for_paused(self, count: int) -> None:
        for _ in range(1_000):
            if self.engine.stats().paused == count:
                return
            time.sleep(0.005)
        raise AssertionError(f"never {count} paused: {self.engine.stats()}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.runner.gate.set()
    bench.engine.close()


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


def test_answers_take_turns(bench: Bench) -> None:
    bench.runner.gate.clear()
    streams = [bench.engine.submit(ask((1,) * n, max_tokens=3)) for n in (2, 5)]
    bench.runner.gate.set()
    for stream in streams:
        assert len(list(stream)) == 3

    # The first had its prompt read before the second was there; from then on they alternate.
    assert bench.runner.fed[0] == 2
    assert sorted(bench.runner.fed) == [1, 1, 1, 1, 2, 5]
    assert bench.runner.fed.index(5) <= 2


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


def test_a_broken_sequence_fails_alone_and_as_our_fault(bench: Bench) -> None:
    good = bench.engine.submit(ask(max_tokens=50))
    bad = bench.engine.submit(ask((1, BREAKING_TOKEN)))

    with pytest.raises(EngineFaultError, match="RuntimeError") as caught:
        list(bad)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert bad.usage().finish is Finish.FAULT
    assert len(list(good)) == 50
    assert bench.engine.stats().finished[Finish.FAULT] == 1
    assert bench.runner.opened == bench.runner.closed == 2


def test_a_waiting_request_has_a_deadline_too(bench: Bench) -> None:
    bench.runner.gate.clear()
    first = [bench.engine.submit(ask(seed=bytes([i]), max_tokens=2)) for i in range(2)]
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


def test_a_request_that_fails_to_load_leaves_nothing_behind(tmp_path: Path) -> None:
    bench = Bench(Config(threads=1, adapter_bytes=25))
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b", "c")]
    for ref in refs:
        bench.engine.load(ref)
    with pytest.raises(UnavailableError):
        bench.engine.submit(ask(mix=use(*refs)))

    assert all(one.references == 0 for one in bench.engine.residency())
    assert answer(bench.engine, ask(mix=use(*refs[:2])))
    bench.engine.close()


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
    assert bench.runner.opened == bench.runner.closed


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


def test_an_engine_that_stops_while_an_adapter_is_read_ends_that_request(tmp_path: Path) -> None:
    bench = Bench(Config(threads=1, adapter_bytes=10))
    refs = [hash_adapter(tmp_path / name, name) for name in ("a", "b")]
    for ref in refs:
        bench.engine.load(ref)
    bench.runner.on_read = bench.engine.close
    stream = bench.engine.submit(ask(mix=use(refs[0])))

    assert stream.usage().finish is Finish.SHUTDOWN
    assert all(one.references == 0 for one in bench.engine.residency())
