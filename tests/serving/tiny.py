"""Folders of adapters, and the library, that the tests of the embedded engine share."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from openledger.core.types import Digest
from openledger.lm.base import (
    CONFIG,
    TEMPLATE,
    TOKENIZER,
    WEIGHTS,
    BaseModel,
    BaseParts,
    Provenance,
    load_base,
    write_base,
)
from openledger.lm.checkpoint import adapter_digest, load_adapter, save_adapter
from openledger.lm.lora import LoraHost, LoraPair, LoraShape, MixMember, random_adapter
from openledger.serving.engine import AdapterRef
from openledger.serving.native.library import InstructionSet, Native, load_library, native
from tests.fakes import FAKE_ADAPTER_FILE

Mix = Sequence[tuple[Path, float]]


def fake_adapter(folder: Path, text: str, content: str | None = None) -> AdapterRef:
    """A folder for a FakeEngine; `content` makes it a broken one."""
    folder.mkdir()
    (folder / FAKE_ADAPTER_FILE).write_text(text if content is None else content)
    return AdapterRef(Digest(sha256(text.encode()).hexdigest()), folder)


def hash_adapter(folder: Path, name: str, content: str | None = None) -> AdapterRef:
    """A folder for a HashRunner; `content` makes it a broken one."""
    folder.mkdir(parents=True)
    (folder / "name").write_text(name if content is None else content)
    return AdapterRef(Digest(sha256(name.encode()).hexdigest()), folder)


def wide_headed(folder: Path, tiny: BaseModel) -> BaseModel:
    """The tiny base with heads of 32 numbers, the fewest that vLLM has kernels for on a CPU."""
    read = {name: (tiny.folder / name).read_text() for name in (CONFIG, TOKENIZER, TEMPLATE)}
    halved = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    parts = BaseParts(
        provenance=Provenance("Wide", "Apache-2.0", "openledger", "tests", Digest("0" * 64)),
        weights=load_file(tiny.folder / WEIGHTS),
        config=json.loads(read[CONFIG]) | halved,
        tokenizer_json=read[TOKENIZER],
        template=read[TEMPLATE],
    )
    return load_base(folder, write_base(folder, parts))


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


def exact_adapter(folder: Path, base: BaseModel, seed: int, rank: int) -> AdapterRef:
    """An adapter that bfloat16 holds exactly, on some layers only."""
    generator = torch.Generator().manual_seed(seed)
    shape = LoraShape(rank, 2 * rank + 1, (0, base.layers - 1))
    fresh = random_adapter(base.model, base.digest, shape, generator)
    pairs = {
        site: LoraPair(
            pair.a.bfloat16().float(),
            torch.randn(pair.b.shape, generator=generator).mul(0.3).bfloat16().float(),
        )
        for site, pair in fresh.pairs.items()
    }
    return AdapterRef(
        save_adapter(folder, msgspec.structs.replace(fresh, pairs=pairs), base.name), folder
    )


def logits_of(base: BaseModel) -> Callable[[Sequence[int], Mix], NDArray[np.float32]]:
    """(V,) logits after some tokens under a mix of folders; `base` is the function's own."""
    host = LoraHost(base.model, base.digest)
    known: dict[Path, Digest] = {}

    def logits(token_ids: Sequence[int], mix: Mix) -> NDArray[np.float32]:
        for path, _ in mix:
            if path not in known:
                known[path] = adapter_digest(path)
                host.add(known[path], load_adapter(path, base))
        host.set_mix([MixMember(known[path], weight) for path, weight in mix])
        with torch.inference_mode():
            found: NDArray[np.float32] = base.model(torch.tensor([token_ids])).logits[0, -1].numpy()
        return found

    return logits
