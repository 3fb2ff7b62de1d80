"""The folder of adapters that a vLLM server reads, written by us alone, each under its digest.

vLLM serves one adapter at a time. A mix is therefore made into one first: the factors stand side by
side, `A = [A_1; A_2]`, `B = [w_1 s_1 B_1, w_2 s_2 B_2]`, so that `B A x` is the weighted sum itself
and its rank the sum of the ranks (peft calls it `cat`). Nothing is averaged.

The base alone is a mix, too, the empty one: an adapter that adds nothing. On a CPU vLLM lets rows
without an adapter have that of another row's (vllm-project/vllm#48421).
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import msgspec
import torch
from torch import Tensor

from openledger.core.encoding import digest_of
from openledger.core.errors import DigestMismatchError, InvalidInputError, full_disk
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import (
    CONFIG,
    MAX_RANK,
    WEIGHTS,
    adapter_digest,
    load_adapter,
    save_adapter,
)
from openledger.lm.lora import TARGETS, Adapter, LoraPair, LoraShape, Site, linear_at
from openledger.serving.engine import AdapterRef
from openledger.serving.request import MixMember

_MADE = "mix-"


class Shelved(msgspec.Struct, frozen=True):
    """An adapter on the shelf; see `adapters.Adapter`."""

    digest: Digest
    rank: int
    size_bytes: int


class _Member(msgspec.Struct, frozen=True):
    adapter: Digest
    weight: str  # in hexadecimal: every bit of it


class _Recipe(msgspec.Struct, frozen=True):
    members: tuple[_Member, ...]


def mix_digest(members: Sequence[MixMember]) -> Digest:
    """What names a mix: its members and weights, in whatever order."""
    parts = sorted((one.adapter, float(one.weight).hex()) for one in members)
    return digest_of(_Recipe(tuple(_Member(adapter, weight) for adapter, weight in parts)))


class Shelf:
    """The folder on our side, and where the server sees it; safe to call from any thread."""

    def __init__(self, folder: Path, seen_at: str, base: BaseModel, max_rank: int) -> None:
        """Mixes of an earlier run are dropped.

        Args:
            folder: where we write.
            seen_at: the same folder as the server names it.
            base: what adapters must be made for; only its sizes are asked.
            max_rank: of any adapter, mixes included.
        """
        self._folder = folder
        self._seen_at = seen_at.rstrip("/")
        with torch.device("meta"):  # let its weights go
            sizes = type(base.model)(base.model.config)
        self._base = msgspec.structs.replace(base, model=sizes)
        self._max_rank = min(max_rank, MAX_RANK)
        self._lock = Lock()
        with full_disk():
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_MADE}*"):
                shutil.rmtree(left, ignore_errors=True)

    def path(self, digest: Digest) -> Path:
        return self._folder / digest

    def seen(self, digest: Digest, *, is_mix: bool) -> str:
        """The server's path of an adapter."""
        return f"{self._seen_at}/{_MADE if is_mix else ''}{digest}"

    def check_rank(self, rank: int) -> None:
        """Refuse what the server would.

        Raises:
            InvalidInputError: it is above the server's largest.
        """
        if rank > self._max_rank:
            raise InvalidInputError(
                f"adapters of rank {rank} in all are asked for and the vLLM server takes "
                f"{self._max_rank}; ask for fewer, or raise its --max-lora-rank and vllm.max_rank"
            )

    def ingest(self, ref: AdapterRef) -> Shelved:
        """Check an adapter and copy it onto the shelf. Errors: see `Engine.load`."""
        adapter = load_adapter(ref.path, self._base, ref.digest)
        self.check_rank(adapter.shape.rank)
        target = self.path(ref.digest)
        with self._lock, full_disk():
            if not _holds(target, ref.digest):
                self._copy(ref, target)
        return _shelved(target, ref.digest, adapter.shape.rank)

    def make(self, digest: Digest, members: Sequence[MixMember]) -> Shelved:
        """Write the one adapter that does what a mix of shelved ones does.

        Raises:
            InvalidInputError: its rank is above the server's largest, or weights overflow.
            NotFoundError, DigestMismatchError: a member has gone or changed.
        """
        parts = [
            (load_adapter(self.path(one.adapter), self._base, one.adapter), one.weight)
            for one in members
        ]
        adapter = (
            concatenated([part for part, _ in parts], [weight for _, weight in parts])
            if parts
            else nothing_on(self._base)
        )
        self.check_rank(adapter.shape.rank)
        target = self._folder / f"{_MADE}{digest}"
        save_adapter(target, adapter, self._base.name)
        _open_to_all(target)
        return _shelved(target, digest, adapter.shape.rank)

    def remove_mix(self, digest: Digest) -> None:
        """Drop a mix; one that is not there is no error."""
        shutil.rmtree(self._folder / f"{_MADE}{digest}", ignore_errors=True)

    def remove(self, digest: Digest, is_wanted: Callable[[], bool]) -> None:
        """Drop an adapter, unless it was asked for again meanwhile."""
        with self._lock:
            if not is_wanted():
                shutil.rmtree(self.path(digest), ignore_errors=True)

    def _copy(self, ref: AdapterRef, target: Path) -> None:
        scratch = Path(tempfile.mkdtemp(prefix=".adapter-", dir=self._folder))
        try:
            for name in (CONFIG, WEIGHTS):
                shutil.copyfile(ref.path / name, scratch / name)
            if adapter_digest(scratch) != ref.digest:
                raise DigestMismatchError(f"{ref.path} changed while it was read; try again")
            _open_to_all(scratch)
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def nothing_on(base: BaseModel) -> Adapter:
    """The smallest adapter, all zeros: the base as it is."""
    shape = LoraShape(1, 1, (0,), TARGETS[:1])
    (site,) = shape.sites
    linear = linear_at(base.model, site)
    pair = LoraPair(torch.zeros(1, linear.in_features), torch.zeros(linear.out_features, 1))
    return Adapter(shape, base.digest, {site: pair})


