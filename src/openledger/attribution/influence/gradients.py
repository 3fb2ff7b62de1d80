"""Gradients of single sequences in the LoRA matrices of one adapter.

The loss is taken by hand: the gradient of the log-likelihood in the final states is p E - E[label],
so the head, the largest matrix of a small model, is used twice per batch however many labels are
tried, and nothing of it is kept for a backward pass. From there one backward pass through the
adapted layers leaves at each site the vector it read and the gradient it received; their outer
product, summed over a sequence, is that sequence's gradient. Padding stands on the right, where no
real token sees it, and its loss weight is zero: its gradients are exactly zero.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import pad_sequence
from transformers.models.llama import LlamaForCausalLM

from openledger.attribution.influence.curvature import Site, SiteGradient
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.frozen import SplitModel
from openledger.lm.lora import Adapter, LoraPair, linear_at

_HEAD_ROWS = 128  # logits of so many positions at once; more of them fall out of the cache
_HEAD_TOKENS = 2_048  # of the vocabulary at once: neither their rows nor their logits fall out
_DRAW_BLOCK = 256  # tokens of the vocabulary summed together when one is drawn
_READ_TOGETHER = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "mlp"}
_READ_TOGETHER |= {"up_proj": "mlp"}


class Batch(msgspec.Struct, frozen=True):
    """Some sequences, padded on the right."""

    ids: Tensor  # (B, T)
    lengths: tuple[int, ...]
    weights: Tensor  # (B, T - 1) of the loss of each next token; 0 at padding and in prompts
    hidden: Tensor  # (B, T, D) input of the lowest adapted layer


class _Probe(nn.Module):
    """A frozen linear layer with its LoRA pair, which remembers what flows through it."""

    def __init__(self, linear: nn.Linear, pair: LoraPair, scale: float) -> None:
        super().__init__()
        self.linear = linear
        dtype = linear.weight.dtype
        self.a, self.b = pair.a.detach().to(dtype), (pair.b.detach() * scale).to(dtype)
        self.scale = scale
        self.is_on = True
        self.read = self.inner = self.received = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        if not self.is_on:
            return out
        inner = x @ self.a.T  # (B, T, R)
        out = out + inner @ self.b.T
        if out.requires_grad:
            self.read, self.inner = x.detach(), inner.detach()
            out.register_hook(self._receive)  # type: ignore[no-untyped-call] # torch's own
        return out

    def _receive(self, gradient: Tensor) -> None:
        self.received = gradient

    def gradient(self) -> SiteGradient:
        a = (self.received @ self.b).transpose(1, 2) @ self.read  # (B, R, D)
        b = self.received.transpose(1, 2) @ self.inner * self.scale  # (B, D, R)
        return SiteGradient(a, b)


class ProbedModel:
    """One adapter on its base, in modules of its own: the base that was given is not changed.

    Weights are shared with that base, whose dtype everything is computed in.
    """

    def __init__(self, base: BaseModel, adapter: Adapter) -> None:
        """Set it up.

        Raises:
            InvalidInputError: the adapter was trained on another base model.
        """
        if adapter.base != base.digest:
            raise InvalidInputError(
                f"the adapter was trained on base model {adapter.base}, this one is {base.digest}"
            )
        model = _copy_of(base.model)
        # PyTorch's flash attention for CPUs is slow backwards, most of all in bfloat16.
        self.attention = SDPBackend.MATH
        self.base = msgspec.structs.replace(base, model=model)
        self.split = SplitModel(model, adapter.shape.layers[0])
        self._probes: dict[str, _Probe] = {}
        sites = []
        for place in adapter.shape.sites:
            probe = _Probe(linear_at(model, place), adapter.pairs[place], adapter.shape.scale)
            parent, _, name = place.module.rpartition(".")
            setattr(model.get_submodule(parent), name, probe)
            self._probes[place.module] = probe
            reads = f"{place.layer}.{_READ_TOGETHER.get(place.target, place.target)}"
            size = (probe.linear.in_features, probe.linear.out_features)
            sites.append(Site(place.module, reads, *size, adapter.shape.rank))
        self.sites = tuple(sites)

    @torch.no_grad()
    def batch(
        self,
        rows: Sequence[Sequence[int]],
        answer_starts: Sequence[int],
        hidden: Sequence[Tensor] | None = None,
    ) -> Batch:
        """Lay sequences out; only tokens from each start on (at least 1) have a loss, each 1.

        Args:
            rows: token ids.
            answer_starts: one for every row.
            hidden: per row the (T, D) input of the lowest adapted layer, where it is known.
        """
        ids = pad_sequence([torch.tensor(list(row)) for row in rows], batch_first=True)
        places = torch.arange(1, ids.shape[1])  # of the labels
        starts, lengths = torch.tensor(list(answer_starts)), torch.tensor([len(r) for r in rows])
        weights = (places >= starts[:, None]) & (places < lengths[:, None])
        lower = self.split.lower(ids) if hidden is None else pad_sequence(list(hidden), True)
        return Batch(ids, tuple(map(len, rows)), weights.float(), lower)

    def upper(self, batch: Batch, *, is_adapted: bool = True, has_graph: bool = False) -> Tensor:
        """(B, T - 1, D) of the states that predict each next token."""
        for probe in self._probes.values():
            probe.is_on = is_adapted
        with torch.set_grad_enabled(has_graph), sdpa_kernel(self.attention):
            hidden = batch.hidden.detach().requires_grad_(has_graph)
            return self.split.upper(hidden)[:, :-1]

    def gradients(self, states: Tensor, gradient: Tensor) -> dict[str, SiteGradient]:
        """Send a (B, T - 1, D) gradient of the last states with a graph back through the layers.

        What comes back are the gradients at A and B, by site.
        """
        torch.autograd.backward(states, gradient.to(states.dtype), retain_graph=True)
        return {name: probe.gradient() for name, probe in self._probes.items()}

    @property
    def vocabulary(self) -> int:
        """V."""
        return int(self.base.model.config.vocab_size)

    def embedding(self) -> Tensor:
        """(V, D), which is the head as well."""
        weight: Tensor = self.base.model.lm_head.weight
        return weight


class Checkpoints(msgspec.Struct, frozen=True):
    """One adapter at two moments of its training: what it learned first counts as well."""

    early: ProbedModel  # after a quarter of the steps
    final: ProbedModel  # the one that answers

    @property
    def both(self) -> tuple[ProbedModel, ProbedModel]:
        """In order."""
        return self.early, self.final


def probed_checkpoints(
    base: BaseModel, folder_of: Callable[[Digest], Path], early: Digest, final: Digest
) -> Checkpoints:
    """Load both from the folders of their adapters.

    Raises:
        NotFoundError: an adapter is not there.
        DigestMismatchError: an adapter is another than its digest says.
    """
    return Checkpoints(
        early=ProbedModel(base, load_adapter(folder_of(early), base, early)),
        final=ProbedModel(base, load_adapter(folder_of(final), base, final)),
    )


class Labels(msgspec.Struct, frozen=True):
    """Gradients of the mean or summed loss in the final states, for two sets of labels."""

    true: Tensor  # (B, T - 1, D), of the tokens that are there
    sampled: Tensor | None  # the same, of tokens drawn from the model


@torch.no_grad()
def label_gradients(
    model: ProbedModel, batch: Batch, states: Tensor, uniforms: np.ndarray | None = None
) -> Labels:
    """The gradient of each token's weighted loss in the state that predicts it.

    Args:
        model: whose head it is.
        batch: the tokens and the weights of their losses.
        states: (B, T - 1, D) from `ProbedModel.upper`.
        uniforms: one number in [0, 1) for every weighted token, to draw its other label with.
    """
    head = model.embedding()
    keep = batch.weights.flatten() > 0
    chosen, labels = states.detach().flatten(0, 1)[keep], batch.ids[:, 1:].flatten()[keep]
    weights = batch.weights.flatten()[keep, None]
    pieces, drawn = [], []
    for start in range(0, len(chosen), _HEAD_ROWS):
        part = chosen[start : start + _HEAD_ROWS]
        chances = torch.softmax(part @ head.T, dim=-1, dtype=torch.float32)  # (rows, V)
        pieces.append((chances.to(head.dtype) @ head).float())  # (rows, D)
        if uniforms is not None:
            drawn.append(_draw(chances, uniforms[start : start + _HEAD_ROWS]))
    expected = torch.cat(pieces)

    def spread(tokens: Tensor) -> Tensor:
        values = states.new_zeros((keep.numel(), states.shape[-1]), dtype=torch.float32)
        values[keep] = (expected - head[tokens].float()) * weights
        return values.view(states.shape)

    return Labels(spread(labels), spread(torch.cat(drawn)) if drawn else None)


@torch.no_grad()
def log_chances(
    model: ProbedModel, batch: Batch, states: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(N,) natural log-probabilities of the weighted tokens at temperature 1, float32.

    Args:
        model: whose head it is.
        batch: the tokens and which of them are weighted.
        states: (B, T - 1, D) from `ProbedModel.upper`.
        dtype: of the logits. Gains are computed in float32; bfloat16 is many times faster and a few
            hundredths of a nat off, which a mean over words does not show.
    """
    keep = batch.weights.flatten() > 0
    head, labels = model.embedding(), batch.ids[:, 1:].flatten()[keep]
    chosen = states.flatten(0, 1)[keep].to(dtype)
    total = chosen.new_full((len(chosen),), -torch.inf, dtype=torch.float32)
    for part in torch.split(head, _HEAD_TOKENS):
        logits = (chosen @ part.to(dtype).T).float()
        total = torch.logaddexp(total, logits.logsumexp(dim=-1))
    own = (chosen * head[labels].to(dtype)).sum(-1, dtype=torch.float32)
    return own - total


