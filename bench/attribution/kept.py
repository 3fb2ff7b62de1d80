"""What retraining has shown before, on disk, so that a long run that was stopped goes on.

Everything stands under the digest of what decides it: base, recipe, the documents that were kept in
their order, the seed. A run of other documents or of another recipe finds nothing of this one.
Whoever changes what a recipe's training gives, and not its method's name, raises `_VERSION`.
"""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch

from openledger.core.encoding import digest_of
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter, save_adapter
from openledger.lm.lora import Adapter
from openledger.training.recipe import Recipe

_VERSION = 1
_DECIDING = (  # of a recipe; what it says of probes decides nothing here, where none is made
    "method",
    "rank",
    "alpha",
    "last_layers",
    "target_modules",
    "learning_rate_micro",
    "epochs",
    "batch_size",
    "max_length",
    "warmup_steps",
    "precision",
    "anchor_weight_hundredths",
)

Tokens = tuple[int, ...]


class _Training(msgspec.Struct, frozen=True):
    """What decides an adapter."""

    version: int
    torch: str
    base: Digest
    recipe: str
    seed: int
    documents: str
    part: str  # of the training, as "1/4"


class Kept:
    """A folder of adapters, of their losses and of their answers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def adapter(self, training: Digest, base: BaseModel) -> Adapter | None:
        """The adapter of this training, if it was made before."""
        folder = self._adapter(training)
        return load_adapter(folder, base) if folder.exists() else None

    def keep_adapter(self, training: Digest, adapter: Adapter, base: BaseModel) -> None:
        """For the next time."""
        save_adapter(self._adapter(training), adapter, base.name)

    def losses(self, training: Digest, queries: str) -> np.ndarray | None:
        """(Q,) of this adapter on these queries, if it was asked them before."""
        path = self._path("losses", training, queries)
        return np.array(msgspec.json.decode(path.read_bytes())) if path.exists() else None

    def keep_losses(self, training: Digest, queries: str, losses: np.ndarray) -> None:
        """For the next time."""
        _write(self._path("losses", training, queries), losses.tolist())

    def answers(self, training: Digest, prompts: str) -> list[Tokens] | None:
        """What this adapter answered to these prompts, if it was asked them before."""
        path = self._path("answers", training, prompts)
        if not path.exists():
            return None
        return msgspec.json.decode(path.read_bytes(), type=list[Tokens])

    def keep_answers(self, training: Digest, prompts: str, answers: Sequence[Tokens]) -> None:
        """For the next time."""
        _write(self._path("answers", training, prompts), answers)

    def _adapter(self, training: Digest) -> Path:
        return self.folder / "adapters" / training[:32]

    def _path(self, kind: str, training: Digest, asked: str) -> Path:
        return self.folder / kind / f"{training[:32]}-{asked[:32]}.json"


def training_key(
    base: BaseModel, recipe: Recipe, documents: Sequence[Tokens], seed: int, part: str = "1/1"
) -> Digest:
    """The digest of one training, or of the first part of one."""
    decides = key_of([getattr(recipe, name) for name in _DECIDING])
    return digest_of(
        _Training(_VERSION, torch.__version__, base.digest, decides, seed, key_of(documents), part)
    )


def key_of(rows: Sequence[object]) -> str:
    """The digest of anything that JSON can hold."""
    return sha256(msgspec.json.encode(list(rows))).hexdigest()


def _write(path: Path, content: object) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(f".{os.getpid()}.part")
    scratch.write_bytes(msgspec.json.encode(content))
    scratch.replace(path)
