"""Several adapters made into one of a chosen rank: SVD, TIES, DARE.

Each works on what adapters add to a weight, `(alpha / rank) B A`, never on their factors: those are
only known up to what one of them gives the other, and sums of them mean nothing. What comes out is
cut to the rank by its largest singular values, the nearest matrix of that rank (Eckart and Young
1936). They are what peft calls `svd`, `ties_svd` and `dare_linear_svd`.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import reduce
from hashlib import sha256
from math import isfinite, sqrt

import msgspec
import torch
from torch import Tensor, nn

from openledger.core.errors import InvalidInputError
from openledger.core.types import BASIS_POINTS
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraPair, LoraShape, Site, linear_at

_MOST_SEED = 2**63  # torch takes signed seeds


class Way(StrEnum):
    """How several adapters become one."""

    SVD = "svd"  # their weighted sum
    TIES = "ties"  # of each the largest numbers, and only those of one sign (arXiv:2306.01708)
    DARE = "dare"  # of each a random part, made larger, in a weighted sum (arXiv:2311.03099)


class Merging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides a merge besides its members, their weights, its shape and its seed."""

    way: Way
    density_bps: int = BASIS_POINTS  # how much of each adapter TIES and DARE keep

    def __post_init__(self) -> None:
        if not 0 < self.density_bps <= BASIS_POINTS:
            raise InvalidInputError(
                f"a density is above 0 and at most 1, not {self.density_bps / BASIS_POINTS}"
            )

    @property
    def density(self) -> float:
        """The part of all numbers that is kept, above 0 and at most 1."""
        return self.density_bps / BASIS_POINTS


class Term(msgspec.Struct, frozen=True):
    """One member of a merge."""

    adapter: Adapter
    weight: float
    name: str  # which of its numbers DARE keeps follows from it and the seed, not from the others


class Merged(msgspec.Struct, frozen=True):
    """One adapter made of several."""

    adapter: Adapter
    lost: float  # what the cut to the rank left out, as a part of the whole Frobenius norm, 0 to 1


def check_weights(weights: Sequence[float]) -> None:
    """Check that adapters of these weights can be merged.

    Below 0, TIES would elect wrong signs; and members that cancel each other would each seem to
    add what keeps the other from spoiling the merge.

    Raises:
        InvalidInputError: there is none, or one is not above 0.
    """
    if not weights:
        raise InvalidInputError("a merge needs at least one adapter")
    if min(weights) <= 0:
        raise InvalidInputError("weigh each member of a merge above 0, or leave it out")


@torch.no_grad()
def is_near(one: Adapter, other: Adapter, part: float) -> bool:
    """Whether two adapters add about the same, their factors apart: by this part of the norm."""
    if one.shape != other.shape or one.base != other.base:
        return False
    apart = whole = 0.0
    for site in one.shape.sites:
        change = _change(one, site)
        apart += float((change - _change(other, site)).double().square().sum())
        whole += float(change.double().square().sum())
    return isfinite(whole) and apart <= part**2 * whole


@torch.no_grad()
def merge(
    base: BaseModel,
    terms: Sequence[Term],
    merging: Merging,
    shape: LoraShape,
    seed: bytes,
    pause: Callable[[], None] = lambda: None,
) -> Merged:
    """Make one adapter of several on one base.

    TIES and DARE take the singular values of each whole weight, whose time grows with the third
    power of its width.

    Args:
        base: whose layers say how large each weight is.
        terms: adapters and weights; where a member adapts a layer that another does not, that other
            adds zero there.
        merging: how.
        shape: of the outcome; its sites are those of all members together.
        seed: which numbers DARE keeps follows from it.
        pause: called before each weight; what it raises ends the merge.

    Raises:
        InvalidInputError: there is no term, or a weight is not above 0.
    """
    check_weights([term.weight for term in terms])
    pairs, left, whole = {}, 0.0, 0.0
    for site in shape.sites:
        pause()
        some = [term for term in terms if site in term.adapter.pairs]
        found = _directions(some, merging, site, seed) if some else _NOTHING
        pairs[site] = _pair(linear_at(base.model, site), found, shape)
        squares = found.values.double().square()
        left, whole = left + float(squares[shape.rank :].sum()), whole + float(squares.sum())
    return Merged(Adapter(shape, base.digest, pairs), sqrt(left / whole) if whole else 0.0)


