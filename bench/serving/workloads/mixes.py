"""Answers under several adapters each: right, and what each more of them costs."""

import statistics
from pathlib import Path

import torch

from bench.serving.peers.own import Own
from bench.serving.workloads.ranks import APART
from bench.serving.world import World, first_adapters, on_peft
from bench.table import Row, at_most

SIZES = (1, 2, 4, 8)
_ROWS = 8
_WEIGHTS = (0.7, 0.2, 0.1)


def mixes(world: World, folder: Path, rounds: int, tokens: int) -> list[Row]:
    """Logits apart from those of peft's merged adapter, and decode speed by members of a mix."""
    name = f"{world.size.name} B{_ROWS}"
    apart = _apart(world, folder)
    rows = [at_most(f"{name}, mix of {len(_WEIGHTS)}: logits apart from peft", apart, "", APART)]
    own = Own(world, "bfloat16", folder)
    prompts, count = world.prompts[:_ROWS], len(world.adapters)
    costs: dict[int, list[float]] = {size: [] for size in SIZES if size <= count}
    for turn in range(rounds + 1):
        for size, found in costs.items():
            places = [
                [(row * size + k) % count for k in range(size)] for row in range(len(prompts))
            ]
            cost = own.answer(prompts, [own.mean_of(one) for one in places], tokens if turn else 2)
            assert cost.decode_s is not None
            found.extend([cost.decode_s] if turn else [])
    for size, found in costs.items():
        speed = len(prompts) * tokens / statistics.median(found)
        rows.append(Row(f"{name}, {size} adapters a row, decode", speed, "tok/CPU-s"))
    return rows


@torch.inference_mode()
def _apart(world: World, folder: Path) -> float:
    few = first_adapters(world, len(_WEIGHTS))
    own, peft = Own(few, "float32", folder), on_peft(few, "float32")
    members = [str(place) for place in range(len(_WEIGHTS))]
    peft.add_weighted_adapter(members, list(_WEIGHTS), "mix", combination_type="cat")
    peft.set_adapter("mix")
    prompts = world.prompts[:_ROWS]
    theirs = peft(torch.tensor(prompts)).logits[:, -1].numpy()
    mine = own.logits(len(prompts), [own.mix_of(_WEIGHTS)] * len(prompts))
    return float(abs(mine - theirs).max())
