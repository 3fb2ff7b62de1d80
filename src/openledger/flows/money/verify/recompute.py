"""Level 2: query vector, gain and shares once more, from the model and the text of the call.

Machines round differently, so the shares need not be equal; accepted is a total variation of at
most half a point, contributors and nobody together, in the precision that the receipt names. What
each member added to a mix, and each parent to a merge, is compared first, and the shares are made
by what was signed of it: of members that add next to nothing, rounding alone would decide who
earns. Level 1 alone does not prove the query vector honest.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from openledger.attribution.card.figures import Audit
from openledger.attribution.method import METHOD_VERSION
from openledger.attribution.mix import Member, Mix, open_member
from openledger.attribution.state import AttributionState, load_state
from openledger.attribution.sums import check_sums
from openledger.core.encoding import digest_of
from openledger.core.errors import InvalidInputError, NotFoundError, VerificationError
from openledger.core.types import PARTS_PER_BILLION, Digest, Precision, as_bytes
from openledger.flows.money.verify.anchors import Anchors
from openledger.flows.money.verify.bundle import Bundle, Difference
from openledger.flows.money.verify.export import (
    ADAPTER,
    ATTRIBUTION,
    EARLY,
    Export,
    PlannedMember,
    adapter_folders,
    parent_root,
    read_plan,
)
from openledger.flows.money.verify.rows import parents_of, parents_paid
from openledger.lm.base import DTYPES, MANIFEST, BaseModel, load_base, read_manifest
from openledger.lm.checkpoint import adapter_digest, load_adapter
from openledger.lm.tiny import build_tiny
from openledger.settlement.price import MixMember
from openledger.settlement.receipt import why_unscored
from openledger.settlement.shares import (
    ADDED_TOLERANCE_MICRONATS,
    TOLERANCE_PPB,
    Attribution,
    MemberScores,
    Unscored,
    combine,
    distance_ppb,
)
from openledger.training.merging.ways import Term, is_near, merge

LEVEL = "L2"
REMERGED = 0.001  # of its norm: how far the same merge may lie apart on two machines


class Recomputed(msgspec.Struct, frozen=True):
    """What this machine makes of the same call."""

    distance_ppb: int
    differences: tuple[Difference, ...]
    check: str


def recompute(
    bundle: Bundle, exports: Sequence[Export], load: Callable[[Precision], BaseModel]
) -> Recomputed:
    """Attribute the call of a bundle again, in the precision it was attributed in; compare shares.

    Args:
        bundle: it holds to level 1, and opens prompt and answer.
        exports: of the releases that answered.
        load: their base model, in a precision.

    Raises:
        VerificationError: the shares are too far apart, or what a member of the mix added is; the
            bundle opens no text, or a release is not the receipt's.
        InvalidInputError: the receipt is of another method, or a release that answered is missing.
    """
    check_method(bundle)
    signed = bundle.receipt.statement.body
    mix = bundle.receipt.call.body.mix
    reasons = [why_unscored(bundle.receipt.call, one) for one in mix]
    if Unscored.NO_MANIFEST in reasons and len(mix) > 1:
        (*_, name) = (
            one.name for one, why in zip(mix, reasons, strict=True) if why is Unscored.NO_MANIFEST
        )
        raise InvalidInputError(
            f"{name} came without a manifest of its training data, so that what the others added "
            "cannot be made again: check it to level full"
        )
    if None not in reasons:
        return Recomputed(0, (), f"nothing was to be scored: {reasons[0]}")
    states = {one.body.release.number: exported_state(bundle, one) for one in exports}
    members = attribute_again(bundle, exports, states, load(signed.precision))
    found = combine(_by_signed_addition(bundle, members))
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
    bundle: Bundle,
    exports: Sequence[Export],
    states: Mapping[int, AttributionState],
    base: BaseModel,
) -> tuple[MemberScores, ...]:
    """What each member of a bundle's mix did for the answer.

    Args:
        bundle: it opens prompt and answer.
        exports: of all releases that answered.
        states: theirs, or others to score by, by number of release.
        base: the model of them all.

    Raises:
        VerificationError: the bundle opens no text.
        InvalidInputError: a release is missing.
    """
    prompt, answer = opened_ids(bundle, "prompt"), opened_ids(bundle, "answer")
    is_audited = bundle.receipt.call.body.attribution is not msgspec.UNSET
    by_number = {one.body.release.number: one for one in exports}
    mix = bundle.receipt.call.body.mix
    if missing := [one.name for one in mix if one.release not in by_number]:
        raise InvalidInputError(
            f"{', '.join(missing)} answered, too: name the folder of every release of the mix"
        )
    ready = [
        _ready(one, by_number[one.release], states[one.release], base, is_audited=is_audited)
        for one in mix
    ]
    found = Mix(base, ready).attribute(prompt, answer)
    return tuple(
        scores.of(member.release, member.weight_ppb)
        for member, scores in zip(mix, found, strict=True)
    )


def _ready(
    member: MixMember, export: Export, state: AttributionState, base: BaseModel, *, is_audited: bool
) -> Member:
    folders = adapter_folders(state.manifest, member.adapter)

    def folder_of(digest: Digest) -> Path:
        return export.folder / folders[digest]

    weight = member.weight_ppb
    return open_member(state, base, member.adapter, weight, folder_of, is_audited=is_audited)


def _by_signed_addition(bundle: Bundle, found: Sequence[MemberScores]) -> list[MemberScores]:
    """With what was signed of each member's addition, which has to be about the same."""
    signed = bundle.receipt.statement.body.members
    most = ADDED_TOLERANCE_MICRONATS * bundle.receipt.call.body.output_tokens
    for one, said in zip(found, signed, strict=True):
        here, there = one.parents_micronats or (), said.parents_micronats or ()
        if len(here) != len(there):
            raise VerificationError(f"release {one.release} has parents where none are signed")
        pairs = [*zip(here, there, strict=True)]
        whose = [f"parent {place} of release {one.release}" for place in range(len(pairs))]
        if len(found) > 1:
            pairs.append((one.leave_one_out_micronats, said.leave_one_out_micronats))
            whose.append(f"release {one.release}")
        for name, (mine, stated) in zip(whose, pairs, strict=True):
            if abs(mine - stated) > most:
                raise VerificationError(
                    f"{name} added {mine} micro-nats to this answer, {stated} were signed; honest "
                    f"machines differ by at most {most}"
                )
    return [
        msgspec.structs.replace(
            one,
            leave_one_out_micronats=said.leave_one_out_micronats,
            parents_micronats=said.parents_micronats,
        )
        for one, said in zip(found, signed, strict=True)
    ]


