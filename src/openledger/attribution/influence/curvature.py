"""EK-FAC for the LoRA matrices: what makes gradients of different directions comparable.

Each matrix M of a linear layer x -> B A x has the gradient (output side) x (input side), so its
Fisher matrix is close to a Kronecker product. Its eigenbasis is that of the two covariances, here
of whole sequences' gradients (as Shampoo takes them: better in our bench than those of tokens, and
cheaper); its eigenvalues are measured again in that basis ("corrected", George et al. 2018). Both
come from gradients of labels sampled from the model. One side of either matrix is the LoRA rank R,
the other is wide, of dimension D.

The features are those coefficients that carry most of the training rows' own gradients: each row
has as many votes as tokens and divides them by where its whitened gradient lies, so that neither
long gradients nor many short rows choose more of them. That loses far less than a random projection
to as many numbers, or than the strongest of the sampled gradients (decision 30). What no feature
needs of the eigenvectors is not kept.

Sources: arXiv 1806.03884 (EK-FAC), arXiv 2308.03296 (for influence on language models), arXiv
1802.09568 (Shampoo).
"""

from collections.abc import Mapping, Sequence

import msgspec
import torch
from torch import Tensor

from openledger.attribution.method import DAMPING, LEADING, MOST_DECOMPOSED
from openledger.core.errors import InvalidInputError

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


class Votes(msgspec.Struct, frozen=True):
    """Gradients of N training rows, which choose the features."""

    gradients: Gradients
    weights: Tensor  # (N,) not below zero: how much each row counts


class Basis(msgspec.Struct, frozen=True):
    """Eigenvectors as they are stored: int8, and what a column is to be multiplied with."""

    levels: Tensor  # (D, K) int8
    steps: Tensor  # (K,) float32

    def turn(self, vectors: Tensor) -> Tensor:
        """(..., D) vectors to (..., K) coefficients, float32.

        The product is computed in the dtype of the vectors; levels are exact in bfloat16.
        """
        return (vectors @ self.levels.to(vectors.dtype)).float() * self.steps


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
    sites: Sequence[Site],
    sampled: Sequence[Gradients],
    votes: Sequence[Votes],
    width: int,
    generator: torch.Generator,
) -> Whitener:
    """Make the whitening from per-example gradients.

    Args:
        sites: every adapted linear layer.
        sampled: batches of gradients of labels drawn from the model, which measure the curvature.
        votes: batches of training rows.
        width: how many features there may be over all sites.
        generator: seeds the search for eigenvectors.

    Raises:
        InvalidInputError: a gradient is no finite number, or too large a one.
    """
    whole = Whitener(tuple(sites), *_bases(sites, sampled, generator), {})
    scales = {site.name: _scales(whole, site, sampled) for site in sites}
    for name, places in _strongest(_energies(whole, scales, votes), width).items():
        whole.features[name] = Features(places.int(), scales[name][places].bfloat16())
    return _without_unused(whole)


def searched(dimension: int) -> int:
    """How many eigenvectors of a factor of this dimension features are chosen among."""
    return dimension if dimension <= MOST_DECOMPOSED else LEADING


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
        whitener.wide_in[site.reads].turn(a.to(gradient.a.dtype)),  # (N, R, K)
        whitener.wide_out[site.name].turn(b.to(gradient.b.dtype)),  # (N, R, K')
    )
    return torch.cat([one.flatten(1) for one in turned], dim=1)


def _scales(whitener: Whitener, site: Site, sampled: Sequence[Gradients]) -> Tensor:
    """(R K + R K') one over the root of each coefficient's damped second moment.

    Moments are sums over the sample, not means: that only scales every score alike. A matrix that
    no gradient reaches gets 0 and earns nobody anything.
    """
    damped = torch.stack([_damped(whitener, site, batch[site.name]) for batch in sampled]).sum(0)
    return torch.where(damped > 0, damped.clamp(min=torch.finfo().tiny).rsqrt(), 0.0)


