"""Where attacks are tried: honest contributors, what is asked of their model, and what is paid.

The adapters of the tiny suite gain little over their base, so that most of the data money of most
answers is nobody's. What an attack changes is judged on shares *apart from gain*: each answer's
influence as the product scores it, divided by the product's rules as if its gain were full.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
import torch

from bench.attribution import ours, tiny
from bench.attribution.kept import Kept
from bench.attribution.setting import Checkpoint, Document, Query, Setting
from bench.attribution.suites import Draw
from bench.attribution.truth import Retraining, trajectory
from bench.attribution.world import Plan, queries_of
from openledger.attribution.attribute import Attributor, lay_out
from openledger.core.types import PARTS_PER_BILLION, Account, Digest
from openledger.lm.base import BaseModel
from openledger.settlement.shares import (
    PLACEBO_MICRONATS_PER_TOKEN,
    Attribution,
    ClusterScore,
    Gain,
    MemberScores,
    Segment,
    combine,
)

_FULL = Gain(10**9, 10**9, PARTS_PER_BILLION, 1)  # nats enough that none is nobody's
_ANY = Digest("0" * 64)  # of a query vector that is not stated


class Stage(msgspec.Struct, frozen=True):
    """One data seed before anybody attacks."""

    plan: Plan
    kept: Kept
    checkpoints: tuple[Checkpoint, ...]
    queries: tuple[Query, ...]  # held-out and generated
    paid: Mapping[str, np.ndarray]  # by contributor, (Q,) before any attack

    @property
    def base(self) -> BaseModel:
        """What everybody tunes."""
        return self.plan.base

    @property
    def documents(self) -> tuple[Document, ...]:
        """Of the honest contributors."""
        return self.plan.texts.documents

    @property
    def contributors(self) -> tuple[str, ...]:
        """The honest ones, in order."""
        return tuple(dict.fromkeys(document.contributor for document in self.documents))

    def about(self, names: Collection[str]) -> np.ndarray:
        """(Q,) whether each query is about one of these contributors' subjects."""
        people = self.contributors
        each = len(self.plan.texts.held_out) // len(people)
        owners = [people[int(query.id.rpartition("/")[2]) // each] for query in self.queries]
        return np.array([owner in names for owner in owners])


def stage(draw: Draw) -> Stage:
    """Draw a Datanet and train on it, as the suite does."""
    torch.set_num_threads(1)  # the same sums in the same order, whatever the machine does
    pages, scale = draw.tiny()
    plan = tiny.plan(pages, draw.cache / "models", draw.seed, scale)
    untrained = Stage(plan, draw.kept, (), (), {})
    checkpoints = taught(untrained, plan.texts.documents)
    retraining = _retraining(untrained, plan.texts.documents)
    asked = queries_of(plan, retraining, checkpoints[-1].adapter)
    queries = tuple(query for query in asked if query.kind != "outside")
    quiet = Stage(plan, draw.kept, checkpoints, queries, {})
    paid = payer(quiet, quiet.documents, checkpoints).pays(queries)
    return msgspec.structs.replace(quiet, paid=paid)


def taught(one: Stage, documents: Sequence[Document]) -> tuple[Checkpoint, ...]:
    """The adapter that these documents make, as it grows."""
    return trajectory(_retraining(one, documents), 0, one.plan.retrainings.checkpoints)


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
        total = 0
        for one in queries:
            row = lay_out(one.prompt, one.answer, [self.attributor.signatures])
            found = self.attributor.attribute(one.prompt, one.answer)
            total += found.leave_one_out_micronats
            total += PLACEBO_MICRONATS_PER_TOKEN * (len(row.counted) if row else 0)
        return total / 1e6


def divided(clusters: tuple[ClusterScore, ...]) -> Attribution:
    """Who is paid for an answer of these scores, apart from gain."""
    segment = Segment(1, _FULL, _ANY, clusters)
    return combine([MemberScores(0, PARTS_PER_BILLION, 1, None, (segment,))])


def payer(
    one: Stage,
    documents: Sequence[Document],
    checkpoints: tuple[Checkpoint, ...] = (),
    elsewhere: Sequence[Document] = (),
) -> Payer:
    """The release of these documents and their checkpoints; trained here where none is given."""
    setting = Setting(
        base=one.base,
        checkpoints=checkpoints or taught(one, documents),
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
    seeds = range(1, one.plan.retrainings.seeds + 1)
    found = _retraining(one, documents).losses(kept, one.queries, seeds, _say_nothing)
    losses = found.losses.mean(0)  # (1 + G, Q)
    rise: np.ndarray = losses[1:] - losses[0]
    return rise


def _retraining(one: Stage, documents: Sequence[Document]) -> Retraining:
    rows = tuple(document.tokens for document in documents)
    return Retraining(one.base, one.plan.recipe, rows, one.kept, one.plan.retrainings.together)


def _say_nothing(adapters: int) -> None:
    """A retraining is not worth a line of its own here."""
