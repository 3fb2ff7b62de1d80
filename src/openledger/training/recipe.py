"""What decides a training run besides its data and its seed: integers and names only.

The digest of a recipe goes on chain before the seed is drawn, so nobody can choose the recipe that
happens to favour his data.
"""

from typing import Literal

import msgspec
import torch

from openledger.core.errors import InvalidInputError
from openledger.core.types import Precision
from openledger.lm.checkpoint import MAX_RANK
from openledger.lm.lora import TARGETS, LoraShape

_BF16_UNITS = ("amx_bf16", "avx512_bf16")


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an adapter is trained; the same recipe, data and seed give the same adapter.

    The defaults are those of the demonstration on folk tunes: 22,000 tokens, 67 steps. The texts of
    `anchors` belong to the method "lora-1": other texts are another method.
    """

    method: Literal["lora-1"] = "lora-1"
    rank: int = 8
    alpha: int = 16
    last_layers: int = 10  # adapters stand on the last layers only, so the others can be cached
    target_modules: tuple[str, ...] = TARGETS
    learning_rate_micro: int = 3_000  # millionths; its highest value, after warm-up
    epochs: int = 2  # whole ones: every row counts equally often
    batch_size: int = 4  # rows
    max_length: int = 512  # tokens of a row; longer chunks become several rows
    warmup_steps: int = 8
    precision: Precision = "bfloat16"  # of the frozen base; the adapter itself is float32
    # How hard the adapter is held to its base on everyday texts; 0 lets it go.
    anchor_weight_hundredths: int = 100
    evaluations: int = 4  # probes of the held-out loss, evenly over the run
    probe_tokens: int = 3_000  # how much of the held-out part a probe looks at
    patience: int = 2  # probes without a gain before the run stops

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidInputError(f"{name} {value} is outside {least} to {most}")
        targets = self.target_modules
        if not targets or len(set(targets)) < len(targets) or not set(targets) <= set(TARGETS):
            raise InvalidInputError(f"target_modules are some of {', '.join(TARGETS)}")

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the run."""
        return self.learning_rate_micro / 1_000_000

    @property
    def anchor_weight(self) -> float:
        """The factor on the loss of the anchors."""
        return self.anchor_weight_hundredths / 100

    def shape(self, layers: int) -> LoraShape:
        """The adapter this recipe makes on a base of so many layers."""
        first = max(0, layers - self.last_layers)
        return LoraShape(self.rank, self.alpha, tuple(range(first, layers)), self.target_modules)


def best_precision() -> Precision:
    """bfloat16 where this CPU multiplies it faster than float32."""
    units = torch.cpu.get_capabilities()
    return "bfloat16" if any(units.get(unit) for unit in _BF16_UNITS) else "float32"


_RANGES = {
    "rank": (1, MAX_RANK),
    "alpha": (1, 4_096),
    "last_layers": (1, 1_000),
    "learning_rate_micro": (1, 100_000),
    "epochs": (1, 100),
    "batch_size": (1, 1_024),
    "max_length": (8, 8_192),
    "warmup_steps": (0, 100_000),
    "anchor_weight_hundredths": (0, 100_000),
    "evaluations": (1, 1_000),
    "probe_tokens": (1, 10_000_000),
    "patience": (1, 1_000),
}
