"""Level 2: query vector, gain and shares once more, from the model and the text of the call.

Machines round differently, so the shares need not be equal; accepted is a total variation of at
most half a point, contributors and nobody together, in the precision that the receipt names. Level
1 alone does not prove the query vector honest.
"""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Audit
from openledger.attribution.card.panel import open_attributor
from openledger.attribution.method import METHOD_VERSION
from openledger.attribution.state import AttributionState, load_state
from openledger.attribution.sums import check_sums
from openledger.core.encoding import digest_of, parse_json
from openledger.core.errors import InvalidInputError, NotFoundError, VerificationError
from openledger.core.types import PARTS_PER_BILLION, Digest, Precision
from openledger.flows.money.verify.bundle import Bundle, Difference
from openledger.flows.money.verify.export import PLAN, Export, adapter_folders
from openledger.lm.base import DTYPES, MANIFEST, BaseModel, load_base, read_manifest
from openledger.lm.tiny import build_tiny
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import why_unscored
from openledger.settlement.shares import TOLERANCE_PPB, Attribution, distance_ppb
from openledger.training.recipe import Recipe

LEVEL = "L2"


class Recomputed(msgspec.Struct, frozen=True):
    """What this machine makes of the same call."""

    distance_ppb: int
    differences: tuple[Difference, ...]
    check: str


def recompute(bundle: Bundle, export: Export, load: Callable[[Precision], BaseModel]) -> Recomputed:
    """Attribute the call of a bundle again, in the precision it was attributed in; compare shares.

    Args:
        bundle: it holds to level 1, and opens prompt and answer.
        export: of the release that answered.
        load: its base model, in a precision.

    Raises:
        VerificationError: the shares are too far apart, the bundle opens no text, or the release is
            not the receipt's.
        InvalidInputError: the receipt is of another method, or of several releases.
    """
    check_method(bundle)
    mixed = the_only_member(bundle)
    signed = bundle.receipt.statement.body
    reason = why_unscored(bundle.receipt.call, mixed)
    if reason is not None:
        return Recomputed(0, (), f"nothing was to be scored: {reason}")
    state = exported_state(bundle, export)
    found = attribute_again(bundle, export, state, load(signed.precision))
    distance = distance_ppb(found, signed.attribution)
    if distance > TOLERANCE_PPB:
        raise VerificationError(
            f"model and text give shares that lie {distance} ppb from the signed ones; honest "
            f"machines differ by at most {TOLERANCE_PPB}"
        )
    return Recomputed(
        distance,
        _differences(found, signed.attribution),
        f"model and text give these shares, {distance} ppb apart (at most {TOLERANCE_PPB})",
    )


def attribute_again(
    bundle: Bundle, export: Export, state: AttributionState, base: BaseModel
) -> Attribution:
    """Who made the answer of a bundle, by a state of the export's release.

    Raises:
        VerificationError: the bundle opens no text.
    """
    prompt, answer = opened_ids(bundle, "prompt"), opened_ids(bundle, "answer")
    released = export.body.release.adapter
    folders = adapter_folders(state.manifest, released)
    is_audited = bundle.receipt.call.body.attribution is not msgspec.UNSET
    attributor = open_attributor(
        state,
        base,
        released,
        lambda digest: export.folder / folders[digest],
        is_audited=is_audited,
    )
    return attributor.attribute(prompt, answer).attribution


class CardPlan(msgspec.Struct, frozen=True):
    """What was planned to be measured."""

    half_adapters: int


class AuditPlan(msgspec.Struct, frozen=True):
    """What the anchored plan of a run says that can be checked; the rest concerns other steps."""

    recipe: Recipe
    held_out_bps: int
    card: CardPlan | None = None


def read_plan(export: Export) -> AuditPlan:
    """The plan in an export; its digest was held to the one that was anchored.

    Raises:
        VerificationError: it is no plan of a training.
    """
    try:
        return msgspec.convert(parse_json((export.folder / PLAN).read_bytes()), AuditPlan)
    except (InvalidInputError, msgspec.ValidationError) as error:
        raise VerificationError(f"the export holds no plan of a training: {error}") from error


