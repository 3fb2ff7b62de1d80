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
from openledger.attribution.attribute import Attributor
from openledger.attribution.method import PLACEBO_MICRONATS_PER_TOKEN
from openledger.core.types import PARTS_PER_BILLION, Account
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter
from openledger.settlement.shares import Attribution, ClusterScore, Gain, shares

_FULL = Gain(over_base_micronats=1, over_null_micronats=1, cap_ppb=PARTS_PER_BILLION)


class Stage(msgspec.Struct, frozen=True):
    """One data seed before anybody attacks."""

    base: BaseModel
    documents: tuple[Document, ...]
    adapter: Adapter
    paid: Mapping[str, np.ndarray]  # by contributor, (Q,) before any attack
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
    quiet = Stage(base, documents, adapter, {}, queries, seed, tuple(range(1, scale.seeds + 1)))
    paid = payer(quiet, documents, adapter).pays(queries)
    return msgspec.structs.replace(quiet, paid=paid)


def taught(base: BaseModel, documents: Sequence[Document]) -> Adapter:
    """The adapter that these documents make."""
    everything = np.ones((1, len(documents)), np.int8)
    return _retraining(base, documents).adapters(everything, 0)[0]


class Payer(msgspec.Struct, frozen=True):
    """A release, built as the product does, which says what answers pay."""

    attributor: Attributor
    names: Mapping[Account, str]
    clusters: tuple[int, ...]  # of each document

    def influence(self, queries: Sequence[Query]) -> list[tuple[ClusterScore, ...]]:
        """The scores of each answer, whatever it gained."""
        return [self.attributor.influence(one.prompt, one.answer) for one in queries]

    def pays(self, queries: Sequence[Query]) -> dict[str, np.ndarray]:
        """By contributor, (Q,) parts of one that each answer pays apart from gain."""
        paid = {name: np.zeros(len(queries)) for name in self.names.values()}
        for number, clusters in enumerate(self.influence(queries)):
            for share in divided(clusters).shares:
                paid[self.names[share.account]][number] = share.weight_ppb / PARTS_PER_BILLION
        return paid

    def gained(self, queries: Sequence[Query]) -> float:
        """Nats over the base in all, before the placebo mean is taken off."""
        found = [self.attributor.attribute(one.prompt, one.answer) for one in queries]
        return (
            sum(
                one.gain.over_base_micronats + PLACEBO_MICRONATS_PER_TOKEN * one.tokens
                for one in found
            )
            / 1e6
        )


def divided(clusters: tuple[ClusterScore, ...]) -> Attribution:
    """Who is paid for an answer of these scores, apart from gain."""
    return shares(_FULL, clusters)


def payer(
    one: Stage,
    documents: Sequence[Document],
    adapter: Adapter | None = None,
    elsewhere: Sequence[Document] = (),
) -> Payer:
    """The release of these documents and their adapter; trained here where none is given."""
    setting = Setting(
        base=one.base,
        checkpoints=(Checkpoint(adapter or taught(one.base, documents), 0.0),),
        documents=tuple(documents),
        queries=one.queries,
        elsewhere=tuple(elsewhere),
    )
    names = dict(zip(ours.accounts_of(setting), setting.contributors, strict=True))
    attributor, state = ours.opened(setting)
    return Payer(attributor, names, tuple(one.cluster for one in state.manifest.documents))


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
