"""Several adapters made into one of a chosen rank: SVD, TIES, DARE.

Each works on what adapters add to a weight, `(alpha / rank) B A`, never on their factors: those are
only known up to what one of them gives the other, and sums of them mean nothing. What comes out is
cut to the rank by its largest singular values, the nearest matrix of that rank (Eckart and Young
1936). They are what peft calls `svd`, `ties_svd` and `dare_linear_svd`.
"""

from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from math import sqrt

import msgspec
import torch
from torch import Tensor

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

    def check_weights(self, weights: Sequence[float]) -> None:
        """Check that adapters of these weights can be merged in this way.

        Raises:
            InvalidInputError: there is none, or TIES meets a weight that is not above 0.
        """
        if not weights:
            raise InvalidInputError("a merge needs at least one adapter")
        if self.way is Way.TIES and min(weights) <= 0:
            raise InvalidInputError("TIES lets the members elect a sign: weigh each above 0")


class Term(msgspec.Struct, frozen=True):
    """One member of a merge."""

    adapter: Adapter
    weight: float


class Merged(msgspec.Struct, frozen=True):
    """One adapter made of several."""

    adapter: Adapter
    lost: float  # what the cut to the rank left out, as a part of the whole Frobenius norm, 0 to 1


@torch.no_grad()
def merge(
    base: BaseModel, terms: Sequence[Term], merging: Merging, shape: LoraShape, seed: bytes
) -> Merged:
    """Make one adapter of several on one base.

    Args:
        base: whose layers say how large each weight is.
        terms: adapters and weights; where a member adapts a layer that another does not, that other
            adds zero there.
        merging: how.
        shape: of the outcome; its sites are those of all members together.
        seed: which numbers DARE keeps follows from it.

    Raises:
        InvalidInputError: there is no term, or TIES meets a weight that is not above 0.
    """
    merging.check_weights([term.weight for term in terms])
    pairs, kept, whole = {}, 0.0, 0.0
    for site in shape.sites:
        added = _added(base, terms, merging, site, seed)
        pairs[site] = _cut(added, shape.rank, shape.scale)
        left = pairs[site].b @ pairs[site].a * shape.scale - added
        kept, whole = kept + float(left.square().sum()), whole + float(added.square().sum())
    lost = sqrt(kept / whole) if whole else 0.0
    return Merged(Adapter(shape, base.digest, pairs), min(1.0, lost))


def _added(
    base: BaseModel, terms: Sequence[Term], merging: Merging, site: Site, seed: bytes
) -> Tensor:
    """(D_out, D_in) what the merge adds to the weight at a site, before it is cut to a rank."""
    linear = linear_at(base.model, site)
    total = torch.zeros(linear.out_features, linear.in_features)
    some = [(place, term) for place, term in enumerate(terms) if site in term.adapter.pairs]
    changes = [_change(term.adapter, site) for _, term in some]
    weights = [term.weight for _, term in some]
    if merging.way is Way.TIES:
        changes, weights = _agreeing([_largest(one, merging.density) for one in changes], weights)
    elif merging.way is Way.DARE:
        changes = [
            _random_part(one, merging.density, sha256(seed + f"{place} {site}".encode()).digest())
            for one, (place, _) in zip(changes, some, strict=True)
        ]
    for change, weight in zip(changes, weights, strict=True):
        total.add_(change, alpha=weight)
    return total


def _change(adapter: Adapter, site: Site) -> Tensor:
    pair = adapter.pairs[site]
    return pair.b.float() @ pair.a.float() * adapter.shape.scale


def _largest(change: Tensor, density: float) -> Tensor:
    """Only the largest numbers, by their absolute value."""
    places = change.abs().flatten().topk(int(density * change.numel())).indices
    kept = torch.zeros_like(change).flatten()
    kept[places] = change.flatten()[places]
    return kept.view(change.shape)


def _agreeing(
    changes: Sequence[Tensor], weights: Sequence[float]
) -> tuple[list[Tensor], list[float]]:
    """Of each number those of the sign that has the larger sum, divided by how many there are."""
    stacked = torch.stack(list(changes))
    elected = torch.where(stacked.sum(0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == elected
    counts = agrees.sum(0).clamp(min=1)
    return list(stacked * agrees / counts), list(weights)


def _random_part(change: Tensor, density: float, seed: bytes) -> Tensor:
    """A random part of all numbers, so much larger that their expected sum stays."""
    source = torch.Generator().manual_seed(int.from_bytes(seed[:8], "big") % _MOST_SEED)
    kept = torch.rand(change.shape, generator=source) < density
    return change * kept / density


def _cut(added: Tensor, rank: int, scale: float) -> LoraPair:
    """The pair of this rank whose product is nearest; zeros where fewer directions are there."""
    u, values, v = torch.linalg.svd(added, full_matrices=False)
    size = min(rank, len(values))
    root = (values[:size] / scale).sqrt()
    a, b = torch.zeros(rank, added.shape[1]), torch.zeros(added.shape[0], rank)
    a[:size] = root[:, None] * v[:size]
    b[:, :size] = u[:, :size] * root
    return LoraPair(a, b)
