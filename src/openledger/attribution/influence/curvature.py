"""EK-FAC for the LoRA matrices: what makes gradients of different directions comparable.

Each matrix M of a linear layer x -> B A x has the gradient (output side) x (input side), so its
Fisher matrix is close to a Kronecker product. Its eigenbasis is that of the two covariances; its
eigenvalues are measured again in that basis ("corrected", George et al. 2018) from gradients of
labels sampled from the model. One side of either matrix is the LoRA rank R and is kept whole. Of
the wide side, of dimension D, only the top K eigenvectors are kept and what they leave is scaled
coordinate by coordinate, as if the rest of the basis were the identity: the state of a release
must stay small. Layers that read the same vector share its basis.

Sources: arXiv 1806.03884 (EK-FAC), arXiv 2308.03296 (for influence on language models).
"""

from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from openledger.attribution.method import DAMPING, KEPT_DIVISOR, KEPT_LEAST

_OVERSAMPLING = 16
_ITERATIONS = 2


class Site(msgspec.Struct, frozen=True):
    """One adapted linear layer."""

    name: str
    reads: str  # sites of one name here read the same vector
    inputs: int  # D of the input
    outputs: int  # D of the output
    rank: int


class SiteGradient(msgspec.Struct, frozen=True):
    """The gradients of N sequences at one site."""

    a: Tensor  # (N, R, D) of the input
    b: Tensor  # (N, D, R) of the output


class Moments(msgspec.Struct, frozen=True):
    """Sums of outer products over tokens, of what flows through the sites."""

    wide_in: dict[str, Tensor]  # by `Site.reads`: (D, D) of the vectors that A reads
    wide_out: dict[str, Tensor]  # by site: (D, D) of the gradients that B receives
    rank_out: dict[str, Tensor]  # by site: (R, R) of the gradients that A receives
    rank_in: dict[str, Tensor]  # by site: (R, R) of the vectors that B reads


class Scale(msgspec.Struct, frozen=True):
    """The whitening of one matrix in its basis: one over the root of each damped eigenvalue."""

    head: Tensor  # (R, K)
    tail: Tensor  # (R, D)


class Whitener(msgspec.Struct, frozen=True):
    """F^(-1/2), truncated, for every site."""

    sites: tuple[Site, ...]
    wide_in: dict[str, Tensor]  # by `Site.reads`: (D, K) eigenvectors
    wide_out: dict[str, Tensor]  # by site: (D, K)
    rank_out: dict[str, Tensor]  # by site: (R, R)
    rank_in: dict[str, Tensor]  # by site: (R, R)
    scale_a: dict[str, Scale]
    scale_b: dict[str, Scale]

    def features(self, gradients: Mapping[str, SiteGradient]) -> list[Tensor]:
        """Whiten gradients.

        Returns:
            Per site (N, size); the inner products of two such lists are influence.
        """
        whitened = []
        for site in self.sites:
            heads = _split(self, site, gradients[site.name])
            scales = (self.scale_a[site.name], self.scale_b[site.name])
            pieces = [p for e, s in zip(heads, scales, strict=True) for p in _scaled(e, s)]
            whitened.append(torch.cat(pieces, dim=1))
        return whitened

    def sizes(self) -> list[int]:
        """The number of features of each site."""
        return [
            site.rank * (site.inputs + kept(site.inputs) + site.outputs + kept(site.outputs))
            for site in self.sites
        ]


class _Expanded(msgspec.Struct, frozen=True):
    head: Tensor  # (N, R, K) coefficients along the kept eigenvectors
    tail: Tensor  # (N, R, D) what they leave