class _Directions(msgspec.Struct, frozen=True):
    """A matrix by its singular values, the largest first."""

    u: Tensor  # (D_out, K)
    values: Tensor  # (K,)
    v: Tensor  # (K, D_in)


_NOTHING = _Directions(torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, 0))


def _directions(some: Sequence[Term], merging: Merging, site: Site, seed: bytes) -> _Directions:
    """What the merge adds to the weight at a site, before it is cut to a rank."""
    match merging.way:
        case Way.SVD:
            return _sum(some, site)
        case Way.TIES:
            return _whole(_agreed(some, merging.density, site))
        case Way.DARE:
            return _whole(_thinned(some, merging.density, site, seed))


def _whole(added: Tensor) -> _Directions:
    return _Directions(*torch.linalg.svd(added, full_matrices=False))


def _sum(some: Sequence[Term], site: Site) -> _Directions:
    """The weighted sum, from its factors side by side: the whole matrix is never made."""
    pairs = [term.adapter.pairs[site] for term in some]
    scales = [term.weight * term.adapter.shape.scale for term in some]
    b = torch.cat([pair.b.float() * scale for pair, scale in zip(pairs, scales, strict=True)], 1)
    a = torch.cat([pair.a.float() for pair in pairs])  # (all ranks, D_in)
    left, outer = torch.linalg.qr(b)
    right, inner = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(outer @ inner.T, full_matrices=False)
    return _Directions(left @ u, values, v @ right.T)


def _agreed(some: Sequence[Term], density: float, site: Site) -> Tensor:
    """TIES: of each number the mean over those members whose sign has the larger sum."""

    def largest() -> Iterator[tuple[Tensor, float]]:  # made twice: all at once take much memory
        for term in some:
            yield _largest(_change(term.adapter, site), density), term.weight

    summed = reduce(torch.add, (one for one, _ in largest()))
    elected = torch.where(summed >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(elected), torch.zeros_like(elected)
    for one, weight in largest():
        agrees = one.sign() == elected
        total += weight * one * agrees
        count += agrees
    return total / count.clamp(min=1)


def _thinned(some: Sequence[Term], density: float, site: Site, seed: bytes) -> Tensor:
    """DARE: the weighted sum of a random part of each."""

    def parts() -> Iterator[Tensor]:
        for term in some:
            own = sha256(seed + f"{term.name} {site}".encode()).digest()
            yield term.weight * _random_part(_change(term.adapter, site), density, own)

    return reduce(torch.add, parts())


def _change(adapter: Adapter, site: Site) -> Tensor:
    pair = adapter.pairs[site]
    return pair.b.float() @ pair.a.float() * adapter.shape.scale


def _largest(change: Tensor, density: float) -> Tensor:
    """Only the largest numbers, by their absolute value."""
    places = change.abs().flatten().topk(int(density * change.numel())).indices
    kept = torch.zeros_like(change).flatten()
    kept[places] = change.flatten()[places]
    return kept.view(change.shape)


def _random_part(change: Tensor, density: float, seed: bytes) -> Tensor:
    """A random part of all numbers, so much larger that their expected sum stays."""
    source = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") % _MOST_SEED)
    kept = torch.rand(change.shape, generator=source) < density
    return change * kept / density


def _pair(linear: nn.Linear, found: _Directions, shape: LoraShape) -> LoraPair:
    """The pair of this rank whose product is nearest; zeros where fewer directions are there."""
    size = min(shape.rank, len(found.values))
    a = torch.zeros(shape.rank, linear.in_features)
    b = torch.zeros(linear.out_features, shape.rank)
    if size:
        root = (found.values[:size] / shape.scale).sqrt()
        a[:size] = root[:, None] * found.v[:size]
        b[:, :size] = found.u[:, :size] * root
    return LoraPair(a, b)
