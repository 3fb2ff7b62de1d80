"""Correcting influence: towards what adapters show, and no further than they can tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openledger.attribution.card.audited import Correction, calibrate, cross_fitted
from openledger.attribution.card.figures import Calibration
from openledger.core.errors import InvalidInputError

ADAPTERS, CLUSTERS, ANSWERS = 24, 12, 40
ENERGIES = [10_000] * CLUSTERS
UNIT = 1e-6  # nats
NOISE = 0.002


class World:
    """Effects in nats, influence that guesses them badly, losses that show them with noise."""

    def __init__(self, trust: float = 1.0, seed: int = 1) -> None:
        stream = np.random.Generator(np.random.Philox(key=seed))
        self.effects = 0.01 * stream.standard_normal((CLUSTERS, ANSWERS))
        wrong = 0.01 * stream.standard_normal((CLUSTERS, ANSWERS))
        self.scores = np.rint((trust * self.effects + wrong) / UNIT)
        half = np.repeat([1.0, 0.0], CLUSTERS // 2)
        self.kept = np.array([stream.permutation(half) for _ in range(ADAPTERS)])
        noise = NOISE * stream.standard_normal((ADAPTERS, ANSWERS))
        self.losses = 2.0 - self.kept @ self.effects + noise

    def corrected(self, calibration: Calibration) -> np.ndarray:
        correction = Correction(self.kept, ENERGIES, calibration)
        return np.array(
            [
                correction.corrected(
                    self.scores[:, answer].astype(int).tolist(),
                    np.rint(self.losses[:, answer] * 1e6).astype(int).tolist(),
                )
                for answer in range(ANSWERS)
            ]
        ).T


def likeness(found: np.ndarray, effects: np.ndarray) -> float:
    return float(np.corrcoef(found.ravel(), effects.ravel())[0, 1])


def calibrated(world: World) -> Calibration:
    found = calibrate(world.kept, ENERGIES, world.scores, world.losses)
    assert found is not None
    return found


def test_corrected_scores_are_nearer_to_the_effects_than_influence() -> None:
    world = World()
    found = world.corrected(calibrated(world))

    assert likeness(world.scores, world.effects) < 0.8
    assert likeness(found, world.effects) > 0.95


def test_the_scale_says_what_influence_foretells() -> None:
    """Half of what influence says is noise, so that two of its units foretell one."""
    found = calibrated(World())

    assert 0.3 < found.units_per_nat * UNIT / 2 < 3


def test_noise_makes_the_ridge_larger() -> None:
    quiet, loud = World(), World()
    loud.losses = loud.losses + 0.1 * np.random.Generator(np.random.Philox(key=9)).standard_normal(
        loud.losses.shape
    )

    assert calibrated(loud).ridge_ppm > calibrated(quiet).ridge_ppm


def test_an_endless_ridge_leaves_influence_as_it_is() -> None:
    world = World()
    found = world.corrected(Calibration(1_000_000, 10**15))

    assert np.abs(found - world.scores).max() <= 1


def test_influence_that_foretells_nothing_is_not_calibrated() -> None:
    world = World()
    silent = np.zeros_like(world.scores)

    assert calibrate(world.kept, ENERGIES, silent, world.losses) is None
    assert calibrate(world.kept, ENERGIES, -world.scores, world.losses) is None


def test_what_an_adapter_shows_is_foretold_by_the_others_alone() -> None:
    world = World()
    calibration = calibrated(world)
    before = cross_fitted(world.kept, ENERGIES, world.scores, world.losses, calibration)
    changed = world.losses.copy()
    changed[5] += 1.0
    after = cross_fitted(world.kept, ENERGIES, world.scores, changed, calibration)

    assert after[5] == pytest.approx(before[5])
    assert np.abs(after[4] - before[4]).max() > 0.001
    assert likeness(before, world.losses.mean(0) - world.losses) > 0.8


@given(st.lists(st.integers(-(10**9), 10**9), min_size=CLUSTERS, max_size=CLUSTERS), st.data())
def test_equal_losses_of_all_adapters_and_equal_scores_correct_nothing(
    scores: list[int], data: st.DataObject
) -> None:
    """What is common to all adapters says nothing of any cluster."""
    world = World()
    loss = data.draw(st.integers(0, 10**7))
    correction = Correction(world.kept, ENERGIES, Calibration(1_000_000, 1_000_000))
    shifted = [score // 10**6 for score in scores]
    losses = np.rint(-(world.kept @ np.array(shifted)) + loss).astype(int).tolist()

    # The losses are exactly what influence foretells, at a unit of one micro-nat.
    found = correction.corrected(shifted, losses)
    assert max(abs(a - b) for a, b in zip(found, shifted, strict=True)) <= 1


def test_clusters_with_longer_rows_are_corrected_more() -> None:
    world = World()
    energies = [40_000, *ENERGIES[1:]]
    plain = Correction(world.kept, ENERGIES, Calibration(1_000_000, 1_000_000))
    heavy = Correction(world.kept, energies, Calibration(1_000_000, 1_000_000))
    losses = np.rint(1e6 * (2.0 - 0.05 * world.kept[:, 0])).astype(int).tolist()
    nothing = [0] * CLUSTERS

    assert heavy.corrected(nothing, losses)[0] > plain.corrected(nothing, losses)[0] > 0


@pytest.mark.parametrize("numbers", [(0, 1), (2**53, 1), (-1, 1), (1, 0), (1, -5), (1, 10**15 + 1)])
def test_what_no_calibration_gives_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match="no calibration"):
        Calibration(*numbers)


def test_corrections_beyond_any_score_are_refused() -> None:
    kept = np.eye(CLUSTERS)
    correction = Correction(kept, ENERGIES, Calibration(2**52, 1))

    with pytest.raises(InvalidInputError, match="beyond any score"):
        correction.corrected([0] * CLUSTERS, [0, 10**9] * (CLUSTERS // 2) + [0] * (CLUSTERS % 2))