def _check_planned(export: Export, state: AttributionState) -> None:
    """Nobody keeps only those of the half-data adapters that suit him."""
    card = read_plan(export).card
    wanted = card.half_adapters if card else 0
    audit = state.manifest.audit
    made = len(audit.adapters) if isinstance(audit, Audit) else 0
    if wanted != made:
        raise VerificationError(
            f"the release has {made} half-data adapters, its anchored plan {wanted}"
        )


def the_only_member(bundle: Bundle) -> MixMember:
    """The release that answered alone, at weight 1.

    Raises:
        InvalidInputError: a mix did, and this level cannot check those.
    """
    first, *others = bundle.receipt.call.body.mix
    if others:
        raise InvalidInputError(
            f"{1 + len(others)} releases gave this answer together, and levels 2 and 3 check "
            "answers of one: check it to level full"
        )
    if first.weight_ppb != PARTS_PER_BILLION:
        raise InvalidInputError(
            f"{first.name} gave this answer at another weight than 1, and levels 2 and 3 check "
            "answers at weight 1: check it to level full"
        )
    return first


def check_method(bundle: Bundle) -> None:
    """Check that this program's method is the one of a receipt; only that one can be computed.

    Raises:
        InvalidInputError: it is another.
    """
    method = bundle.receipt.call.body.method
    if method != METHOD_VERSION:
        raise InvalidInputError(
            f"the receipt is of attribution method {method}, this program computes "
            f"{METHOD_VERSION}: check it to level 1, or with the program of that version"
        )


def exported_state(bundle: Bundle, export: Export) -> AttributionState:
    """The state of an export, held to the receipt, to the chain's release and to its own sums.

    Raises:
        VerificationError: it is of another adapter or seed, has other half-data adapters than were
            planned, or does not agree with itself.
    """
    check_method(bundle)
    release = export.body.release
    state = load_state(export.attribution, release.training_root)
    commitment = state.manifest.commitment
    made = (commitment.base, commitment.adapter, commitment.seed)
    if made != (release.base, release.adapter, release.seed):
        raise VerificationError("the attribution state is of another base, adapter or seed")
    _check_planned(export, state)
    check_sums(state)
    return state


def find_base(wanted: Digest, folders: Iterable[Path], precision: Precision) -> BaseModel:
    """Load the base model of this digest from the first folder that holds it.

    Raises:
        NotFoundError: none does.
        DigestMismatchError: a file of it was altered.
    """
    for folder in folders:
        if (folder / MANIFEST).is_file() and digest_of(read_manifest(folder)) == wanted:
            return load_base(folder, wanted, DTYPES[precision])
    with tempfile.TemporaryDirectory(prefix="openledger-base-") as scratch:
        if build_tiny(Path(scratch, "tiny")) == wanted:
            return load_base(Path(scratch, "tiny"), wanted, DTYPES[precision])
    raise NotFoundError(f"no folder holds the base model {wanted}: name one with --base")


def opened_ids(bundle: Bundle, name: str) -> list[int]:
    """The token ids of the opened prompt or answer.

    Raises:
        VerificationError: the bundle does not open them, or they are none.
    """
    opening = next((one for one in bundle.openings if one.name == name), None)
    if opening is None:
        raise VerificationError(
            f"this level needs the call's {name}: have the bundle made by `receipt show --private`"
        )
    try:
        return [int(token) for token in opening.value.split()]
    except ValueError as error:
        raise VerificationError(f"the opened {name} is no list of token ids") from error


def _differences(found: Attribution, signed: Attribution) -> tuple[Difference, ...]:
    gaps = {share.account: share.weight_ppb for share in found.shares}
    for share in signed.shares:
        gaps[share.account] = gaps.get(share.account, 0) - share.weight_ppb
    return tuple(Difference(account, gaps[account]) for account in sorted(gaps) if gaps[account])