def _draw(chances: Tensor, uniforms: np.ndarray) -> Tensor:
    """Tokens by inverse distribution: (N, V) chances and N numbers in [0, 1) to (N,) ids.

    First the block that holds the token, then the token in it: sums over blocks cost a fraction of
    running sums over the whole vocabulary.
    """
    spare = -chances.shape[1] % _DRAW_BLOCK
    blocks = torch.nn.functional.pad(chances, (0, spare)).view(len(chances), -1, _DRAW_BLOCK)
    sums = blocks.sum(-1).cumsum(-1)  # (N, blocks)
    goals = torch.from_numpy(uniforms.astype(np.float32))[:, None] * sums[:, -1:]
    block = _first_above(sums, goals)  # (N, 1)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(1, block)
    inner = blocks[torch.arange(len(blocks)), block[:, 0]].cumsum(-1)  # (N, _DRAW_BLOCK)
    found = block * _DRAW_BLOCK + _first_above(inner, goals - before)
    return found[:, 0].clamp(max=chances.shape[1] - 1)


def _first_above(sums: Tensor, goals: Tensor) -> Tensor:
    """(N, 1) places of the first sum above each goal; the last where rounding leaves none."""
    return torch.searchsorted(sums, goals, right=True).clamp(max=sums.shape[1] - 1)


def _copy_of(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same weights in fresh modules, free of whatever adapters sit on the original."""
    with torch.device("meta"):
        copy = LlamaForCausalLM(model.config)
    weights = {name.replace(".base.", "."): w for name, w in model.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    copy.tie_weights()
    copy.model.rotary_emb = model.model.rotary_emb  # its buffers are not part of the state
    return copy.eval().requires_grad_(False)
