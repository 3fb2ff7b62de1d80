"""LoRA adapters on one resident base model, several at once, none of them copying it.

A mix is a weighted list of adapters. While it is set, each adapted linear layer computes
`W x + sum_i w_i * (alpha_i / rank_i) * B_i A_i x`, exactly: the adapters are summed as functions,
their factors are never averaged. Ranks may differ. No mix set is the plain base.

In a bank each row of a batch has an adapter of its own instead: of the chosen ones the first has
the first B rows, the second the next B. The products with the frozen weights are shared by all,
those with the factors are batched ones.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec
import torch
from torch import Tensor, nn

from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.families.architecture import CausalModel

ATTENTION_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_TARGETS = ("gate_proj", "up_proj", "down_proj")
TARGETS = (*ATTENTION_TARGETS, *MLP_TARGETS)


_UNNAMED = Digest("0" * 64)  # an adapter has no digest before it is done


class Site(msgspec.Struct, frozen=True, order=True):
    """One linear layer that an adapter changes."""

    layer: int
    target: str  # one of TARGETS

    @property
    def module(self) -> str:
        """Its module path inside the model."""
        block = "self_attn" if self.target in ATTENTION_TARGETS else "mlp"
        return f"model.layers.{self.layer}.{block}.{self.target}"


class LoraShape(msgspec.Struct, frozen=True):
    """Which linear layers an adapter changes, and how."""

    rank: int
    alpha: int
    layers: tuple[int, ...]  # rising
    targets: tuple[str, ...] = TARGETS

    @property
    def scale(self) -> float:
        """The factor on B A x."""
        return self.alpha / self.rank

    @property
    def sites(self) -> tuple[Site, ...]:
        """All adapted layers, by layer, then in the order of `targets`."""
        return tuple(Site(layer, target) for layer in self.layers for target in self.targets)


class LoraPair(msgspec.Struct, frozen=True):
    """The two factors at one site."""

    a: Tensor  # (R, D_in)
    b: Tensor  # (D_out, R)


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter in memory."""

    shape: LoraShape
    base: Digest  # the base model it was trained on
    pairs: dict[Site, LoraPair]  # one for each of shape.sites


class MixMember(msgspec.Struct, frozen=True):
    """One adapter of a mix, by its digest."""

    adapter: Digest
    weight: float = 1.0


class LoraTerm(msgspec.Struct, frozen=True):
    """What one member of the mix adds at one site."""

    pair: LoraPair
    scale: float  # weight * alpha / rank


class MixedLinear(nn.Module):
    """A frozen linear layer and the terms of the present mix."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.terms: tuple[LoraTerm, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) to (..., D_out), all of it in the dtype of `x`."""
        out: Tensor = self.base(x)
        for term in self.terms:
            a, b = term.pair.a.to(x.dtype), term.pair.b.to(x.dtype)
            out = torch.add(out, (x @ a.T) @ b.T, alpha=term.scale)
        return out


class LoraHost:
    """The adapters that live on one base model, and the mix that is set on it.

    It is not locked: whoever owns the model (one engine thread, one worker) sets the mix and runs
    the forward pass.
    """

    def __init__(self, model: CausalModel, base: Digest) -> None:
        self.model = model
        self.base = base
        self._adapters: dict[Digest, Adapter] = {}
        self._linears: dict[Site, MixedLinear] = {}
        self._mix: tuple[MixMember, ...] = ()

    @property
    def adapters(self) -> frozenset[Digest]:
        """The digests of all resident adapters."""
        return frozenset(self._adapters)

    @property
    def mix(self) -> tuple[MixMember, ...]:
        """The mix that is set; empty for the plain base."""
        return self._mix

    def add(self, digest: Digest, adapter: Adapter) -> None:
        """Make an adapter resident; adding it again changes nothing.

        Raises:
            ConflictError: it was trained on another base model.
        """
        if adapter.base != self.base:
            raise ConflictError(
                f"adapter {digest} was trained on base model {adapter.base}, not on {self.base}"
            )
        for site in adapter.shape.sites:
            if site not in self._linears:
                self._linears[site] = _wrap(self.model, site)
        self._adapters[digest] = adapter

    def remove(self, digest: Digest) -> None:
        """Let an adapter go.

        Raises:
            NotFoundError: it is not resident.
            ConflictError: the mix that is set uses it.
        """
        self._find(digest)
        if any(member.adapter == digest for member in self._mix):
            raise ConflictError(
                f"adapter {digest} is in the mix that is set; set another mix first"
            )
        del self._adapters[digest]

    def set_mix(self, mix: Sequence[MixMember]) -> None:
        """Choose what the next forward passes add to the base; an empty mix is the base alone.

        Raises:
            NotFoundError: a member is not resident.
            InvalidInputError: a weight is infinite or no number, or an adapter stands twice.
        """
        if len({member.adapter for member in mix}) < len(mix):
            raise InvalidInputError("an adapter stands twice in the mix: add its weights up")
        if not all(math.isfinite(member.weight) for member in mix):
            raise InvalidInputError("the weights of a mix must be finite numbers")
        found = [self._find(member.adapter) for member in mix]
        for site, linear in self._linears.items():
            linear.terms = tuple(
                LoraTerm(adapter.pairs[site], member.weight * adapter.shape.scale)
                for member, adapter in zip(mix, found, strict=True)
                if site in adapter.pairs
            )
        self._mix = tuple(mix)

    @contextmanager
    def mixed(self, mix: Sequence[MixMember]) -> Iterator[CausalModel]:
        """The model under this mix; the previous one comes back afterwards."""
        before = self._mix
        self.set_mix(mix)
        try:
            yield self.model
        finally:
            self.set_mix(before)

    def close(self) -> None:
        """Put the plain linear layers back and let all adapters go."""
        for site, linear in self._linears.items():
            replace_linear(self.model, site, linear.base)
        self._linears, self._adapters, self._mix = {}, {}, ()

    def _find(self, digest: Digest) -> Adapter:
        if digest not in self._adapters:
            raise NotFoundError(f"adapter {digest} is not loaded")
        return self._adapters[digest]


