"""A release whose rows or energies are not the sums that they say is not believed."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from openledger.attribution.influence.rows import Layout, Scales, squared_lengths
from openledger.attribution.release import build
from openledger.attribution.state import AttributionState
from openledger.attribution.sums import check_sums
from openledger.core.errors import VerificationError
from openledger.lm.base import BaseModel
from tests.attribution.releases import RECIPE, examples_of, some_checkpoints, some_text

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def state(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> AttributionState:
    """Five texts, the last of which is a copy of the first."""
    texts = [*map(some_text, range(4)), some_text(0) + " A"]
    examples = examples_of(base, texts, [0, 1, 2, 3, 4])
    return build(
        tmp_path_factory.mktemp("sums") / "state", some_checkpoints(base), examples, RECIPE
    )


def with_rows(state: AttributionState, **changed: np.ndarray) -> AttributionState:
    return replace(state, rows=replace(state.rows, **changed))


def with_entries(state: AttributionState, kind: str, place: int, **changed: object) -> object:
    entries = list(getattr(state.manifest, kind))
    entries[place] = replace(entries[place], **changed)
    return replace(state, manifest=replace(state.manifest, **{kind: tuple(entries)}))


def test_what_was_built_agrees_with_itself(state: AttributionState) -> None:
    assert len(state.rows.documents) == 2
    assert len(state.manifest.clusters) == 4

    check_sums(state)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("clusters", "sum of its documents"),
        ("documents", "sum of its documents"),
        ("placebo", "squared length"),
    ],
)
def test_a_row_that_was_moved_is_found(state: AttributionState, kind: str, message: str) -> None:
    rows = getattr(state.rows, kind).copy()
    rows[0, 0] += 1 if rows[0, 0] < 127 else -1

    with pytest.raises(VerificationError, match=message):
        check_sums(with_rows(state, **{kind: rows}))


@pytest.mark.parametrize("kind", ["clusters", "documents", "placebo"])
def test_an_energy_that_raises_or_lowers_a_floor_is_found(
    state: AttributionState, kind: str
) -> None:
    entry = getattr(state.manifest, kind)[1]

    for energy in (0, entry.energy - 1, 2 * entry.energy):
        with pytest.raises(VerificationError, match="squared length"):
            check_sums(with_entries(state, kind, 1, energy=energy))  # type: ignore[arg-type]


def with_exponents(state: AttributionState, first: int, more: int) -> object:
    commitment = state.manifest.commitment
    exponents = (first, *commitment.scales.exponents[1:], *(0,) * more)
    changed = replace(commitment, scales=Scales(exponents))
    return replace(state, manifest=replace(state.manifest, commitment=changed))


LIES: dict[str, Callable[[AttributionState], object]] = {
    "another cluster": lambda s: with_entries(s, "documents", 1, cluster=2),
    "a cluster beyond": lambda s: with_entries(s, "documents", 1, cluster=9),
    "a cluster below zero": lambda s: with_entries(s, "documents", 1, cluster=-1),
    "a cluster twice": lambda s: with_entries(s, "clusters", 1, cluster=0),
    "no row of its own": lambda s: with_entries(s, "documents", 0, row=None),
    "a row too many": lambda s: with_entries(s, "documents", 1, row="0" * 64),
    "a document that nothing was trained on": lambda s: replace(
        s, manifest=replace(s.manifest, examples=s.manifest.examples[:-1])
    ),
    "a training on what is no document": lambda s: replace(
        s,
        manifest=replace(
            s.manifest, examples=(*s.manifest.examples, replace(s.manifest.examples[0], document=9))
        ),
    ),
    "units that nothing holds": lambda s: with_exponents(s, 10**18, 0),
    "a unit too many": lambda s: with_exponents(s, 0, 1),
    "no documents": lambda s: replace(
        s, manifest=replace(s.manifest, examples=(), documents=(), clusters=())
    ),
    "numbers with a point": lambda s: with_rows(s, clusters=s.rows.clusters.astype(np.float32)),
    "wide documents": lambda s: with_rows(s, documents=s.rows.documents.astype(np.int16)),
    "a narrow placebo": lambda s: with_rows(s, placebo=s.rows.placebo[:, :-1]),
    "a layout of less than nothing": lambda s: replace(
        s,
        manifest=replace(
            s.manifest,
            commitment=replace(
                s.manifest.commitment,
                layout=Layout((s.manifest.commitment.layout.width + 1, -1)),
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_entries_and_rows_are_of_one_another(state: AttributionState, name: str) -> None:
    with pytest.raises(VerificationError):
        check_sums(LIES[name](state))  # type: ignore[arg-type]


def test_lengths_are_exact_and_in_the_finest_unit() -> None:
    parts, scales = Layout((2, 1, 1)), Scales((-3, -2, -9))
    rows = np.array([[127, -127, 3, 0], [0, 1, -127, 0]], np.int8)

    # The third part is all zero: its unit is not in use.
    assert squared_lengths(rows, parts, scales) == [2 * 127**2 + 4 * 9, 1 + 4 * 127**2]
