"""The families whose layers this package knows: Llama, and those that are built like it.

Qwen2 adds biases to queries, keys and values; Qwen3 normalises queries and keys head by head;
Mistral looks back no further than a window. A configuration names one of this closed list, never
code of its own.
"""

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from transformers.models.llama import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.mistral import MistralConfig, MistralForCausalLM
from transformers.models.mistral.modeling_mistral import (
    MistralDecoderLayer,
    MistralRotaryEmbedding,
)
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding

from openledger.core.errors import InvalidInputError

CausalConfig: TypeAlias = LlamaConfig | MistralConfig | Qwen2Config | Qwen3Config
CausalModel: TypeAlias = LlamaForCausalLM | MistralForCausalLM | Qwen2ForCausalLM | Qwen3ForCausalLM
CausalLayer: TypeAlias = (
    LlamaDecoderLayer | MistralDecoderLayer | Qwen2DecoderLayer | Qwen3DecoderLayer
)
CausalRotary: TypeAlias = (
    LlamaRotaryEmbedding | MistralRotaryEmbedding | Qwen2RotaryEmbedding | Qwen3RotaryEmbedding
)

CONFIGS: dict[str, type[CausalConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
_MODELS: dict[str, type[CausalModel]] = {
    "llama": LlamaForCausalLM,
    "mistral": MistralForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
}
_ROTARIES: dict[str, type[CausalRotary]] = {
    "llama": LlamaRotaryEmbedding,
    "mistral": MistralRotaryEmbedding,
    "qwen2": Qwen2RotaryEmbedding,
    "qwen3": Qwen3RotaryEmbedding,
}
HEAD = "lm_head.weight"
# By kind of rotary embedding: what it cannot do without, and what it may be given. All of them have
# frequencies that do not change with the length of a text.
ROTARY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
        (),
    ),
    "yarn": (
        ("factor",),
        (
            *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
            *("mscale", "mscale_all_dim", "truncate"),
        ),
    ),
}


def config_of(fields: Mapping[str, object]) -> CausalConfig:
    """A configuration from the fields of config.json.

    Raises:
        InvalidInputError: it is of another family.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIGS:
        raise InvalidInputError(f"model type {kind!r} is not among {', '.join(CONFIGS)}")
    return CONFIGS[kind](**fields)


def check_supported(config: CausalConfig) -> None:
    """Refuse what the layers here cannot do.

    Raises:
        InvalidInputError: the message says what.
    """
    rotary = config.rope_parameters or {}
    check_rotary(rotary.get("rope_type", "default"))
    if rotary.get("partial_rotary_factor", 1.0) != 1.0:
        raise InvalidInputError("a rotary embedding of a part of each head is not supported")
    if config.hidden_act != "silu":
        raise InvalidInputError(f"activation {config.hidden_act!r} is not silu")


def check_rotary(kind: str) -> None:
    """Refuse a kind of rotary embedding.

    Raises:
        InvalidInputError: it is none of ours.
    """
    if kind not in ROTARY:
        raise InvalidInputError(f"rotary embedding {kind!r} is not among {', '.join(ROTARY)}")


def context_of(config: CausalConfig) -> int:
    """Positions up to which every layer sees all that came before; beyond, windows would slide."""
    window = getattr(config, "sliding_window", None)  # Llama has none
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))


def head_dim_of(config: CausalConfig) -> int:
    """Numbers of one attention head."""
    given = getattr(config, "head_dim", None)  # Qwen2 has no such field
    return int(given or config.hidden_size // config.num_attention_heads)


def rotary_embedding(config: CausalConfig) -> CausalRotary:
    """How positions turn queries and keys, with its frequencies."""
    return _ROTARIES[config.model_type](config)


def empty_model(config: CausalConfig) -> CausalModel:
    """A model without memory for its weights: names and shapes alone."""
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return _MODELS[config.model_type](config)


def model_of(config: CausalConfig, weights: Mapping[str, Tensor]) -> CausalModel:
    """A frozen model on these weights, which it shares; a tied head may be left out."""
    model = empty_model(config)
    model.load_state_dict(weights, strict=False, assign=True)  # strict would ask for a tied head
    model.tie_weights()
    # The rotary frequencies are no parameters: made on "meta", they would be empty.
    model.model.rotary_emb = rotary_embedding(config)
    return model.eval().requires_grad_(False)
