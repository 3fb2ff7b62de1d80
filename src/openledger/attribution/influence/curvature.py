"""EK-FAC for the LoRA matrices: what makes gradients of different directions comparable.

Each matrix M of a linear layer x -> B A x has the gradient (output side) x (input side), so its
Fisher matrix is close to a Kronecker product. Its eigenbasis is that of the two covariances, here
of whole sequences' gradients (as Shampoo takes them: better in our bench than those of tokens, and
cheaper); its eigenvalues are measured again in that basis ("corrected", George et al. 2018). Both
come from gradients of labels sampled from the model. One side of either matrix is the LoRA rank R
and is kept whole; of the wide side, of dimension D, the top K eigenvectors are kept.

Whitened, a coefficient of eigenvalue l carries the energy l / (l + damping): between 0 and 1. The
coefficients that carry most are the features; the others would add little but noise. That choice
loses far less than a random projection to as many numbers (docs/explanation/attribution.md).

Sources: arXiv 1806.03884 (EK-FAC), arXiv 2308.03296 (for influence on language models), arXiv
1802.09568 (Shampoo).
"""

from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from openledger.attribution.method import DAMPING, KEPT_DIVISOR, KEPT_LEAST

_OVERSAMPLING = 16
_ITERATIONS = 2
_LEVELS = 127  # of a stored eigenvector's entries, either side of zero


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


Gradients = Mapping[str, SiteGradient]  # by site


class Basis(msgspec.Struct, frozen=True):
    """Eigenvectors as they are stored: int8, and what a column is to be multiplied with."""

    levels: Tensor  # (D, K) int8
    steps: Tensor  # (K,) float32

    @property
    def vectors(self) -> Tensor:
        """(D, K) float32."""
        return self.levels.float() * self.steps


class Features(msgspec.Struct, frozen=True):
    """Which coefficients of a site count, and how much."""

    places: Tensor  # (F,) int32 among the (R, K) coefficients of A, then those of B
    scales: Tensor  # (F,) bfloat16, one over the root of each damped eigenvalue


class Whitener(msgspec.Struct, frozen=True):
    """F^(-1/2), truncated, for every site."""

    sites: tuple[Site, ...]
    wide_in: dict[str, Basis]  # by `Site.reads`
    wide_out: dict[str, Basis]  # by site
    rank_out: dict[str, Tensor]  # by site: (R, R)
    rank_in: dict[str, Tensor]  # by site: (R, R)
    features: dict[str, Features]  # by site

    def whiten(self, gradients: Gradients) -> list[Tensor]:
        """The features of gradients.

        Returns:
            Per site (N, F); the inner products of two such lists are influence.
        """
        whitened = []
        for site in self.sites:
            chosen = self.features[site.name]
            found = _coefficients(self, site, gradients[site.name])[:, chosen.places]
            whitened.append(found * chosen.scales.float())
        return whitened

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of features of each site."""
        return tuple(len(self.features[site.name].places) for site in self.sites)


def fit(
    sites: Sequence[Site], sampled: Sequence[Gradients], width: int, generator: torch.Generator
) -> Whitener:
    """Make the whitening from per-example gradients of sampled labels.

    Args:
        sites: every adapted linear layer.
        sampled: batches of per-example gradients of labels drawn from the model.
        width: how many features there may be over all sites.
        generator: seeds the search for eigenvectors.
    """
    bare = Whitener(tuple(sites), *_bases(sites, sampled, generator), {})
    damped, energies = {}, {}
    for site in sites:
        found = [_measured(bare, site, batch[site.name]) for batch in sampled]
        squares, damping = (torch.stack(parts).sum(0) for parts in zip(*found, strict=True))
        damped[site.name] = squares + damping
        # A matrix that no gradient reaches earns nobody anything.
        energies[site.name] = squares / damped[site.name].clamp(min=torch.finfo().tiny)
    for name, places in _strongest(energies, width).items():
        scales = damped[name][places].clamp(min=torch.finfo().tiny).rsqrt()
        bare.features[name] = Features(places.int(), scales.bfloat16())
    return bare


def kept(dimension: int) -> int:
    """How many eigenvectors of a factor of this dimension are kept."""
    return min(dimension, max(KEPT_LEAST, dimension // KEPT_DIVISOR))


def _bases(
    sites: Sequence[Site], sampled: Sequence[Gradients], generator: torch.Generator
) -> tuple[dict[str, Basis], dict[str, Basis], dict[str, Tensor], dict[str, Tensor]]:
    wide_in: dict[str, Tensor] = {}
    wide_out: dict[str, Tensor] = {}
    rank_out: dict[str, Tensor] = {}
    rank_in: dict[str, Tensor] = {}
    for batch in sampled:
        for site in sites:
            a, b = batch[site.name].a, batch[site.name].b.transpose(1, 2)  # both (N, R, D)
            _add_gram(wide_in, site.reads, a.flatten(0, 1))
            _add_gram(wide_out, site.name, b.flatten(0, 1))
            _add_gram(rank_out, site.name, a.transpose(1, 2).flatten(0, 1))
            _add_gram(rank_in, site.name, b.transpose(1, 2).flatten(0, 1))
    return (
        {name: _top(moment, generator) for name, moment in sorted(wide_in.items())},
        {name: _top(moment, generator) for name, moment in sorted(wide_out.items())},
        {name: torch.linalg.eigh(moment).eigenvectors for name, moment in rank_out.items()},
        {name: torch.linalg.eigh(moment).eigenvectors for name, moment in rank_in.items()},
    )


def _add_gram(sums: dict[str, Tensor], name: str, vectors: Tensor) -> None:
    """Add (N, D) vectors to a (D, D) sum in float32; the product runs in the vectors' dtype."""
    if name not in sums:
        sums[name] = torch.zeros(vectors.shape[1], vectors.shape[1])
    sums[name] += vectors.T @ vectors


