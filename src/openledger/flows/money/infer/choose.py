"""Which releases a call asks for, and at which terms; a release alone is a mix of one.

What a name stands for is decided here and nowhere else: the releases that answer, the price, the
receipt and the parts of the fee all follow from one choice.
"""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import InvalidInputError, ModelNotFoundError, NotAllowedError
from openledger.core.ids import WeightedName, parse_model
from openledger.core.types import PARTS_PER_BILLION, Digest
from openledger.settlement.price import MixMember, Terms, mixed_terms, model_name
from openledger.storage.database import Transaction
from openledger.storage.records.model import releases


class Choice(msgspec.Struct, frozen=True):
    """The releases that answer a call, in rising order of their numbers, and its terms."""

    mix: tuple[MixMember, ...]
    base: Digest
    terms: Terms
    releases: tuple[releases.Release, ...]  # in the order of the mix

    @property
    def model(self) -> str:
        """As a caller would ask for it, versions and weights written out."""
        return model_name(self.mix)

    @property
    def seed_name(self) -> str:
        """What stands for the model in the seed of sampling."""
        if len(self.mix) == 1 and self.mix[0].weight_ppb == PARTS_PER_BILLION:
            return str(self.mix[0].release)
        return "+".join(f"{member.release}*{member.weight_ppb}" for member in self.mix)


class _Card(msgspec.Struct, frozen=True):
    is_audited: bool = False


class Offered(msgspec.Struct, frozen=True):
    """A release that may be called, at its weight in what was asked for."""

    release: releases.Release
    number: int
    weight_ppb: int
    terms: Terms


def choose(
    transaction: Transaction, model: str, max_mix: int, *, is_audited: bool = False
) -> Choice:
    """Find the releases that a caller named.

    In whatever order a mix is written it is one mix: sums of floats depend on it, and so would the
    answer.

    Raises:
        InvalidInputError: no model's name; more members than `max_mix`, one twice, or such as
            cannot be mixed.
        ModelNotFoundError: a release does not exist, or is still being published.
        NotAllowedError: a release is deprecated, or cannot be audited.
    """
    found = find_offered(transaction, model, max_mix)
    if is_audited:
        for one in found:
            _check_audited(one.release)
    is_alone = len(found) == 1
    mix = tuple(
        MixMember(
            release=one.number,
            name=one.release.full_name,
            adapter=one.release.adapter,
            training_root=one.release.training_root,
            weight_ppb=one.weight_ppb,
            terms=msgspec.UNSET if is_alone else one.terms,
        )
        for one in found
    )
    chosen = tuple(one.release for one in found)
    return Choice(mix, chosen[0].base, mixed_terms([one.terms for one in found]), chosen)


def find_offered(transaction: Transaction, model: str, max_mix: int) -> list[Offered]:
    """The releases of a mix, in rising order of their numbers.

    Raises:
        InvalidInputError: no model's name; more members than `max_mix`, one twice, or of several
            base models.
        ModelNotFoundError: a release does not exist, or is still being published.
        NotAllowedError: a release is deprecated.
    """
    wanted = parse_model(model)
    if len(wanted) > max_mix:  # before any is looked up
        raise InvalidInputError(
            f"a mix has at most {max_mix} members here, not {len(wanted)}; leave some out"
        )
    found = sorted((_offered(transaction, one) for one in wanted), key=lambda one: one.number)
    _check_together([one.release for one in found])
    return found


def _offered(transaction: Transaction, wanted: WeightedName) -> Offered:
    release = releases.by_name(transaction, wanted.name)
    if release.number is None:
        raise ModelNotFoundError(
            f"{release.full_name} is still being published; try again in a moment", param="model"
        )
    if release.deprecated_at is not None:
        raise NotAllowedError(f"{release.full_name} is deprecated; call a newer version")
    row = releases.terms_of(transaction, release.id, release.terms_version)
    terms = msgspec.convert(msgspec.json.decode(row.terms), Terms, strict=False)
    return Offered(release, release.number, wanted.weight_ppb, terms)


def _check_together(members: Sequence[releases.Release]) -> None:
    """Refuse releases that cannot be summed: of two bases, or one adapter twice."""
    seen: dict[Digest, str] = {}
    for member in members:
        if member.base != members[0].base:
            raise InvalidInputError(
                f"{member.full_name} is made for another base model than {members[0].full_name}; "
                "mix releases of one base"
            )
        if member.adapter in seen:
            raise InvalidInputError(
                f"{seen[member.adapter]} and {member.full_name} are one adapter, which stands in a "
                "mix once; add up its weights"
            )
        seen[member.adapter] = member.full_name


def _check_audited(release: releases.Release) -> None:
    if not msgspec.json.decode(release.card, type=_Card).is_audited:
        raise NotAllowedError(
            f"{release.full_name} has no half-data adapters to audit an answer with; ask for "
            "influence alone, or for a release trained with --card-adapters"
        )
