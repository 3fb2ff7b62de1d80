"""The dimensions of a Llama, or of a model built like one, and its fused matrices."""

from enum import IntEnum

import msgspec

from openledger.lm.families.architecture import (
    CausalConfig,
    check_supported,
    context_of,
    head_dim_of,
)
from openledger.lm.lora import TARGETS


class Matrix(IntEnum):
    """The matrix products of one decoder layer, those of one input fused."""

    QKV = 0
    OUT = 1
    GATE_UP = 2
    DOWN = 3


class Site(msgspec.Struct, frozen=True):
    """One fused matrix: from `width` numbers to those of its targets, side by side."""

    targets: tuple[str, ...]  # some of lora.TARGETS, in that order
    width: int
    out: tuple[int, ...]  # of each target

    @property
    def first_target(self) -> int:
        """The place of the first target among all."""
        return TARGETS.index(self.targets[0])


class LlamaShape(msgspec.Struct, frozen=True):
    """Nothing here is assumed of any one model."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int  # width of the feed-forward layer
    vocabulary: int
    context: int
    epsilon: float  # of normalisation

    @property
    def sites(self) -> tuple[Site, ...]:
        """By `Matrix`."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return (
            Site(("q_proj", "k_proj", "v_proj"), self.hidden, (queries, keys, keys)),
            Site(("o_proj",), queries, (self.hidden,)),
            Site(("gate_proj", "up_proj"), self.hidden, (self.inner, self.inner)),
            Site(("down_proj",), self.inner, (self.hidden,)),
        )

    def size_of(self, target: str) -> tuple[int, int]:
        """Numbers in and out of one target."""
        site = next(site for site in self.sites if target in site.targets)
        return site.width, site.out[site.targets.index(target)]


def shape_of(config: CausalConfig) -> LlamaShape:
    """Read a configuration.

    Raises:
        InvalidInputError: it asks for what this arithmetic has not; the message says what.
    """
    check_supported(config)
    return LlamaShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim_of(config),
        inner=config.intermediate_size,
        vocabulary=config.vocab_size,
        context=context_of(config),
        epsilon=config.rms_norm_eps,
    )
