"""The state of a release stays small: 64 MiB at the size of the default base and adapter."""

from pathlib import Path

import numpy as np
import torch

from openledger.attribution.influence.curvature import Basis, Features, Site, Whitener
from openledger.attribution.influence.rows import Scales
from openledger.attribution.method import (
    CHECKPOINTS,
    METHOD_VERSION,
    MOST_SIGNATURES,
    PLACEBO_ROWS,
    ROWS_BYTES,
    SIGNATURE_TOKENS,
)
from openledger.attribution.release import layout_of
from openledger.attribution.state import (
    ClusterEntry,
    Commitment,
    DocumentEntry,
    ExampleEntry,
    PlaceboEntry,
    Rows,
    StateManifest,
    digest_of_row,
    load_state,
    state_bytes,
    write_state,
)
from tests.attribution.releases import ADAPTER, EARLY, SEED, account

RANK, LAYERS, CONTRIBUTORS, DOCUMENTS = 8, 10, 100, 300
HIDDEN, INNER, VALUES, VOCABULARY = 576, 1_536, 192, 49_152  # SmolLM2-135M


def sites() -> tuple[Site, ...]:
    shapes = [
        ("self_attn.q_proj", "qkv", HIDDEN, HIDDEN),
        ("self_attn.k_proj", "qkv", HIDDEN, VALUES),
        ("self_attn.v_proj", "qkv", HIDDEN, VALUES),
        ("self_attn.o_proj", "o", HIDDEN, HIDDEN),
        ("mlp.gate_proj", "mlp", HIDDEN, INNER),
        ("mlp.up_proj", "mlp", HIDDEN, INNER),
        ("mlp.down_proj", "down", INNER, HIDDEN),
    ]
    return tuple(
        Site(f"model.layers.{layer}.{name}", f"{layer}.{reads}", inputs, outputs, RANK)
        for layer in range(20, 20 + LAYERS)
        for name, reads, inputs, outputs in shapes
    )


def some_whitener(width: int) -> Whitener:
    places = sites()
    share = width // len(places)
    identity = torch.eye(RANK)
    return Whitener(
        sites=places,
        wide_in={s.reads: some_basis(s.inputs, share) for s in places},
        wide_out={s.name: some_basis(s.outputs, share) for s in places},
        rank_out={s.name: identity.clone() for s in places},
        rank_in={s.name: identity.clone() for s in places},
        features={s.name: some_features(share) for s in places},
    )


def some_basis(dimension: int, features: int) -> Basis:
    """As many eigenvectors as these features can stand on, on both sides of a site at once."""
    kept = min(dimension, features)
    return Basis(torch.ones(dimension, kept, dtype=torch.int8), torch.ones(kept))


def some_features(width: int) -> Features:
    return Features(torch.arange(width, dtype=torch.int32), torch.ones(width).bfloat16())


def test_the_state_of_the_default_release_is_within_64_mib(tmp_path: Path) -> None:
    stored = DOCUMENTS - 50 + 100 + PLACEBO_ROWS  # with fifty pairs
    width = ROWS_BYTES // stored
    whitener = some_whitener(width // CHECKPOINTS)
    shared = layout_of(whitener)
    rows = Rows(
        np.ones((DOCUMENTS - 50, shared.width), np.int8),
        np.ones((100, shared.width), np.int8),
        np.ones((PLACEBO_ROWS, shared.width), np.int8),
        np.ones(VOCABULARY, np.int64),
        np.ones((MOST_SIGNATURES, SIGNATURE_TOKENS), np.int32),
    )
    wide, narrow = digest_of_row(rows.clusters[0]), digest_of_row(rows.documents[0])
    exponents = Scales((0,) * len(shared.widths))
    commitment = Commitment(
        METHOD_VERSION, SEED, ADAPTER, EARLY, SEED, sites(), shared, exponents, SEED,
        digest_of_row(rows.counts), digest_of_row(rows.signatures),
    )  # fmt: skip
    manifest = StateManifest(
        commitment,
        tuple(ExampleEntry(SEED, i) for i in range(DOCUMENTS)),
        tuple(
            DocumentEntry(
                i, account(i % CONTRIBUTORS), max(0, i - 50), 1, narrow if i < 100 else None, ()
            )
            for i in range(DOCUMENTS)
        ),
        tuple(ClusterEntry(i, 1, wide) for i in range(len(rows.clusters))),
        tuple(PlaceboEntry(i, 1, narrow) for i in range(PLACEBO_ROWS)),
        SEED,
    )

    write_state(tmp_path / "state", whitener, manifest, rows)

    assert state_bytes(tmp_path / "state") <= 64 * 2**20
    assert shared.width > 0.99 * width > 32_000
    assert load_state(tmp_path / "state").rows.clusters.shape == (DOCUMENTS - 50, shared.width)
