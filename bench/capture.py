"""What capture costs the embedded engine: log-probabilities always, hidden states on request.

Each round makes the same answers on one thread by the whole engine without hidden states, with
them, and without again; figures are medians over the rounds of one beside the other, and the last
of the three says how far two like runs are apart. Prompts are of one token, so that next to all
CPU time is decode. Log-probabilities are never left out: their part is that of drawing.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

if not __package__:  # started by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.serving.world import SMALL, SMALLEST, SMOLLM2, Needs, Size, World, make_world
from bench.table import Row, at_most, exactly, options, run
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.request import GenerationRequest, MixMember, Sampling
from openledger.serving.runner import LlamaRunner
from openledger.serving.sampling import Sampler

_MOST = 4.0  # percent of decode
_DRAWS = 200


class Plan(msgspec.Struct, frozen=True):
    """How much is measured on one model."""

    size: Size
    rows: int  # B, each under an adapter of its own
    rounds: int
    tokens: int  # of each answer
    is_judged: bool = True


class Decode(msgspec.Struct, frozen=True):
    """One run of all answers."""

    token_s: float  # CPU time of one token
    token_ids: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 1 when a target was missed."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    return run(measure, parser.parse_args(arguments))


def measure(chosen: argparse.Namespace) -> list[Row]:
    """All rows."""
    torch.set_num_threads(1)
    if chosen.smoke:
        plans = [Plan(SMALLEST, 2, 1, 3, is_judged=False)]
    else:
        plans = [Plan(SMALL, 8, chosen.rounds, 24), Plan(SMALL, 32, chosen.rounds, 24)]
        plans += [Plan(SMOLLM2, 8, chosen.rounds, 12)]
    rows = []
    for plan in plans:
        with tempfile.TemporaryDirectory(prefix="openledger-capture-") as scratch:
            world = make_world(
                Path(scratch), plan.size, Needs(plan.rows, plan.rows, 1, plan.tokens)
            )
            for precision in ("float32", "bfloat16"):
                rows += _measured(world, precision, plan)
    return rows


def _measured(world: World, precision: str, plan: Plan) -> list[Row]:
    runner = LlamaRunner(world.bases[precision])
    config = Config(threads=1, max_active=plan.rows, step_tokens=2 * plan.rows + 16)
    engine = EmbeddedEngine(runner, config)
    try:
        for ref in world.refs:
            engine.load(ref)
        _decode(engine, world, plan, keeps_hidden=True)  # warms up
        rounds = [
            [_decode(engine, world, plan, keeps_hidden=kept) for kept in (False, True, False)]
            for _ in range(plan.rounds)
        ]
    finally:
        engine.close()
    token_s = statistics.median(plain.token_s for plain, _, _ in rounds)
    name = f"{plan.size.name} B{plan.rows}N{plan.rows} {precision}"
    differ = sum(len({one.token_ids for one in turn}) > 1 for turn in rounds)
    share = 100 * _logprob_s(plan.size.vocabulary) / token_s
    states = _median_percent((kept, plain) for plain, kept, _ in rounds)
    noise = _median_percent((again, plain) for plain, _, again in rounds)
    return [
        exactly(f"{name}: rounds whose answers differ", differ, "", 0),
        Row(f"{name}: a token", 1_000 * token_s, "CPU-ms"),
        _judged(f"{name}: its log-probability", share, plan),
        _judged(f"{name}: its hidden state", states, plan),
        Row(f"{name}: nothing, again", noise, "%"),
    ]


def _median_percent(pairs: Iterable[tuple[Decode, Decode]]) -> float:
    """How much dearer the first of a pair is."""
    return 100 * (statistics.median(one.token_s / other.token_s for one, other in pairs) - 1)


def _judged(name: str, percent: float, plan: Plan) -> Row:
    return at_most(name, percent, "%", _MOST) if plan.is_judged else Row(name, percent, "%")


def _decode(
    engine: EmbeddedEngine[PackedAdapter], world: World, plan: Plan, *, keeps_hidden: bool
) -> Decode:
    started = time.process_time()
    streams = [
        engine.submit(_request(world, row, plan.tokens, keeps_hidden=keeps_hidden))
        for row in range(plan.rows)
    ]
    made = [token for stream in streams for token in stream]
    spent_s = time.process_time() - started
    assert len(made) == plan.rows * plan.tokens
    assert all((token.hidden is not None) == keeps_hidden for token in made)
    return Decode(spent_s / len(made), tuple(token.id for token in made))


def _request(world: World, row: int, tokens: int, *, keeps_hidden: bool) -> GenerationRequest:
    return GenerationRequest(
        id=str(row),
        tenant="bench",
        prompt_ids=world.prompts[row],
        mix=(MixMember(world.refs[row].digest, 1.0),),
        sampling=Sampling(bytes(32), temperature=0),
        max_tokens=tokens,
        stop_ids=frozenset(),
        deadline_s=600.0,
        keeps_hidden=keeps_hidden,
    )


def _logprob_s(vocabulary: int) -> float:
    """CPU time that drawing the likeliest token takes beyond finding it."""
    logits = np.random.default_rng(0).normal(size=vocabulary).astype(np.float32)
    sampler = Sampler(Sampling(bytes(32), temperature=0), ())
    started = time.process_time()
    for _ in range(_DRAWS):
        sampler.draw(logits)
    drawn = time.process_time()
    for _ in range(_DRAWS):
        logits.argmax()
    return (2 * drawn - started - time.process_time()) / _DRAWS


if __name__ == "__main__":
    raise SystemExit(main())
