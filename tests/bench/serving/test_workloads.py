"""What the workloads count, on an engine whose answers are known."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from bench.serving.workloads.loading import drop
from bench.serving.workloads.streams import lost, mixed_up
from bench.serving.workloads.traffic import Answer, Asker, Shape, all_at_once, alone, answer
from bench.serving.world import SMALLEST, Needs, World, make_world
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config
from openledger.serving.request import Finish, GenerationRequest, Usage
from tests.fakes import HashAdapter, HashRunner

SHAPE = Shape(prompt_tokens=4, answer_tokens=6)
SHARED_MEMORY = Path("/dev/shm")  # its pages are the files
HashEngine = EmbeddedEngine[HashAdapter]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    size = SMALLEST.__class__("hash", 64, 2, 4, 2, 96, vocabulary=32)
    return make_world(tmp_path_factory.mktemp("world"), size, Needs(1, 1, 4, 4))


@pytest.fixture
def engine() -> Iterator[HashEngine]:
    made = EmbeddedEngine(HashRunner(), Config(threads=1, max_active=4, max_waiting=16))
    yield made
    made.close()


def got(
    request: GenerationRequest,
    token_ids: tuple[int, ...],
    finish: Finish,
    *,
    is_broken_off: bool = False,
) -> Answer:
    usage = Usage(4, len(token_ids), 1, 0.0, 0.0, 0.0, 0.0, finish)
    return Answer(request, token_ids, 0.0, 0.0, usage, is_broken_off)


def test_a_caller_asks_for_the_same_in_every_run_and_never_twice(world: World) -> None:
    first, again = Asker(world, SHAPE, "one"), Asker(world, SHAPE, "one")
    asked = [first.ask([]) for _ in range(3)]

    assert asked == [again.ask([]) for _ in range(3)]
    assert len({one.prompt_ids for one in asked}) == 3
    assert asked[0] != Asker(world, SHAPE, "one", caller=1).ask([])


def test_an_answer_in_company_is_that_which_is_made_alone(world: World, engine: HashEngine) -> None:
    callers = [[Asker(world, SHAPE, f"caller {n}").ask([])] for n in range(5)]

    answers = all_at_once(engine, callers)

    assert all(one.is_whole and not one.is_broken_off for (one,) in answers)
    assert all(alone(engine, one.request).token_ids == one.token_ids for (one,) in answers)


def test_who_is_stopped_leaves_nothing_behind(world: World, engine: HashEngine) -> None:
    stop = Event()
    stop.set()

    found = answer(engine, Asker(world, Shape(4, 50), "one").ask([]), stop)

    assert len(found.token_ids) == 1
    assert found.is_broken_off
    assert found.usage.finish in (Finish.CANCELLED, Finish.LENGTH)
    assert not lost([[found]])
    assert engine.stats().active == 0


def test_a_short_answer_and_an_idle_caller_count_as_lost(world: World) -> None:
    request = Asker(world, SHAPE, "one").ask([])
    whole = got(request, (1, 2, 3, 4, 5, 6), Finish.LENGTH)

    assert lost([[whole]]) == 0
    assert lost([[whole, got(request, (1, 2, 3, 4, 5), Finish.LENGTH)]]) == 1
    assert lost([[whole, got(request, (1,), Finish.CANCELLED)]]) == 1
    assert lost([[got(request, (), Finish.CANCELLED, is_broken_off=True)], [whole]]) == 1


@pytest.mark.parametrize("finish", [Finish.CANCELLED, Finish.LENGTH])
def test_what_a_caller_broke_off_is_not_lost(world: World, finish: Finish) -> None:
    """The engine may have been done before it heard of it."""
    request = Asker(world, SHAPE, "one").ask([])

    assert lost([[got(request, (1, 2), finish, is_broken_off=True)]]) == 0
    assert lost([[got(request, (1, 2), Finish.FAULT, is_broken_off=True)]]) == 1


def test_another_token_is_a_mix_up_and_a_beginning_is_none(world: World) -> None:
    request = Asker(world, SHAPE, "one").ask([])
    single = [(1, 2, 3, 4, 5, 6)]

    assert mixed_up([[got(request, (1, 2, 3), Finish.CANCELLED)]], single) == 0
    assert mixed_up([[got(request, (1, 2, 4), Finish.CANCELLED)]], single) == 1
    assert mixed_up([[got(request, (1, 2, 3, 4, 5, 6, 7), Finish.LENGTH)]], single) == 1


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no file system without a disk here")
def test_what_stays_in_memory_does_not_count_as_dropped() -> None:
    with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY) as file:
        file.write(bytes(1 << 16))
        file.flush()

        assert not drop(Path(file.name))