def fit(
    sites: Sequence[Site],
    moments: Moments,
    sampled: Sequence[Mapping[str, SiteGradient]],
    generator: torch.Generator,
) -> Whitener:
    """Make the whitening from covariances and from per-example gradients of sampled labels.

    Args:
        sites: every adapted linear layer.
        moments: over the tokens of the examples behind `sampled`.
        sampled: batches of per-example gradients of labels drawn from the model.
        generator: seeds the search for eigenvectors.
    """
    bare = Whitener(
        sites=tuple(sites),
        wide_in={k: _top(m, generator) for k, m in sorted(moments.wide_in.items())},
        wide_out={k: _top(m, generator) for k, m in sorted(moments.wide_out.items())},
        rank_out={k: torch.linalg.eigh(m).eigenvectors for k, m in moments.rank_out.items()},
        rank_in={k: torch.linalg.eigh(m).eigenvectors for k, m in moments.rank_in.items()},
        scale_a={},
        scale_b={},
    )
    for site in sites:
        pairs = [_split(bare, site, batch[site.name]) for batch in sampled]
        bare.scale_a[site.name] = _corrected([pair[0] for pair in pairs])
        bare.scale_b[site.name] = _corrected([pair[1] for pair in pairs])
    return bare


def kept(dimension: int) -> int:
    """How many eigenvectors of a factor of this dimension are kept."""
    return min(dimension, max(KEPT_LEAST, dimension // KEPT_DIVISOR))


def rounded(whitener: Whitener) -> Whitener:
    """The same whitening as it will be read back: eigenvectors and scales in bfloat16."""
    return Whitener(
        sites=whitener.sites,
        wide_in={k: _round(t) for k, t in whitener.wide_in.items()},
        wide_out={k: _round(t) for k, t in whitener.wide_out.items()},
        rank_out=whitener.rank_out,
        rank_in=whitener.rank_in,
        scale_a={k: Scale(_round(s.head), _round(s.tail)) for k, s in whitener.scale_a.items()},
        scale_b={k: Scale(_round(s.head), _round(s.tail)) for k, s in whitener.scale_b.items()},
    )


def _round(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16).float()


def _split(whitener: Whitener, site: Site, gradient: SiteGradient) -> list[_Expanded]:
    """Turn both gradients to (N, R, D), rotate the rank side, divide the wide side."""
    rank_out, rank_in = whitener.rank_out[site.name], whitener.rank_in[site.name]
    turned_a = rank_out.T @ gradient.a.float()  # (N, R, D)
    turned_b = rank_in.T @ gradient.b.float().transpose(1, 2)  # (N, R, D)
    return [
        _expand(turned_a, whitener.wide_in[site.reads]),
        _expand(turned_b, whitener.wide_out[site.name]),
    ]


def _expand(turned: Tensor, basis: Tensor) -> _Expanded:
    head = turned @ basis  # (N, R, K)
    return _Expanded(head, turned - head @ basis.T)


def _scaled(expanded: _Expanded, scale: Scale) -> list[Tensor]:
    return [(expanded.head * scale.head).flatten(1), (expanded.tail * scale.tail).flatten(1)]


def _corrected(batches: Sequence[_Expanded]) -> Scale:
    head = torch.stack([batch.head.square().sum(0) for batch in batches]).sum(0)  # (R, K)
    tail = torch.stack([batch.tail.square().sum(0) for batch in batches]).sum(0)  # (R, D)
    # The sums stand for second moments up to one factor, which only scales every score alike.
    damping = DAMPING * (head.sum() + tail.sum()) / tail.numel()
    if damping == 0:  # a matrix that no gradient reaches earns nobody anything
        return Scale(torch.zeros_like(head), torch.zeros_like(tail))
    return Scale((head + damping).rsqrt(), (tail + damping).rsqrt())


def _top(moment: Tensor, generator: torch.Generator) -> Tensor:
    """The leading eigenvectors of a symmetric (D, D) matrix, as (D, K), strongest first."""
    dimension = len(moment)
    count = kept(dimension)
    if count + _OVERSAMPLING >= dimension:
        return _leading(moment, count)
    # Subspace iteration: many times cheaper than a full decomposition, and near enough, since the
    # eigenvalues are measured afterwards in whatever basis this finds.
    start = torch.randn(dimension, count + _OVERSAMPLING, generator=generator)
    basis = torch.linalg.qr(moment @ start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(moment @ basis).Q
    refined: Tensor = basis @ _leading(basis.T @ moment @ basis, count)
    return refined


def _leading(moment: Tensor, count: int) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(moment).eigenvectors  # weakest first
    return vectors.flip(1)[:, :count].contiguous()
