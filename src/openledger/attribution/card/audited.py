"""The audited mode: influence, corrected by how a release's half-data adapters find the answer.

Each cluster has an effect on the mean loss of an answer. Influence, times one scale, is the first
guess of all effects; the losses of K adapters, each trained on a known half, are K observations of
their sums. The correction is the smallest one, in the measure of the guess's own uncertainty, that
explains the losses as well as the noise of training lets hope (ridge regression, or the mean of a
Gaussian posterior). Scale and noise are measured once, when the release is made, by foretelling
each adapter's losses on probe answers from those of the others, and are part of the release.

Letters of the shapes: K adapters, M clusters, Q answers.
"""

from collections.abc import Sequence

import numpy as np

from openledger.attribution.card.figures import Calibration
from openledger.core.errors import InvalidInputError

_RIDGES_PPM = tuple(round(1e6 * 10 ** (step / 2)) for step in range(-4, 5))  # 0.01 to 100
_MICRO = 1_000_000
_EXACT = 2**53  # below that a double is an exact integer


class Correction:
    """The half-data adapters of a release, as far as arithmetic needs them."""

    def __init__(self, kept: np.ndarray, energies: Sequence[int], calibration: Calibration) -> None:
        """Prepare the correction.

        Args:
            kept: (K, M) which part of each cluster an adapter was trained on.
            energies: (M,) squared lengths of the clusters' rows: how far each may move a loss.
            calibration: of the release.
        """
        self._units = calibration.units_per_nat
        self._design = kept - kept.mean(0)  # (K, M)
        self._lift = _lift(self._design, np.array(energies, float), calibration.ridge_ppm)

    def corrected(self, scores: Sequence[int], losses_micronats: Sequence[int]) -> list[int]:
        """The scores of all clusters, in the same units as influence alone.

        Args:
            scores: (M,) of influence.
            losses_micronats: (K,) mean loss of the answer under each adapter.

        Raises:
            InvalidInputError: no integer that a score can be comes of it.
        """
        losses = np.array(losses_micronats, float) / _MICRO
        guess = np.array(scores, float) / self._units  # (M,) nats
        surprise = losses.mean() - losses - self._design @ guess  # (K,)
        moved = self._lift @ surprise * self._units  # (M,)
        if not np.abs(moved).max(initial=0) < _EXACT:
            raise InvalidInputError("losses and calibration give corrections beyond any score")
        return [score + round(by) for score, by in zip(scores, moved.tolist(), strict=True)]


def calibrate(
    kept: np.ndarray, energies: Sequence[int], scores: np.ndarray, losses: np.ndarray
) -> Calibration | None:
    """Measure scale and noise on probe answers.

    Args:
        kept: (K, M) which part of each cluster an adapter was trained on.
        energies: (M,) squared lengths of the clusters' rows.
        scores: (M, Q) of influence.
        losses: (K, Q) mean nats a token.

    Returns:
        None where influence foretells nothing of the losses: there is then nothing to correct.
    """
    design = kept - kept.mean(0)
    foretold, seen = design @ scores, losses.mean(0) - losses  # (K, Q)
    slope = (foretold * seen).sum() / max((foretold**2).sum(), 1e-300)  # nats a unit
    if not slope > 0:
        return None
    units = max(1, round(1 / slope))
    choices = [Calibration(units, ridge) for ridge in _RIDGES_PPM]
    errors = [
        ((seen - cross_fitted(kept, energies, scores, losses, one)) ** 2).mean() for one in choices
    ]
    return choices[int(np.argmin(errors))]


def cross_fitted(
    kept: np.ndarray,
    energies: Sequence[int],
    scores: np.ndarray,
    losses: np.ndarray,
    calibration: Calibration,
) -> np.ndarray:
    """(K, Q) how much lower than the mean each adapter's losses should be, told by the others."""
    weights = np.array(energies, float)
    guess = scores / calibration.units_per_nat  # (M, Q)
    found = np.zeros(losses.shape)
    for left in range(len(kept)):
        others = np.arange(len(kept)) != left
        design = kept[others] - kept[others].mean(0)
        surprise = losses[others].mean(0) - losses[others] - design @ guess
        effects = guess + _lift(design, weights, calibration.ridge_ppm) @ surprise
        found[left] = (kept[left] - kept.mean(0)) @ effects
    return found


def _lift(design: np.ndarray, energies: np.ndarray, ridge_ppm: int) -> np.ndarray:
    """(M, K) from surprises to corrections of effects."""
    spread = energies[:, None] * design.T  # (M, K)
    explained = design @ spread  # (K, K)
    noise = ridge_ppm / _MICRO * max(float(np.trace(explained)) / len(design), 1e-300)
    found: np.ndarray = np.linalg.solve(explained + noise * np.eye(len(design)), spread.T).T
    return found