@contextmanager
def attached(model: CausalModel, adapter: Adapter) -> Iterator[None]:
    """Let a model compute with one adapter; its plain layers come back afterwards."""
    host = LoraHost(model, adapter.base)
    host.add(_UNNAMED, adapter)
    host.set_mix([MixMember(_UNNAMED)])
    try:
        yield
    finally:
        host.close()


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
def banked(model: CausalModel, adapters: Sequence[Adapter]) -> Iterator[Bank]:
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


def added_up(model: CausalModel, adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """One adapter that is the weighted sum of several as functions: their factors side by side.

    Raises:
        InvalidInputError: there is none, or they belong to several base models.
    """
    if len({adapter.base for adapter in adapters}) != 1:
        raise InvalidInputError("adapters of one base model can be added up, at least one")
    shapes = [adapter.shape for adapter in adapters]
    rank = sum(shape.rank for shape in shapes)
    layers = tuple(sorted({layer for shape in shapes for layer in shape.layers}))
    targets = tuple(t for t in TARGETS if any(t in shape.targets for shape in shapes))
    whole = LoraShape(rank, rank, layers, targets)  # a scale of 1
    pairs = {}
    for site in whole.sites:
        linear = linear_at(model, site)
        a, b = torch.zeros(rank, linear.in_features), torch.zeros(linear.out_features, rank)
        first = 0
        for adapter, weight in zip(adapters, weights, strict=True):
            rows = slice(first, first + adapter.shape.rank)
            if site in adapter.pairs:
                a[rows] = adapter.pairs[site].a
                b[:, rows] = adapter.pairs[site].b * (weight * adapter.shape.scale)
            first += adapter.shape.rank
        pairs[site] = LoraPair(a, b)
    return Adapter(whole, adapters[0].base, pairs)


def linear_at(model: CausalModel, site: Site) -> nn.Linear:
    """The plain linear layer at a site, below whatever wraps it.

    Raises:
        NotFoundError: the model has no such layer.
    """
    try:
        module: nn.Module = model.get_submodule(site.module)
    except AttributeError as error:
        raise NotFoundError(f"the base model has no layer {site.module}") from error
    linear = module.base if isinstance(module, MixedLinear | BankedLinear) else module
    assert isinstance(linear, nn.Linear)
    return linear


def replace_linear(model: CausalModel, site: Site, module: nn.Module) -> None:
    """Put a module in the place of the linear layer at a site."""
    parent, _, name = site.module.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def random_adapter(
    model: CausalModel, base: Digest, shape: LoraShape, generator: torch.Generator
) -> Adapter:
    """A fresh adapter as training starts from: A uniform as `nn.Linear` is, B zero; float32."""
    pairs = {}
    for site in shape.sites:
        linear = linear_at(model, site)
        bound = 1 / math.sqrt(linear.in_features)
        a = torch.empty(shape.rank, linear.in_features).uniform_(-bound, bound, generator=generator)
        pairs[site] = LoraPair(a, torch.zeros(linear.out_features, shape.rank))
    return Adapter(shape, base, pairs)


def _wrap(model: CausalModel, site: Site) -> MixedLinear:
    linear = MixedLinear(linear_at(model, site))
    replace_linear(model, site, linear)
    return linear