def concatenated(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter with the weighted sum of several as its effect.

    Sites that only some of them change get zeros from the others.

    Raises:
        InvalidInputError: a weighted value is no finite number.
    """
    rank = sum(one.shape.rank for one in adapters)
    layers = sorted({layer for one in adapters for layer in one.shape.layers})
    changed = {target for one in adapters for target in one.shape.targets}
    targets = tuple(target for target in TARGETS if target in changed)
    shape = LoraShape(rank, rank, tuple(layers), targets)  # alpha = rank: a scale of 1
    sizes = {
        site.target: (pair.b.shape[0], pair.a.shape[1])
        for one in adapters
        for site, pair in one.pairs.items()
    }
    parts = list(zip(adapters, weights, strict=True))
    pairs = {site: _side_by_side(parts, site, sizes[site.target]) for site in shape.sites}
    if not all(bool(torch.isfinite(pair.b).all()) for pair in pairs.values()):
        raise InvalidInputError("the weights of the mix are too large; take smaller ones")
    return Adapter(shape, adapters[0].base, pairs)


def _side_by_side(
    parts: Sequence[tuple[Adapter, float]], site: Site, size: tuple[int, int]
) -> LoraPair:
    rows, columns = size
    a: list[Tensor] = []  # each (R_i, D_in)
    b: list[Tensor] = []  # each (D_out, R_i)
    for adapter, weight in parts:
        rank = adapter.shape.rank
        pair = adapter.pairs.get(site)
        if pair is None:
            pair = LoraPair(torch.zeros(rank, columns), torch.zeros(rows, rank))
        a.append(pair.a)
        b.append(pair.b * (weight * adapter.shape.scale))
    return LoraPair(torch.cat(a), torch.cat(b, dim=1))


def _holds(folder: Path, digest: Digest) -> bool:
    files = (folder / CONFIG, folder / WEIGHTS)
    return all(file.is_file() for file in files) and adapter_digest(folder) == digest


def _open_to_all(folder: Path) -> None:
    """The server may run as another user."""
    folder.chmod(0o755)
    for name in (CONFIG, WEIGHTS):
        (folder / name).chmod(0o644)


def _shelved(folder: Path, digest: Digest, rank: int) -> Shelved:
    return Shelved(digest, rank, (folder / WEIGHTS).stat().st_size)