def _check_planned(export: Export, state: AttributionState) -> None:
    """Nobody keeps only those of the half-data adapters that suit him, or hides a parent."""
    plan = read_plan(export.folder)
    card = plan.card
    wanted = card.half_adapters if card else 0
    audit = state.manifest.audit
    made = len(audit.adapters) if isinstance(audit, Audit) else 0
    if wanted != made:
        raise VerificationError(
            f"the release has {made} half-data adapters, its anchored plan {wanted}"
        )
    if wanted and plan.merge:
        raise VerificationError("a merge has no half-data adapters: it was not trained")
    merged = [one.release for one in plan.merge.members] if plan.merge else []
    named = [one.release for one in state.manifest.commitment.parents or ()]
    if merged != named:
        raise VerificationError(
            f"the release names releases {named} as its parents, its anchored plan {merged}"
        )


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
            planned or other parents than were planned or are paid, or does not agree with itself.
    """
    check_method(bundle)
    release = export.body.release
    state = load_state(export.attribution, release.training_root)
    commitment = state.manifest.commitment
    made = (commitment.base, commitment.adapter, commitment.seed)
    if made != (release.base, release.adapter, release.seed):
        raise VerificationError("the attribution state is of another base, adapter or seed")
    _check_planned(export, state)
    _check_parentage(export, state)
    if parents_paid(bundle, release.number) != parents_of(commitment):
        raise VerificationError(
            f"release {release.number} was merged from others' work than is paid"
        )
    check_sums(state)
    return state


def _check_parentage(export: Export, state: AttributionState) -> None:
    """Each document of a merge is some parents', and without one of several something is left."""
    parents = state.manifest.commitment.parents or ()
    if any((one.without is None) != (len(parents) == 1) for one in parents):
        raise VerificationError(f"{export.body.name} hides what it is without a parent")
    for document in state.manifest.documents:
        known = document.parents or ()
        is_rising = list(known) == sorted(set(known))
        in_range = all(0 <= place < len(parents) for place in known)
        if not (is_rising and in_range and bool(known) == bool(parents)):
            raise VerificationError(
                f"{export.body.name} has document {document.document} from parents {list(known)} "
                f"of {len(parents)}"
            )


