"""Folders of adapters, and the library, that the tests of the embedded engine share."""

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
import torch

from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import save_adapter
from openledger.lm.lora import LoraPair, LoraShape, random_adapter
from openledger.serving.engine import AdapterRef
from openledger.serving.native.library import InstructionSet, Native, load_library, native


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


def native_of(wanted: InstructionSet | None = None) -> Native:
    """The library with one instruction set; skips where there is none of both."""
    library = load_library()
    if library is None:
        pytest.skip("no C compiler here")
    if wanted is not None and wanted > library.widest:
        pytest.skip(f"this CPU has no {wanted.name}")
    found = native(wanted)
    assert found is not None
    return found
