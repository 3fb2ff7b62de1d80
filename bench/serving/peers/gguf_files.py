"""The world's weights and adapters as GGUF, which llama.cpp reads.

llama.cpp turns neighbouring numbers of a head where Llama as published turns the two halves of it:
rows of Q and K, and of their adapters' B, change places.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray
from transformers.models.llama import LlamaConfig

from bench.serving.world import World
from openledger.lm.lora import Adapter

KINDS = {"f32": Kind.F32, "q8_0": Kind.Q8_0}
_ARCHITECTURE = "llama"
_BYTES = 256
_CONTROL = ("<unk>", "<s>", "</s>")
_NORMAL, _UNKNOWN, _CONTROLS, _BYTE = 1, 2, 3, 6  # llama.cpp's types of tokens
_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Matrix = NDArray[np.float32]


def write_base(world: World, path: Path, kind: str) -> None:
    """The base from its weights in float32, all matrices as `kind` says."""
    model = world.bases["float32"].model
    config = model.config
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    _describe(writer, config)
    _add_vocabulary(writer, config.vocab_size)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied to the embedding
        numbers = _turned(name, tensor.numpy(), config)
        if numbers.ndim == 1 or kind == "f32":
            writer.add_tensor(_name(name), numbers)
        else:
            quantised = gguf.quants.quantize(numbers, KINDS[kind])
            writer.add_tensor(_name(name), quantised, raw_dtype=KINDS[kind])
    _close(writer)


def write_adapters(world: World, folder: Path) -> tuple[Path, ...]:
    """One file for each adapter, in half precision as llama.cpp's own converter writes them."""
    paths = []
    for place, adapter in enumerate(world.adapters):
        paths.append(folder / f"adapter-{place}.gguf")
        _write_adapter(adapter, world.bases["float32"].model.config, paths[-1])
    return tuple(paths)


def _write_adapter(adapter: Adapter, config: LlamaConfig, path: Path) -> None:
    writer = gguf.GGUFWriter(path, _ARCHITECTURE)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(adapter.shape.alpha))
    for site, pair in adapter.pairs.items():
        name = f"{site.module}.weight"
        turned = _turned(name, pair.b.numpy(), config)
        writer.add_tensor(f"{_name(name)}.lora_a", pair.a.numpy().astype(np.float16))
        writer.add_tensor(f"{_name(name)}.lora_b", turned.astype(np.float16))
    _close(writer)


def _describe(writer: gguf.GGUFWriter, config: LlamaConfig) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Some text for each id: prompts are given as ids, but answers are put into words."""
    texts = [*_CONTROL, *(f"<0x{byte:02X}>" for byte in range(_BYTES))]
    kinds = [_UNKNOWN, _CONTROLS, _CONTROLS, *[_BYTE] * _BYTES]
    texts += [f"t{place}" for place in range(len(texts), size)]
    kinds += [_NORMAL] * (size - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts[:size])
    writer.add_token_scores([0.0] * size)
    writer.add_token_types(kinds[:size])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _turned(name: str, numbers: Matrix, config: LlamaConfig) -> Matrix:
    """(out, ...) with the rows of each head in llama.cpp's order."""
    if "q_proj" in name:
        heads = config.num_attention_heads
    elif "k_proj" in name:
        heads = config.num_key_value_heads
    else:
        return numbers
    halves = numbers.reshape(heads, 2, len(numbers) // heads // 2, *numbers.shape[1:])
    return halves.swapaxes(1, 2).reshape(numbers.shape)


def _name(name: str) -> str:
    """llama.cpp's name of a tensor."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, *part, _ = name.split(".")
    return f"blk.{layer}.{_NAMES['.'.join(part)]}.weight"


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
