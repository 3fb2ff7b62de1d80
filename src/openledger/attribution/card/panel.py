"""The half-data adapters of a release on its base, ready to say what they think of an answer."""

from collections.abc import Sequence

import torch

from openledger.attribution.attribute import Scored
from openledger.attribution.card.audited import Calibration, Correction
from openledger.attribution.card.subsets import Halves, fractions, halves
from openledger.attribution.influence.gradients import Batch, ProbedModel, log_chances
from openledger.attribution.state import StateManifest
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter

_MICRO = 1_000_000


class Panel:
    """Judges answers by adapters that each know half of the data.

    Weights of the base are shared among them; not safe to share between threads.
    """

    def __init__(self, base: BaseModel, adapters: Sequence[Adapter]) -> None:
        self._models = [ProbedModel(base, adapter) for adapter in adapters]

    def losses(self, batch: Batch) -> tuple[int, ...] | None:
        """Mean loss of one answer under each, in micro-nats a token; None: not all are finite."""
        means = []
        for model in self._models:
            states = model.upper(batch)
            means.append(-log_chances(model, batch, states).mean())
        if not bool(torch.isfinite(torch.stack(means)).all()):
            return None
        return tuple(round(float(mean) * _MICRO) for mean in means)


class Auditor:
    """See `attribute.Auditor`: a panel whose halves and calibration are known."""

    def __init__(
        self, panel: Panel, manifest: StateManifest, count: int, calibration: Calibration
    ) -> None:
        """Join a panel with the release whose first `count` halves it was trained on."""
        kept = fractions(halves_of(manifest, count).kept, clusters_of(manifest))
        energies = [entry.energy for entry in manifest.clusters]
        self._panel = panel
        self._correction = Correction(kept, energies, calibration)

    def audit(self, batch: Batch, scores: Sequence[int]) -> Scored | None:
        """Correct the scores of one answer; None where the losses are not all finite."""
        losses = self._panel.losses(batch)
        if losses is None:
            return None
        return Scored(self._correction.corrected(scores, losses), losses)


def halves_of(manifest: StateManifest, count: int) -> Halves:
    """The halves of the first `count` half-data adapters of a release."""
    owners = [entry.account for entry in manifest.documents]
    return halves(manifest.commitment.seed, owners, clusters_of(manifest), count)


def clusters_of(manifest: StateManifest) -> list[int]:
    """Of each document, in the manifest's order."""
    return [entry.cluster for entry in manifest.documents]
