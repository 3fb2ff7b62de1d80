"""Holds a release's scores against its adapters without some of the data, answer by answer."""

import time
from collections.abc import Sequence

import msgspec
import numpy as np

from openledger.attribution.attribute import Attributor, Row, lay_out
from openledger.attribution.card.audited import calibrate, cross_fitted
from openledger.attribution.card.figures import Calibration, Figures, Nobody
from openledger.attribution.card.panel import Auditor, Panel, clusters_of, halves_of, losses_of
from openledger.attribution.card.subsets import cluster_halves, fractions
from openledger.attribution.card.trial import Said, Sample, Trial, by_influence, figures, nobody
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.state import AttributionState
from openledger.core.errors import InvalidInputError
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter
from openledger.settlement.shares import Attribution

_MICRO = 1_000_000


class Question(msgspec.Struct, frozen=True):
    """An answer whose attribution is looked at, in token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Retrained(msgspec.Struct, frozen=True):
    """The released adapter, and those that never saw some of its data."""

    released: Adapter
    early: Adapter  # the same after a quarter of its training
    halves: Sequence[Adapter]  # in the order of `subsets.halves`
    by_cluster: Sequence[Adapter]  # in the order of `subsets.cluster_halves`; perhaps none
    everything: Adapter | None  # trained as the others are, on all data
    left_out: Sequence[Adapter]  # one without each contributor, in the order of the documents


class Examination(msgspec.Struct, frozen=True):
    """What was found."""

    calibration: Calibration | None
    influence: Figures
    audited: Figures | None
    nobody: Nobody | None
    attribution_ms: int  # CPU time of one answer
    audit_ms: int  # what the audited mode adds to it


def examine(
    state: AttributionState,
    base: BaseModel,
    retrained: Retrained,
    inside: Sequence[Question],
    outside: Sequence[Question],
) -> Examination:
    """Ask everybody everything.

    Args:
        state: of the release.
        base: of all adapters.
        retrained: and the released one.
        inside: answers about the data, at least one.
        outside: answers to anything else.

    Raises:
        InvalidInputError: an adapter gives losses that are no numbers.
    """
    return _Room(state, base, retrained, inside).examined(outside)


class _Room:
    """Everybody who is asked, and the answers about the data that they are asked about."""

    def __init__(
        self,
        state: AttributionState,
        base: BaseModel,
        retrained: Retrained,
        inside: Sequence[Question],
    ) -> None:
        self._state, self._base, self._retrained = state, base, retrained
        self._models = Checkpoints(
            early=ProbedModel(base, retrained.early), final=ProbedModel(base, retrained.released)
        )
        self._attributor = Attributor(state, self._models)
        self._panel = Panel(base, retrained.halves)
        self._inside = [one for one in inside if self._attributor.influence(one.prompt, one.answer)]
        if not self._inside:
            raise InvalidInputError(
                "no answer to measure attribution on has a token that counts, or the adapter gives "
                "no finite numbers: train again, on more data or with a lower learning rate"
            )
        accounts = [entry.account for entry in state.manifest.documents]
        self._place = {account: i for i, account in enumerate(dict.fromkeys(accounts))}
        self._owners = tuple(self._place[account] for account in accounts)

    def examined(self, outside: Sequence[Question]) -> Examination:
        began = time.process_time()
        paid = self._attributed(self._inside)
        attributed = time.process_time()
        losses = self._losses(self._panel)
        audited = time.process_time()
        trial = Trial(
            halves=halves_of(self._state.manifest, len(self._retrained.halves)),
            contributors=self._owners,
            clusters=tuple(clusters_of(self._state.manifest)),
            energies=tuple(entry.energy for entry in self._state.manifest.clusters),
            losses=losses,
            by_cluster=self._by_cluster(),
            effects=self._effects(),
        )
        scores = self._scores(self._attributor)
        calibration = calibrate(trial.kept, trial.energies, scores, losses)
        said = None if calibration is None else self._audited(trial, scores, calibration)
        return Examination(
            calibration=calibration,
            influence=figures(trial, by_influence(trial, scores, self._shares(paid))),
            audited=None if said is None else figures(trial, said),
            nobody=nobody(_data_parts(paid), _data_parts(self._attributed(outside)))
            if outside
            else None,
            attribution_ms=round(1_000 * (attributed - began) / len(self._inside)),
            audit_ms=round(1_000 * (audited - attributed) / len(self._inside)),
        )

    def _attributed(
        self, asked: Sequence[Question], attributor: Attributor | None = None
    ) -> list[Attribution]:
        how = attributor or self._attributor
        return [how.attribute(one.prompt, one.answer).attribution for one in asked]

    def _scores(self, attributor: Attributor) -> np.ndarray:
        """(M, Q), whether or not anything is owed."""
        found = [attributor.influence(one.prompt, one.answer) for one in self._inside]
        return np.array([[cluster.score for cluster in one] for one in found], float).T

    def _losses(self, panel: Panel) -> np.ndarray:
        """(K, Q) mean nats a token."""
        rows = []
        for one in self._inside:
            losses = losses_of(panel.chances(self._row(one).batch(self._models.final)))
            if losses is None:
                raise InvalidInputError(
                    "an adapter without some of the data gives losses that are no numbers: "
                    "train again with a lower learning rate"
                )
            rows.append(losses)
        return np.array(rows).T / _MICRO

    def _by_cluster(self) -> Sample | None:
        if not self._retrained.by_cluster:
            return None
        manifest = self._state.manifest
        clusters, count = clusters_of(manifest), len(self._retrained.halves)
        kept = cluster_halves(manifest.commitment.seed, clusters, count)
        losses = self._losses(Panel(self._base, self._retrained.by_cluster))
        return Sample(fractions(kept, clusters), losses)

    def _row(self, question: Question) -> Row:
        row = lay_out(question.prompt, question.answer, [self._attributor.signatures])
        assert row is not None, "questions have a prompt and an answer"
        return row

    def _effects(self) -> np.ndarray | None:
        """(C, Q) by how much the loss rises where one contributor is left out."""
        everything = self._retrained.everything
        if everything is None:
            return None
        losses = self._losses(Panel(self._base, [everything, *self._retrained.left_out]))
        effects: np.ndarray = losses[1:] - losses[0]
        return effects

    def _audited(self, trial: Trial, scores: np.ndarray, calibration: Calibration) -> Said:
        auditor = Auditor(self._panel, self._state.manifest, len(trial.losses), calibration)
        attributor = Attributor(self._state, self._models, auditor)
        # Shares are held against leave-outs only.
        paid = [] if trial.effects is None else self._attributed(self._inside, attributor)
        totals = cross_fitted(trial.kept, trial.energies, scores, trial.losses, calibration)
        return Said(totals, self._scores(attributor), self._shares(paid))

    def _shares(self, paid: Sequence[Attribution]) -> np.ndarray:
        """(C, Q)."""
        found = np.zeros((len(self._place), len(paid)))
        for answer, attribution in enumerate(paid):
            for share in attribution.shares:
                # A passage may belong to somebody who first brought it elsewhere: he is no
                # contributor here, and no adapter goes without him.
                if share.account in self._place:
                    found[self._place[share.account], answer] = share.weight_ppb
        return found


def _data_parts(paid: Sequence[Attribution]) -> np.ndarray:
    """What each answer pays to contributors together, of one."""
    return 1 - np.array([one.nobody_ppb for one in paid]) / PARTS_PER_BILLION
