"""Where attacks are tried: honest contributors, what is asked of their model, and what is paid.

The adapters of the tiny suite gain little over their base, so that most of the data money of most
answers is nobody's. What an attack changes is judged on shares *apart from gain*: each answer's
influence as the product scores it, divided by the product's rules as if its gain were full.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from bench.attribution import ours
from bench.attribution.corpus import Pages, draw
from bench.attribution.setting import Checkpoint, Document, Query, Setting
from bench.attribution.small_base import small_base
from bench.attribution.tiny import PROMPT_TOKENS, RECIPE, Scale, documents_of, queries_of
from bench.attribution.truth import Retraining, written
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter
from openledger.settlement.shares import Gain, shares

_FULL = Gain(over_base_micronats=1, over_null_micronats=1, cap_ppb=PARTS_PER_BILLION)


class Stage(msgspec.Struct, frozen=True):
    """One data seed before anybody attacks."""

    base: BaseModel
    documents: tuple[Document, ...]
    adapter: Adapter
    queries: tuple[Query, ...]  # held-out and generated, equally many of each contributor
    seed: int
    seeds: tuple[int, ...]  # of the trainings behind each figure of the truth

    @property
    def contributors(self) -> tuple[str, ...]:
        """The honest ones, in order."""
        return tuple(dict.fromkeys(document.contributor for document in self.documents))

    def about(self, names: Collection[str]) -> np.ndarray:
        """(Q,) whether each query is about one of these contributors' subjects."""
        people = self.contributors
        each = len(self.queries) // 2 // len(people)
        owners = [people[place // each] for place in range(each * len(people))] * 2
        return np.array([owner in names for owner in owners])


def stage(pages: Pages, cache: Path, seed: int, scale: Scale) -> Stage:
    """Draw a Datanet and train on it, as the suite does."""
    base = small_base(cache, pages, scale.base_steps)
    datanet = draw(pages.pool, base.tokenizer, seed, scale.size)
    documents = documents_of(base, datanet)
    adapter = taught(base, documents)
    pieces = [piece for some in datanet.held_out for piece in some]
    prompts = [piece[:PROMPT_TOKENS] for piece in pieces]
    answers = written(base, adapter, prompts, len(pieces[0]) - PROMPT_TOKENS, seed)
    held_out = [(piece[:PROMPT_TOKENS], piece[PROMPT_TOKENS:]) for piece in pieces]
    generated = list(zip(prompts, answers, strict=True))
    queries = (*queries_of("held-out", held_out), *queries_of("generated", generated))
    return Stage(base, documents, adapter, queries, seed, tuple(range(1, scale.seeds + 1)))


def taught(base: BaseModel, documents: Sequence[Document]) -> Adapter:
    """The adapter that these documents make."""
    everything = np.ones((1, len(documents)), np.int8)
    return _retraining(base, documents).adapters(everything, 0)[0]


def setting(
    one: Stage,
    documents: Sequence[Document],
    adapter: Adapter | None = None,
    elsewhere: Sequence[Document] = (),
) -> Setting:
    """These documents and their adapter, asked what the stage asks."""
    final = adapter or taught(one.base, documents)
    return Setting(
        base=one.base,
        checkpoints=(Checkpoint(final, 0.0),),
        documents=tuple(documents),
        queries=one.queries,
        elsewhere=tuple(elsewhere),
    )


def pays(asked: Setting) -> Mapping[str, np.ndarray]:
    """By contributor, (Q,) what each answer pays apart from gain, in parts of its data money."""
    attributor, _ = ours.opened(asked)
    name_of = dict(zip(ours.accounts_of(asked), asked.contributors, strict=True))
    paid = {name: np.zeros(len(asked.queries)) for name in asked.contributors}
    for number, query in enumerate(asked.queries):
        clusters = attributor.influence(query.prompt, query.answer)
        for share in shares(_FULL, clusters).shares:
            paid[name_of[share.account]][number] = share.weight_ppb / PARTS_PER_BILLION
    return paid


def effects(
    one: Stage, documents: Sequence[Document], groups: Sequence[Collection[str]]
) -> np.ndarray:
    """(G, Q) nats by which each answer token is less likely without each group's documents."""
    everything = [True] * len(documents)
    without = [[one.contributor not in group for one in documents] for group in groups]
    kept = np.array([everything, *without], dtype=np.int8)
    found = _retraining(one.base, documents).losses(kept, one.queries, one.seeds, _say_nothing)
    losses = found.losses.mean(0)  # (1 + G, Q)
    rise: np.ndarray = losses[1:] - losses[0]
    return rise


def _retraining(base: BaseModel, documents: Sequence[Document]) -> Retraining:
    return Retraining(base, RECIPE, tuple(one.tokens for one in documents))


def _say_nothing(adapters: int) -> None:
    """A retraining is not worth a line of its own here."""
