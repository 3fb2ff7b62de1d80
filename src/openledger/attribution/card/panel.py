"""The half-data adapters of a release on its base, ready to say what they think of an answer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from openledger.attribution.attribute import Attributor
from openledger.attribution.card.audited import Correction
from openledger.attribution.card.figures import Audit, Calibration
from openledger.attribution.card.subsets import Halves, fractions, halves
from openledger.attribution.influence.gradients import (
    Batch,
    ProbedModel,
    log_chances,
    probed_checkpoints,
)
from openledger.attribution.state import AttributionState, StateManifest
from openledger.core.errors import NotAllowedError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.lora import Adapter
from openledger.settlement.shares import MOST_LOSS_MICRONATS

_MICRO = 1_000_000


class Panel:
    """Judges answers by adapters that each know half of the data.

    Weights of the base are shared among them; not safe to share between threads.
    """

    def __init__(self, base: BaseModel, adapters: Sequence[Adapter]) -> None:
        self._models = [ProbedModel(base, adapter) for adapter in adapters]

    def chances(self, batch: Batch) -> Tensor:
        """(K, N) log-probabilities of one answer's tokens under each adapter."""
        return torch.stack(
            [log_chances(model, batch, model.upper(batch)) for model in self._models]
        )


class Auditor:
    """See `attribute.Auditor`: a panel whose halves and calibration are known."""

    def __init__(
        self, panel: Panel, manifest: StateManifest, count: int, calibration: Calibration
    ) -> None:
        """Join a panel with the release whose first `count` halves it was trained on."""
        self._panel = panel
        self.corrected = correction_of(manifest, count, calibration).corrected

    def losses(self, batch: Batch, places: Sequence[slice]) -> list[tuple[int, ...] | None]:
        """Of each stretch of the answer's tokens, as `losses_of` gives them."""
        chances = self._panel.chances(batch)
        return [losses_of(chances[:, place]) for place in places]


def auditor_of(
    manifest: StateManifest, base: BaseModel, load: Callable[[Digest], Adapter]
) -> Auditor:
    """The auditor that a release committed to; `load` finds an adapter by its digest.

    Raises:
        NotAllowedError: it committed to none.
    """
    audit = manifest.audit
    if not isinstance(audit, Audit) or audit.calibration is None:
        raise NotAllowedError("this release has no half-data adapters to audit an answer with")
    panel = Panel(base, [load(digest) for digest in audit.adapters])
    return Auditor(panel, manifest, len(audit.adapters), audit.calibration)


def open_attributor(
    state: AttributionState,
    base: BaseModel,
    released: Digest,
    folder_of: Callable[[Digest], Path],
    *,
    is_audited: bool,
) -> Attributor:
    """Make a release ready to score answers, its adapters read from their folders.

    Raises:
        NotFoundError: an adapter is not there.
        DigestMismatchError: an adapter is another than its digest says.
        NotAllowedError: answers are to be audited, and it committed to no half-data adapters.
    """
    models = probed_checkpoints(base, folder_of, state.manifest.commitment.early, released)
    auditor = None
    if is_audited:
        auditor = auditor_of(
            state.manifest, base, lambda digest: load_adapter(folder_of(digest), base, digest)
        )
    return Attributor(state, models, auditor)


def correction_of(manifest: StateManifest, count: int, calibration: Calibration) -> Correction:
    """By the losses of a release's first `count` half-data adapters; needs no model."""
    kept = fractions(halves_of(manifest, count).kept, clusters_of(manifest))
    return Correction(kept, [entry.energy for entry in manifest.clusters], calibration)


def losses_of(chances: Tensor) -> tuple[int, ...] | None:
    """Mean loss under each of (K, N), in micro-nats a token; None where one is beyond any."""
    means = -chances.mean(1)  # (K,)
    if not bool((means * _MICRO <= MOST_LOSS_MICRONATS).all()):  # nor a number
        return None
    return tuple(max(0, round(mean * _MICRO)) for mean in means.tolist())


def halves_of(manifest: StateManifest, count: int) -> Halves:
    """The halves of the first `count` half-data adapters of a release."""
    owners = [entry.account for entry in manifest.documents]
    return halves(manifest.commitment.seed, owners, clusters_of(manifest), count)


def clusters_of(manifest: StateManifest) -> list[int]:
    """Of each document, in the manifest's order."""
    return [entry.cluster for entry in manifest.documents]
