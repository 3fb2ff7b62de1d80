"""The adapters that a run makes: the released one, and those without some of the data.

The latter show what the data did: K halves, and where asked for one adapter without each
contributor. Each has a seed of its own, so that what is due to chance averages out over
them. Each that is finished is kept: a killed run trains the rest.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np

from openledger.attribution.card.panel import clusters_of, halves_of
from openledger.attribution.card.subsets import cluster_halves, seed_of_half, without_each
from openledger.attribution.release import TrainingExample
from openledger.attribution.state import StateManifest
from openledger.core.encoding import decode, encode
from openledger.core.errors import full_disk
from openledger.core.types import Digest
from openledger.flows.model.train.plan import CardPlan, Plan, Step, Tell, Workshop
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import save_adapter
from openledger.lm.frozen import hidden_cache
from openledger.lm.lora import Adapter
from openledger.storage.blobs import write_atomically
from openledger.training.rows import Example, encode_rows
from openledger.training.split import Split
from openledger.training.steps.ensemble import Member, train_members

HALVING = "training half-data adapters"
_JOURNAL = "halves.json"
# In one pass over the base: so many share what the anchors need of it, 7 CPU-s on SmolLM2-135M; the
# steps themselves are no quicker together. What is lost where a run is killed.
_TOGETHER = 4


class Subject(msgspec.Struct, frozen=True):
    """A trained run whose card is to be made."""

    folder: Path
    plan: Plan
    split: Split
    seed: bytes
    adapter: Digest
    # Of a merge: the places of the parents that each text was trained on by.
    knew: Mapping[Example, tuple[int, ...]] = {}


class Parts(msgspec.Struct, frozen=True):
    """Which of N documents each adapter keeps, 0 or 1, by what it is for."""

    halves: np.ndarray  # (K, N)
    by_cluster: np.ndarray  # (K / 4, N), or none
    left_out: np.ndarray  # (C + 1, N): all, then all but one contributor's each; or none


class Made(msgspec.Struct, frozen=True):
    """Adapters without some of the data, in the order of their parts."""

    parts: Digest  # of what each keeps
    adapters: tuple[Digest, ...]
    cpu_ms: int


def keep(shop: Workshop, adapter: Adapter, base_name: str) -> Digest:
    """Save under a name of its own first, since its digest is known only then."""
    scratch = shop.home.adapter("new")
    digest = save_adapter(scratch, adapter, base_name)
    target = shop.home.adapter(digest)
    if not target.exists():
        scratch.rename(target)
    return digest


def attributed(base: BaseModel, subject: Subject) -> list[TrainingExample]:
    """What an answer may be attributed to: every example that was trained on, as it was."""
    examples = subject.split.training
    rows: list[list[tuple[int, ...]]] = [[] for _ in examples]
    for row in encode_rows(base.tokenizer, examples, subject.plan.recipe.max_length):
        rows[row.example].append(row.tokens)
    return [
        TrainingExample(
            digest=one.digest,
            document=one.document,
            account=one.account,
            text=one.text,
            rows=tuple(pieces),
            parents=subject.knew.get(one, ()),
        )
        for one, pieces in zip(examples, rows, strict=True)
    ]


def parts_of(card: CardPlan, manifest: StateManifest) -> Parts:
    """Which documents each adapter without some of the data keeps."""
    owners, clusters = [entry.account for entry in manifest.documents], clusters_of(manifest)
    halves = halves_of(manifest, card.half_adapters)
    none = np.zeros((0, len(owners)), np.int8)
    by_cluster = left_out = none
    if halves.by_contributor:
        by_cluster = cluster_halves(manifest.commitment.seed, clusters, card.half_adapters)
    if card.leaves_out:
        left_out = np.vstack([np.ones((1, len(owners)), np.int8), without_each(owners)])
    return Parts(halves.kept, by_cluster, left_out)


def train_without(shop: Workshop, subject: Subject, wanted: Parts, tell: Tell) -> Made:
    """Train an adapter for each part of the documents, or those still missing.

    Raises:
        InvalidInputError: a part holds no row, or a training diverges.
        StoppedError: the process is asked to end; those that are finished are kept.
        StorageFullError: the disk is full; call again when there is room.
    """
    parts = np.vstack([wanted.halves, wanted.by_cluster, wanted.left_out])
    made = _found(subject, parts)
    while len(made.adapters) < len(parts):
        started, done = time.process_time(), len(made.adapters)
        some = parts[done : done + _TOGETHER]

        def hear(step: int, steps: int, done: int = done, more: int = len(some)) -> None:
            tell(Step(HALVING, done + step * more // steps, len(parts)))

        base = shop.base(subject.plan.recipe.precision)
        adapters = _trained(base, subject, list(enumerate(some, start=done)), hear)
        digests = tuple(keep(shop, adapter, base.name) for adapter in adapters)
        spent = made.cpu_ms + round(1_000 * (time.process_time() - started))
        made = Made(made.parts, made.adapters + digests, spent)
        with full_disk():
            write_atomically(subject.folder / _JOURNAL, encode(made))
    return made


def _found(subject: Subject, parts: np.ndarray) -> Made:
    digest = Digest(sha256(parts.tobytes()).hexdigest())
    path = subject.folder / _JOURNAL
    if path.exists():
        made = decode(path.read_bytes(), Made)
        if made.parts == digest:
            return made
    return Made(digest, (), 0)


def _trained(
    base: BaseModel,
    subject: Subject,
    parts: Sequence[tuple[int, np.ndarray]],
    hear: Callable[[int, int], None],
) -> list[Adapter]:
    recipe, examples = subject.plan.recipe, subject.split.training
    rows = encode_rows(base.tokenizer, examples, recipe.max_length)
    first = recipe.shape(base.layers).layers[0]
    cache = hidden_cache(subject.folder, base, first, [row.tokens for row in rows])
    place = {one: i for i, one in enumerate(dict.fromkeys(one.document for one in examples))}
    document_of = [place[examples[row.example].document] for row in rows]
    members = [
        Member(
            rows=tuple(i for i, document in enumerate(document_of) if part[document]),
            seed=seed_of_half(subject.seed, number),
        )
        for number, part in parts
    ]
    return train_members(base, recipe, rows, cache, members, hear)
