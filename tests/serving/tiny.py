"""Runners and adapters that the tests of the embedded engine share."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from threading import Event

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from openledger.core.errors import DigestMismatchError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import save_adapter
from openledger.lm.lora import LoraPair, LoraShape, random_adapter
from openledger.serving.engine import AdapterRef
from openledger.serving.sequence import Weighted

HASH_VOCABULARY = 32
BREAKING_TOKEN = 31  # a HashRunner breaks on a prompt that ends with it


class HashAdapter(msgspec.Struct, frozen=True):
    """An adapter of a HashRunner: it adds to what is hashed."""

    name: str
    size_bytes: int
    rank: int = 1


class HashRunner:
    """A runner whose logits are a hash of everything fed so far: exact and quick, no model.

    A folder is an adapter of `size` bytes if its file `name` has the digest.
    """

    base = Digest("b" * 64)
    vocabulary = HASH_VOCABULARY
    dtype = "float32"
    max_rank = None

    def __init__(self, context: int = 64, adapter_bytes: int = 10) -> None:
        self.context = context
        self.fed: list[int] = []  # the length of every feed, in order
        self.opened = 0
        self.closed = 0
        self.gate = Event()  # cleared: every step waits
        self.gate.set()
        self.on_read: Callable[[], None] = lambda: None
        self._adapter_bytes = adapter_bytes

    def prepare(self, threads: int) -> None:
        assert threads > 0

    def read(self, ref: AdapterRef) -> HashAdapter:
        self.on_read()
        file = ref.path / "name"
        if not file.is_file():
            raise NotFoundError(f"{file} is missing")
        if sha256(file.read_bytes()).hexdigest() != ref.digest:
            raise DigestMismatchError(f"{file} was altered")
        return HashAdapter(file.read_text(), self._adapter_bytes)

    def open(self, mix: Sequence[Weighted[HashAdapter]]) -> "HashDecoder":
        self.opened += 1
        return HashDecoder(self, [one for one in mix if one.weight])


class HashDecoder:
    """The "KV cache" of one sequence: all its tokens."""

    def __init__(self, runner: HashRunner, mix: Sequence[Weighted[HashAdapter]]) -> None:
        self._runner = runner
        self._mix = mix
        self._tokens: list[int] = []

    def feed(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        self._runner.gate.wait(10)
        self._runner.fed.append(len(token_ids))
        self._tokens += token_ids
        if self._tokens[-1] == BREAKING_TOKEN and len(token_ids) > 1:
            raise RuntimeError("told to break")
        named = [(one.adapter.name, one.weight) for one in self._mix]
        raw = sha256(repr((self._tokens, named)).encode()).digest()
        return np.frombuffer(raw, np.uint8).astype(np.float32)[
            : self._runner.vocabulary
        ] / np.float32(64)

    def close(self) -> None:
        self._runner.closed += 1


def hash_adapter(folder: Path, name: str, content: str | None = None) -> AdapterRef:
    """A folder for a HashRunner; `content` makes it a broken one."""
    folder.mkdir(parents=True)
    (folder / "name").write_text(name if content is None else content)
    return AdapterRef(Digest(sha256(name.encode()).hexdigest()), folder)


def llama_adapter(folder: Path, base: BaseModel, seed: int, rank: int = 4) -> AdapterRef:
    """A PEFT folder with a random adapter that changes answers."""
    generator = torch.Generator().manual_seed(seed)
    shape = LoraShape(rank, 2 * rank, (0, base.layers - 1))
    fresh = random_adapter(base.model, base.digest, shape, generator)
    pairs = {
        site: LoraPair(pair.a, torch.randn(pair.b.shape, generator=generator))
        for site, pair in fresh.pairs.items()
    }
    adapter = msgspec.structs.replace(fresh, pairs=pairs)
    return AdapterRef(save_adapter(folder, adapter, base.name), folder)
