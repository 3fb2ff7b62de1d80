"""The tiny suite: a small base, sixteen contributors, hundreds of retrainings."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from bench.attribution.corpus import Datanet, Pages, Size, draw
from bench.attribution.setting import Document, Query, Setting
from bench.attribution.small_base import small_base
from bench.attribution.truth import Retraining, Subsets, halves, trajectory, without_each, written
from openledger.lm.base import BaseModel
from openledger.training.recipe import Recipe

PROMPT_TOKENS = 20  # of each piece; the others are the answer

RECIPE = Recipe(
    rank=4,
    alpha=8,
    last_layers=3,
    learning_rate_micro=4_000,
    epochs=5,
    batch_size=16,
    max_length=64,
    warmup_steps=5,
    precision="float32",
    anchor_weight_hundredths=0,
)


class Scale(msgspec.Struct, frozen=True):
    """How much is trained and retrained."""

    size: Size = Size()
    base_steps: int = 2_000
    checkpoints: int = 4
    halves: int = 48  # random halves of the contributors, and as many of the documents
    seeds: int = 3  # trainings behind each figure of the truth


SMOKE = Scale(Size(contributors=3, training=3, held_out=1, outside=2), 10, 2, 3, 2)


class World(msgspec.Struct, frozen=True):
    """One data seed: the tuned model, its queries and what retraining says of them."""

    setting: Setting
    by_contributor: Subsets
    by_document: Subsets
    left_out: Subsets  # each contributor in turn
    whole: np.ndarray  # (seeds, Q) losses with all documents


def world(pages: Pages, cache: Path, seed: int, scale: Scale) -> World:
    """Draw a Datanet, train on it, and retrain without parts of it."""
    base = small_base(cache, pages, scale.base_steps)
    datanet = draw(pages.pool, base.tokenizer, seed, scale.size)
    documents = documents_of(base, datanet)
    retraining = Retraining(base, RECIPE, tuple(one.tokens for one in documents))
    checkpoints = trajectory(retraining, 0, scale.checkpoints)
    held_out = [piece for pieces in datanet.held_out for piece in pieces]
    prompts = [piece[:PROMPT_TOKENS] for piece in held_out]
    final = checkpoints[-1].adapter
    answers = written(base, final, prompts, len(held_out[0]) - PROMPT_TOKENS, seed)
    queries = (
        *queries_of(
            "held-out", [(piece[:PROMPT_TOKENS], piece[PROMPT_TOKENS:]) for piece in held_out]
        ),
        *queries_of("generated", list(zip(prompts, answers, strict=True))),
        *queries_of(
            "outside", [(piece[:PROMPT_TOKENS], piece[PROMPT_TOKENS:]) for piece in datanet.outside]
        ),
    )
    setting = Setting(base, checkpoints, documents, queries)
    owner = setting.owner
    seeds = [*range(1, scale.seeds + 1)]
    tell = _Told(f"data seed {seed}", (2 * scale.halves + len(datanet.names) + 1) * len(seeds))
    everything = np.ones((1, len(documents)), np.int8)
    each = np.arange(len(documents))
    return World(
        setting=setting,
        by_contributor=retraining.losses(halves(owner, scale.halves, seed), queries, seeds, tell),
        by_document=retraining.losses(halves(each, scale.halves, seed), queries, seeds, tell),
        left_out=retraining.losses(without_each(owner), queries, seeds, tell),
        whole=retraining.losses(everything, queries, seeds, tell).losses[:, 0],
    )


class _Told:
    """One line on stderr now and then, since this takes long."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0
        self._began = time.process_time()

    def __call__(self, adapters: int) -> None:
        self._done += adapters
        spent = time.process_time() - self._began
        line = f"{self._name}: {self._done}/{self._total} retrainings, {spent:.0f} CPU-s"
        print(line, file=sys.stderr, flush=True)


def documents_of(base: BaseModel, datanet: Datanet) -> tuple[Document, ...]:
    """What a Datanet's contributors brought, in order."""
    return tuple(
        Document(f"{name}/{number}", name, base.tokenizer.decode(piece), piece)
        for name, pieces in zip(datanet.names, datanet.training, strict=True)
        for number, piece in enumerate(pieces)
    )


def queries_of(kind: str, parts: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[Query]:
    """Queries of one kind, numbered, from prompts and answers."""
    return [
        Query(f"{kind}/{number}", prompt, answer, kind)
        for number, (prompt, answer) in enumerate(parts)
    ]