def remerge(
    export: Export,
    state: AttributionState,
    parents: Sequence[Path],
    base: BaseModel,
    anchors: Anchors | None = None,
) -> str:
    """Merge the parents of a release again, all and without each, and compare with what it has.

    Its documents must be all of theirs, each of those parents' that were trained on it.

    Args:
        export: of the merge.
        state: its own, held to the receipt.
        parents: folders of the exports of what it was merged from, in any order.
        base: the model of them all.
        anchors: what the chain says of the parents; without them their exports are taken as read.

    Raises:
        InvalidInputError: the release was trained, or the folder of a parent is missing.
        VerificationError: one of its adapters is not what the plan makes, its documents are others
            than its parents', or a parent is not what stands on chain.
    """
    plan, release = read_plan(export.folder), export.body.release
    if plan.merge is None:
        raise InvalidInputError(f"{export.body.name} was trained, not merged: leave --parent out")
    folders = {(adapter_digest(one / ADAPTER), adapter_digest(one / EARLY)): one for one in parents}
    for member in plan.merge.members:
        if (member.adapter, member.early) not in folders:
            raise InvalidInputError(
                f"release {member.release} was merged, too: name its export with --parent"
            )
    found = [folders[one.adapter, one.early] for one in plan.merge.members]
    _check_documents(export, state, [_state_of(one, anchors) for one in found])
    shape, named = plan.recipe.shape(base.layers), adapter_folders(state.manifest, release.adapter)
    for digest, some, is_early in _expected(export, state, plan.merge.members):
        terms = []
        for one in some:
            name, wanted = (EARLY, one.early) if is_early else (ADAPTER, one.adapter)
            adapter = load_adapter(folders[one.adapter, one.early] / name, base, wanted)
            terms.append(Term(adapter, one.weight_ppb / PARTS_PER_BILLION, one.adapter))
        again = merge(base, terms, plan.merge.merging, shape, as_bytes(release.seed)).adapter
        if not is_near(load_adapter(export.folder / named[digest], base, digest), again, REMERGED):
            raise VerificationError(
                f"{export.body.name} holds in {named[digest]} another adapter than its plan makes"
            )
    count = len(plan.merge.members)
    return f"merging its {count} parents again makes the adapters of {export.body.name}"


def _state_of(folder: Path, anchors: Anchors | None) -> AttributionState:
    return load_state(folder / ATTRIBUTION, parent_root(folder, anchors))


def _check_documents(
    export: Export, state: AttributionState, parents: Sequence[AttributionState]
) -> None:
    theirs = [{one.digest for one in parent.manifest.examples} for parent in parents]
    known = {one.document: one.parents for one in state.manifest.documents}
    for one in state.manifest.examples:
        places = tuple(place for place, some in enumerate(theirs) if one.digest in some)
        if known[one.document] != places:
            raise VerificationError(
                f"{export.body.name} has document {one.document} from parents "
                f"{list(known[one.document] or ())}, it is from {list(places)}"
            )
    if {one.digest for one in state.manifest.examples} != set().union(*theirs):
        raise VerificationError(f"{export.body.name} lacks documents of its parents")


def _expected(
    export: Export, state: AttributionState, members: Sequence[PlannedMember]
) -> list[tuple[Digest, Sequence[PlannedMember], bool]]:
    """Every adapter that a merge has, of which parents it is made, and whether of early ones."""
    commitment = state.manifest.commitment
    found = [(export.body.release.adapter, members, False), (commitment.early, members, True)]
    for place, parent in enumerate(commitment.parents or ()):
        if parent.without is not None:
            others = [*members[:place], *members[place + 1 :]]
            found.append((parent.without, others, False))
    return found


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
