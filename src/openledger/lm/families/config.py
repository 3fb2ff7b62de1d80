"""A foreign config.json, believed only as far as its fields are known and within bounds.

Fields that no family's arithmetic uses are left behind, whatever they say; those that ask for other
code, other numbers or other positions are refused.
"""

from typing import Annotated

import msgspec
import torch

from openledger.core.errors import InvalidInputError
from openledger.lm.families.architecture import (
    ROTARY,
    CausalConfig,
    check_rotary,
    check_supported,
    config_of,
    head_dim_of,
    rotary_embedding,
)
from openledger.lm.families.files import read_json

_NAME = "config.json"
_THETA = 10_000.0  # of files that are older than the field

_Size = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1_024)]
_Context = Annotated[int, msgspec.Meta(ge=16, le=1 << 20)]
_Token = Annotated[int, msgspec.Meta(ge=0, lt=1_000_000)]
_Positive = Annotated[float, msgspec.Meta(ge=1e-6, le=1e12)]


class _Rotary(msgspec.Struct, frozen=True):
    rope_type: str | None = None
    type: str | None = None  # as older files call it
    rope_theta: _Positive | None = None
    partial_rotary_factor: float | None = None
    factor: _Positive | None = None
    low_freq_factor: _Positive | None = None
    high_freq_factor: _Positive | None = None
    original_max_position_embeddings: _Context | None = None
    attention_factor: _Positive | None = None
    beta_fast: _Positive | None = None
    beta_slow: _Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None


class _Fields(msgspec.Struct, frozen=True):
    """What is read; what stands in no file is as transformers has it for the family."""

    model_type: str
    vocab_size: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)]
    hidden_size: Annotated[int, msgspec.Meta(ge=2, le=65_536)]
    intermediate_size: _Size
    num_hidden_layers: _Count
    num_attention_heads: _Count
    max_position_embeddings: _Context
    rms_norm_eps: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    num_key_value_heads: _Count | msgspec.UnsetType | None = msgspec.UNSET
    head_dim: Annotated[int, msgspec.Meta(ge=2, le=1_024)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    hidden_act: str | msgspec.UnsetType = msgspec.UNSET
    tie_word_embeddings: bool | msgspec.UnsetType = msgspec.UNSET
    attention_bias: bool | msgspec.UnsetType = msgspec.UNSET
    mlp_bias: bool | msgspec.UnsetType = msgspec.UNSET
    sliding_window: _Context | msgspec.UnsetType | None = msgspec.UNSET
    use_sliding_window: bool | msgspec.UnsetType = msgspec.UNSET
    max_window_layers: int | msgspec.UnsetType = msgspec.UNSET


class _Positions(msgspec.Struct, frozen=True):
    rope_parameters: _Rotary | None = None
    rope_scaling: _Rotary | None = None  # as older files call it
    rope_theta: _Positive | None = None
    partial_rotary_factor: float | None = None


class Ends(msgspec.Struct, frozen=True):
    """Which tokens a configuration says begin and end a text."""

    bos_token_id: _Token | list[_Token] | None = None
    eos_token_id: _Token | list[_Token] | None = None


class _Refused(msgspec.Struct, frozen=True):
    """What makes a model another than its family's."""

    auto_map: dict[str, object] | None = None
    quantization_config: dict[str, object] | None = None


# Of a normal form, in which equal models have equal files.
_KEPT = (
    *("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps"),
    *("hidden_act", "tie_word_embeddings", "rope_parameters"),
    # Not of every family:
    *("attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers"),
)


def read_config(content: bytes) -> CausalConfig:
    """The configuration in a foreign config.json.

    Raises:
        InvalidInputError: it is no such file, or asks for what is not supported; the message says
            what.
    """
    refused = read_json(content, _Refused, _NAME)
    fields = read_json(content, _Fields, _NAME)
    positions = read_json(content, _Positions, _NAME)
    if refused.auto_map:
        raise InvalidInputError("config.json asks for code of its own (auto_map): never run here")
    if refused.quantization_config:
        raise InvalidInputError(
            "the weights are quantised (quantization_config): take those in bfloat16 or float32"
        )
    given = msgspec.structs.asdict(fields) | {"rope_parameters": _rotary(positions)}
    given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
    try:
        config = config_of(given)
        check_supported(config)
        frequencies = rotary_embedding(config).inv_freq
    except InvalidInputError:
        raise
    except Exception as error:
        # Transformers checks by means of several libraries, each with errors of its own.
        raise InvalidInputError(f"config.json contradicts itself: {error}") from error
    if not bool(torch.isfinite(frequencies).all()):
        raise InvalidInputError("config.json gives rotary frequencies that are no numbers")
    _check_heads(config)
    return config


def ends_of(content: bytes) -> Ends:
    """The ids in a foreign config.json.

    Raises:
        InvalidInputError: they are no ids.
    """
    return read_json(content, Ends, _NAME)


def fields_of(config: CausalConfig) -> dict[str, object]:
    """The fields that the arithmetic depends on, all of them written out."""
    fields = {name: getattr(config, name) for name in _KEPT if hasattr(config, name)}
    return fields | {
        "head_dim": head_dim_of(config),
        "architectures": [f"{type(config).__name__.removesuffix('Config')}ForCausalLM"],
    }


def _rotary(positions: _Positions) -> dict[str, object]:
    given = positions.rope_scaling or positions.rope_parameters or _Rotary()
    kind = given.rope_type or given.type or "default"
    check_rotary(kind)
    needed, optional = ROTARY[kind]
    if missing := [name for name in needed if getattr(given, name) is None]:
        raise InvalidInputError(f"rotary embedding {kind!r} needs {', '.join(missing)}")
    chosen = {name: getattr(given, name) for name in (*needed, *optional)}
    parts = (given.partial_rotary_factor, positions.partial_rotary_factor)
    part = next((one for one in parts if one is not None), 1.0)
    return {
        "rope_type": kind,
        "rope_theta": given.rope_theta or positions.rope_theta or _THETA,
        **{name: value for name, value in chosen.items() if value is not None},
        **({} if part == 1.0 else {"partial_rotary_factor": part}),  # is refused as unsupported
    }


def _check_heads(config: CausalConfig) -> None:
    if config.num_attention_heads % config.num_key_value_heads:
        raise InvalidInputError(
            f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} of keys"
        )
    if (size := head_dim_of(config)) % 2 or size < 2:
        raise InvalidInputError(f"heads of {size} numbers cannot be rotated")
