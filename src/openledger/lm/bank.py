"""Several adapters of one shape on one base at once, each for rows of its own.

`lora.LoraHost` adds every member of a mix to every row. Here each row belongs to one adapter: of
the chosen ones the first has the first B rows of a batch, the second the next B. The products with
the frozen weights are shared by all, those with the factors are batched ones.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers.models.llama import LlamaForCausalLM

from openledger.core.errors import InvalidInputError
from openledger.lm.lora import Adapter, LoraPair, linear_at, replace_linear


class BankedLinear(nn.Module):
    """A frozen linear layer and the factors of all adapters of the bank."""

    def __init__(self, base: nn.Linear, pairs: Sequence[LoraPair], scale: float) -> None:
        super().__init__()
        self.base = base
        self.pairs = tuple(pairs)
        self.scale = scale
        self.chosen = tuple(range(len(pairs)))

    def forward(self, x: Tensor) -> Tensor:
        """(K * B, T, D_in) to (K * B, T, D_out) with K adapters chosen."""
        out: Tensor = self.base(x)
        a = torch.stack([self.pairs[place].a for place in self.chosen]).to(x.dtype)  # (K, R, D_in)
        b = torch.stack([self.pairs[place].b for place in self.chosen]).to(x.dtype)  # (K, D_out, R)
        rows = x.reshape(len(a), -1, x.shape[-1])  # (K, B * T, D_in)
        added = rows @ a.transpose(1, 2) @ b.transpose(1, 2)  # (K, B * T, D_out)
        return torch.add(out, added.view(out.shape), alpha=self.scale)


class Bank:
    """The adapters that stand on a model, and which of them the next rows are for."""

    def __init__(self, linears: Sequence[BankedLinear]) -> None:
        self._linears = tuple(linears)

    def choose(self, places: Sequence[int]) -> None:
        """The next batches hold equally many rows for each of these adapters, in this order."""
        for linear in self._linears:
            linear.chosen = tuple(places)


@contextmanager
def banked(model: LlamaForCausalLM, adapters: Sequence[Adapter]) -> Iterator[Bank]:
    """Put adapters of one shape on a model; its plain layers come back afterwards.

    Raises:
        InvalidInputError: there is none, or they are not of one shape.
    """
    if len({adapter.shape for adapter in adapters}) != 1:
        raise InvalidInputError("a bank needs adapters of one shape, at least one")
    shape = adapters[0].shape
    linears = {
        site: BankedLinear(
            linear_at(model, site), [adapter.pairs[site] for adapter in adapters], shape.scale
        )
        for site in shape.sites
    }
    for site, linear in linears.items():
        replace_linear(model, site, linear)
    try:
        yield Bank([*linears.values()])
    finally:
        for site, linear in linears.items():
            replace_linear(model, site, linear.base)