def _damped(whitener: Whitener, site: Site, gradient: SiteGradient) -> Tensor:
    """(R K + R K') sums of squared coefficients over a batch, with what is added to each."""
    sides = []
    for side, dimension in ((gradient.a, site.inputs), (gradient.b, site.outputs)):
        mean = side.float().square().sum() / (site.rank * dimension)  # over left ones as well
        sides.append((DAMPING * mean).expand(site.rank * searched(dimension)))
    return _coefficients(whitener, site, gradient).square().sum(0) + torch.cat(sides)


def _energies(
    whitener: Whitener, scales: Mapping[str, Tensor], votes: Sequence[Votes]
) -> dict[str, Tensor]:
    """By site, what each coefficient carries of the training rows' whitened gradients."""
    sums = {name: torch.zeros_like(one) for name, one in scales.items()}
    for batch in votes:
        squares = {
            site.name: _coefficients(whitener, site, batch.gradients[site.name])
            .mul_(scales[site.name])
            .square_()
            for site in whitener.sites
        }
        lengths = torch.stack([one.sum(1) for one in squares.values()]).sum(0)  # (N,)
        if not bool(torch.isfinite(lengths).all()):
            raise InvalidInputError(
                "a gradient is not finite once whitened: the adapter is broken, train it again"
            )
        shares = batch.weights / lengths.clamp(min=torch.finfo().tiny)
        for name, one in squares.items():
            sums[name] += shares @ one
    return sums


def _without_unused(whitener: Whitener) -> Whitener:
    """The same whitening without the eigenvectors that stand in no feature."""
    sides = {site.name: _used(whitener, site) for site in whitener.sites}
    inputs: dict[str, Tensor] = {}
    for site in whitener.sites:
        used = sides[site.name][0].any(0)
        inputs[site.reads] = inputs[site.reads] | used if site.reads in inputs else used
    outputs = {name: used.any(0) for name, (_, used) in sides.items()}
    features = {}
    for site in whitener.sites:
        a, b = sides[site.name]
        left = torch.cat([a[:, inputs[site.reads]].flatten(), b[:, outputs[site.name]].flatten()])
        scales = whitener.features[site.name].scales
        features[site.name] = Features(left.nonzero()[:, 0].int(), scales)
    return msgspec.structs.replace(
        whitener,
        wide_in={name: _columns(one, inputs[name]) for name, one in whitener.wide_in.items()},
        wide_out={name: _columns(one, outputs[name]) for name, one in whitener.wide_out.items()},
        features=features,
    )


def _used(whitener: Whitener, site: Site) -> tuple[Tensor, Tensor]:
    """(R, K) and (R, K') bool: which coefficients are features."""
    width_in = len(whitener.wide_in[site.reads].steps)
    width_out = len(whitener.wide_out[site.name].steps)
    flat = torch.zeros(site.rank * (width_in + width_out), dtype=torch.bool)
    flat[whitener.features[site.name].places] = True
    a, b = torch.split(flat, [site.rank * width_in, site.rank * width_out])
    return a.view(site.rank, width_in), b.view(site.rank, width_out)


def _columns(basis: Basis, chosen: Tensor) -> Basis:
    return Basis(basis.levels[:, chosen].contiguous(), basis.steps[chosen])


def _strongest(energies: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Per site the places of those that are among the `width` largest of all, in order."""
    flat = torch.cat([*energies.values()])
    order = torch.argsort(flat, descending=True, stable=True)
    is_chosen = torch.zeros(len(flat), dtype=torch.bool)
    is_chosen[order[:width]] = True
    parts = torch.split(is_chosen, [len(part) for part in energies.values()])
    return {name: part.nonzero()[:, 0] for name, part in zip(energies, parts, strict=True)}


def _top(moment: Tensor, generator: torch.Generator) -> Basis:
    """Eigenvectors of a symmetric (D, D) matrix, strongest first; of a large one the leading."""
    dimension = len(moment)
    count = searched(dimension)
    if count == dimension:
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