def _coefficients(whitener: Whitener, site: Site, gradient: SiteGradient) -> Tensor:
    """(N, R K + R K') of both gradients in the kept eigenvectors."""
    a = whitener.rank_out[site.name].T @ gradient.a.float()  # (N, R, D)
    b = whitener.rank_in[site.name].T @ gradient.b.float().transpose(1, 2)  # (N, R, D')
    turned = (
        a @ whitener.wide_in[site.reads].vectors,  # (N, R, K)
        b @ whitener.wide_out[site.name].vectors,  # (N, R, K')
    )
    return torch.cat([one.flatten(1) for one in turned], dim=1)


def _measured(whitener: Whitener, site: Site, gradient: SiteGradient) -> tuple[Tensor, Tensor]:
    """Sums of squared coefficients over a batch, and what is to be added to each of them.

    The sums stand for second moments up to one factor, which only scales every score alike.
    """
    squares = _coefficients(whitener, site, gradient).square().sum(0)
    sides = []
    for side, dimension in ((gradient.a, site.inputs), (gradient.b, site.outputs)):
        mean = side.float().square().sum() / (site.rank * dimension)  # over kept and left ones
        sides.append((DAMPING * mean).expand(site.rank * kept(dimension)))
    return squares, torch.cat(sides)


def _strongest(energies: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Per site the places of those that are among the `width` largest of all, in order."""
    flat = torch.cat([*energies.values()])
    order = torch.argsort(flat, descending=True, stable=True)
    is_chosen = torch.zeros(len(flat), dtype=torch.bool)
    is_chosen[order[:width]] = True
    parts = torch.split(is_chosen, [len(part) for part in energies.values()])
    return {name: part.nonzero()[:, 0] for name, part in zip(energies, parts, strict=True)}


def _top(moment: Tensor, generator: torch.Generator) -> Basis:
    """The leading eigenvectors of a symmetric (D, D) matrix, strongest first."""
    dimension = len(moment)
    count = kept(dimension)
    if count + _OVERSAMPLING >= dimension:
        return _stored(_leading(moment, count))
    # Subspace iteration: many times cheaper than a full decomposition, and near enough, since the
    # eigenvalues are measured afterwards in whatever basis this finds.
    start = torch.randn(dimension, count + _OVERSAMPLING, generator=generator)
    basis = torch.linalg.qr(moment @ start).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(moment @ basis).Q
    return _stored(basis @ _leading(basis.T @ moment @ basis, count))


def _leading(moment: Tensor, count: int) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(moment).eigenvectors  # weakest first
    return vectors.flip(1)[:, :count]


def _stored(vectors: Tensor) -> Basis:
    steps = vectors.abs().amax(0) / _LEVELS
    return Basis(torch.round(vectors / steps).to(torch.int8).contiguous(), steps)
