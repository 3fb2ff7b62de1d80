"""Hundreds of answers at once for a while: none lost, none mixed up.

Each caller asks again and again for one answer of his own. Whatever company it is made in, it must
have the tokens that it has by itself.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Timer

import msgspec

from bench.serving.workloads.traffic import (
    Answer,
    Asker,
    Shape,
    all_at_once,
    alone,
    engine_of,
    runner_of,
)
from bench.serving.world import World
from bench.table import Row, exactly
from openledger.serving.engine import Config
from openledger.serving.request import Finish, GenerationRequest

_BROKEN_OFF = (Finish.CANCELLED, Finish.LENGTH)  # how an engine may end what is broken off


class StreamsPlan(msgspec.Struct, frozen=True):
    """How many for how long; prompts and answers have one token to so many."""

    streams: int
    seconds: float
    most: Shape


def streams(world: World, folder: Path, plan: StreamsPlan) -> list[Row]:
    """Answers that lack tokens, and answers that differ from the same alone."""
    config = Config(
        context=plan.most.prompt_tokens + plan.most.answer_tokens + 1,
        max_active=plan.streams,
        max_waiting=plan.streams,
        step_tokens=2 * plan.streams + 128,
    )
    first = [_first(world, plan, number) for number in range(plan.streams)]
    stop = Event()
    with engine_of(runner_of(world, folder), config) as engine:
        for ref in world.refs:
            engine.load(ref)
        Timer(plan.seconds, stop.set).start()
        started_s = time.process_time()
        answers = all_at_once(engine, [_again(one) for one in first], stop)
        cpu_s = time.process_time() - started_s
        single = [alone(engine, one).token_ids for one in first]
    name = f"{world.size.name}: {plan.streams} streams for {plan.seconds:g} s"
    made = list(itertools.chain.from_iterable(answers))
    tokens = sum(len(one.token_ids) for one in made)
    return [
        Row(f"{name}, whole answers", sum(one.is_whole for one in made), ""),
        Row(f"{name}, different answers among them", len(set(single)), ""),
        Row(f"{name}, speed", tokens / cpu_s, "tok/CPU-s"),
        exactly(f"{name}, answers that lack tokens", lost(answers), "", 0),
        exactly(
            f"{name}, answers that differ from the same alone", mixed_up(answers, single), "", 0
        ),
    ]


def lost(answers: Sequence[Sequence[Answer]]) -> int:
    """Answers that ended early without being broken off, and callers who got nothing.

    The engine may have made a whole answer of which the caller, breaking off, read a part.
    """
    short = (
        not one.is_whole and not (one.is_broken_off and one.usage.finish in _BROKEN_OFF)
        for found in answers
        for one in found
    )
    return sum(short) + sum(not any(one.token_ids for one in found) for found in answers)


def mixed_up(answers: Sequence[Sequence[Answer]], single: Sequence[tuple[int, ...]]) -> int:
    """An answer that was broken off must be the beginning of its single run."""
    return sum(
        one.token_ids != wanted[: len(one.token_ids)]
        for found, wanted in zip(answers, single, strict=True)
        for one in found
    )


def _first(world: World, plan: StreamsPlan, number: int) -> GenerationRequest:
    """The lengths of no two neighbours are equal."""
    shape = Shape(1 + number % plan.most.prompt_tokens, 1 + 7 * number % plan.most.answer_tokens)
    ref = world.refs[number % len(world.refs)]
    return Asker(world, shape, f"stream {number}").ask([ref.digest])


def _again(request: GenerationRequest) -> Iterator[GenerationRequest]:
    for count in itertools.count():
        yield msgspec.structs.replace(request, id=f"{request.id} {count}")
