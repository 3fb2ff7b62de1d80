"""A small task on the tiny base: short tunes by a few people."""

from hashlib import sha256
from pathlib import Path

from openledger.core.types import Account, Digest
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.training.recipe import Recipe
from openledger.training.rows import Example
from openledger.training.task import Task

SEED = bytes(range(32))
QUICK = Recipe(
    rank=4,
    last_layers=2,
    learning_rate_micro=5_000,
    epochs=3,
    max_length=64,
    warmup_steps=2,
    precision="float32",
    probe_tokens=100,
)


def tiny_base(folder: Path) -> BaseModel:
    build_tiny(folder)
    return load_base(folder)


def example(number: int, text: str | None = None, key: str | None = None) -> Example:
    title = f"Tune {number}"
    notes = "|".join("GABc"[(number + i) % 4 :] + "dcBA"[: 1 + i % 4] for i in range(4))
    body = f"X:1\nT:{title}\nM:4/4\nK:G\n|:{notes}:|" if text is None else text
    return Example(
        digest=Digest(sha256(body.encode()).hexdigest()),
        document=number,
        account=Account("0x" + f"{number % 3:040x}"),
        text=body,
        key=title.lower() if key is None else key,
    )


def small_task(recipe: Recipe = QUICK, seed: bytes = SEED) -> Task:
    training = tuple(example(number) for number in range(10))
    held_out = tuple(example(number) for number in range(10, 14))
    return Task(recipe, seed, training, held_out)
