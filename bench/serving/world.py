"""Models with random weights, adapters and prompts that all engines of the bench get alike."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from openledger.lm.base import BaseModel, load_base
from openledger.lm.checkpoint import save_adapter
from openledger.lm.lora import TARGETS, Adapter, LoraPair, LoraShape, random_adapter
from openledger.lm.tiny import build_tiny
from openledger.serving.engine import AdapterRef

RANK = 8
_CONTEXT = 2_048
_STRAY = 0.02  # of B's entries: enough to change every logit


class Size(msgspec.Struct, frozen=True):
    """The shape of a Llama with a tied head."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int


SMALL = Size("S", 512, 8, 8, 4, 1_408, 8_192)  # 27.8 million weights
SMOLLM2 = Size("SmolLM2", 576, 30, 9, 3, 1_536, 49_152)  # 134.5 million
SMALLEST = Size("smallest", 64, 2, 4, 2, 96, 256)


class Needs(msgspec.Struct, frozen=True):
    """How much of everything the cells of a grid take."""

    adapters: int
    rows: int
    prompt_tokens: int
    answer_tokens: int


class World(msgspec.Struct, frozen=True):
    """A base model in both precisions, and adapters on all its linear layers."""

    size: Size
    bases: dict[str, BaseModel]  # by precision
    adapters: tuple[Adapter, ...]
    refs: tuple[AdapterRef, ...]
    prompts: tuple[tuple[int, ...], ...]
    room_tokens: int  # of one prompt and its answer


def make_world(folder: Path, size: Size, needs: Needs) -> World:
    """The same for the same sizes, whatever machine."""
    build_tiny(folder / "tiny")  # lends its tokenizer and its manifest
    tiny = load_base(folder / "tiny")
    bases = {
        name: msgspec.structs.replace(tiny, model=_model(size, getattr(torch, name)))
        for name in ("float32", "bfloat16")
    }
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, size.vocabulary, (needs.rows, needs.prompt_tokens), generator=generator)
    prompts = tuple(tuple(row) for row in ids.tolist())
    world = World(size, bases, (), (), prompts, needs.prompt_tokens + needs.answer_tokens)
    return with_adapters(world, folder, [RANK] * needs.adapters)


def with_adapters(world: World, folder: Path, ranks: Sequence[int]) -> World:
    """The same base and prompts under new adapters of these ranks."""
    base = world.bases["float32"]
    made = tuple(_adapter(base, rank, seed) for seed, rank in enumerate(ranks))
    folders = [folder / f"adapter-{seed}-{rank}" for seed, rank in enumerate(ranks)]
    refs = tuple(
        AdapterRef(save_adapter(where, one, "bench"), where)
        for where, one in zip(folders, made, strict=True)
    )
    return msgspec.structs.replace(world, adapters=made, refs=refs)


def first_adapters(world: World, count: int) -> World:
    """The same with fewer adapters."""
    few, refs = world.adapters[:count], world.refs[:count]
    return msgspec.structs.replace(world, adapters=few, refs=refs)


def on_peft(world: World, precision: str) -> PeftModel:
    """The adapters on a copy of the base, named "0", "1" and so on."""
    configs = [
        LoraConfig(r=one.shape.rank, lora_alpha=one.shape.alpha, target_modules=[*TARGETS])
        for one in world.adapters
    ]
    base = _model(world.size, getattr(torch, precision))
    model = get_peft_model(base, configs[0], adapter_name="0")
    for place, config in enumerate(configs[1:], start=1):
        model.add_adapter(str(place), config)
    parameters = dict(model.named_parameters())
    for place, adapter in enumerate(world.adapters):
        for site, pair in adapter.pairs.items():
            for letter, factor in (("A", pair.a), ("B", pair.b)):
                name = f"base_model.model.{site.module}.lora_{letter}.{place}.weight"
                parameters[name].data.copy_(factor)
    return model.eval()


def names(adapters: int, rows: int) -> Sequence[int]:
    """Which adapter each row gets, in turns."""
    return [row % adapters for row in range(rows)]


def _model(size: Size, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.inner,
        vocab_size=size.vocabulary,
        max_position_embeddings=_CONTEXT,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    # No token ends an answer, so that all engines make equally many.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def _adapter(base: BaseModel, rank: int, seed: int) -> Adapter:
    """Its numbers are such as bfloat16 holds, so that no engine rounds them."""
    generator = torch.Generator().manual_seed(seed)
    shape = LoraShape(rank, 2 * rank, tuple(range(base.layers)))
    fresh = random_adapter(base.model, base.digest, shape, generator)
    pairs = {
        site: LoraPair(
            pair.a.bfloat16().float(),
            torch.randn(pair.b.shape, generator=generator).mul(_STRAY).bfloat16().float(),
        )
        for site, pair in fresh.pairs.items()
    }
    return msgspec.structs.replace(fresh, pairs=pairs)
