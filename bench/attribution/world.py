"""One data seed of a suite: a tuned model, its queries, and what retraining says of them."""

import sys
import time

import msgspec
import numpy as np

from bench.attribution.kept import Kept, key_of
from bench.attribution.setting import Document, Query, Setting
from bench.attribution.truth import Retraining, Subsets, halves, trajectory, without_each, written
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter
from openledger.training.recipe import Recipe


class Passage(msgspec.Struct, frozen=True):
    """A text that nobody trained on, cut into what is given and what is to be foretold."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Texts(msgspec.Struct, frozen=True):
    """What one data seed draws."""

    documents: tuple[Document, ...]
    held_out: tuple[Passage, ...]  # whose prompts are answered by the adapter, too
    outside: tuple[Passage, ...]  # not of the subject
    answer_tokens: int  # the longest that is generated


class Retrainings(msgspec.Struct, frozen=True):
    """How much is retrained."""

    checkpoints: int = 4
    people: int = 48  # random halves of the contributors
    documents: int = 48  # random halves of the documents
    seeds: int = 3  # trainings behind each figure of the truth
    together: int = 8  # adapters in one pass


class World(msgspec.Struct, frozen=True):
    """One data seed: the tuned model, its queries and what retraining says of them."""

    setting: Setting
    retraining: Retraining
    by_contributor: Subsets
    by_document: Subsets | None  # None where that was not asked
    left_out: Subsets  # each contributor in turn
    whole: np.ndarray  # (seeds, Q) losses with all documents


class Plan(msgspec.Struct, frozen=True):
    """What a world is made of."""

    base: BaseModel
    recipe: Recipe
    texts: Texts
    retrainings: Retrainings
    name: str  # for people
    seed: int


def make(plan: Plan, kept: Kept) -> World:
    """Train on the texts, and retrain without parts of them; what is kept is not done again."""
    documents, wanted = plan.texts.documents, plan.retrainings
    rows = tuple(one.tokens for one in documents)
    retraining = Retraining(plan.base, plan.recipe, rows, kept, wanted.together)
    checkpoints = trajectory(retraining, 0, wanted.checkpoints)
    queries = queries_of(plan, retraining, checkpoints[-1].adapter)
    setting = Setting(plan.base, checkpoints, documents, queries)
    owner = setting.owner
    seeds = [*range(1, wanted.seeds + 1)]
    subsets = wanted.people + wanted.documents + len(setting.contributors) + 1
    tell = _Told(plan.name, subsets * len(seeds))
    everything = np.ones((1, len(documents)), np.int8)
    each = np.arange(len(documents))
    return World(
        setting=setting,
        retraining=retraining,
        by_contributor=retraining.losses(
            halves(owner, wanted.people, plan.seed), queries, seeds, tell
        ),
        by_document=retraining.losses(
            halves(each, wanted.documents, plan.seed), queries, seeds, tell
        )
        if wanted.documents
        else None,
        left_out=retraining.losses(without_each(owner), queries, seeds, tell),
        whole=retraining.losses(everything, queries, seeds, tell).losses[:, 0],
    )


def queries_of(plan: Plan, retraining: Retraining, adapter: Adapter) -> tuple[Query, ...]:
    """What is asked, numbered by kind in the order of the passages."""
    texts = plan.texts
    prompts = [one.prompt for one in texts.held_out]
    training, asked = retraining.key(None, 0), key_of([prompts, texts.answer_tokens, plan.seed])
    answers = retraining.kept.answers(training, asked)
    if answers is None:
        answers = written(plan.base, adapter, prompts, texts.answer_tokens, plan.seed)
        retraining.kept.keep_answers(training, asked, answers)
    generated = [Passage(*pair) for pair in zip(prompts, answers, strict=True)]
    kinds = {"held-out": texts.held_out, "generated": generated, "outside": texts.outside}
    return tuple(
        Query(f"{kind}/{number}", one.prompt, one.answer, kind)
        for kind, passages in kinds.items()
        for number, one in enumerate(passages)
        if one.answer  # an adapter may end at once
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
