"""From the integer scores of one answer to shares in parts per billion.

Pure and integer, so that anyone redoes it to the last part from a public receipt. The rules are
those of method version 2 (docs/protocol/attribution.md):

- The members of a mix divide an answer by what each of them added to it, its leave-one-out gain.
- A long answer is scored in segments, which count by their tokens.
- A segment's gain over the base model decides how much goes to contributors at all.
- Credit units are content clusters, fixed at release and blind to identity. A cluster's noise
  floor is subtracted, and what falls below the floors goes to nobody, never to the others.
- Inside a paid cluster credit goes to documents by the positive part of their score, and an
  account earns the sum over its documents: splitting them among accounts changes nothing.
- What an earlier account wrote of a document is that account's, whoever brought it later; a part
  without an account is nobody's.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Digest, Share
from openledger.settlement.split import apportion

# The most that contributors can get of an answer, by version of the attribution method. A version
# that stands here is one whose receipts this verifier knows; none is ever taken away.
CAP_PPB_OF_METHOD = {2: 900_000_000}
SEGMENT_TOKENS = 128  # longer answers are cut
LEAST_OVER_NULL_MICRONATS = 1_000_000  # one nat: what gains are divided by where they are smaller
TOKEN_GAIN_CAP_MICRONATS = 3_000_000  # one token counts for no more than that
PLACEBO_MICRONATS_PER_TOKEN = 100_000  # of what sampling alone gains an adapter off its subject
MOST_GAIN_MICRONATS = TOKEN_GAIN_CAP_MICRONATS - PLACEBO_MICRONATS_PER_TOKEN
# What sampling alone gains off the subject differs by so much a token, to either side of its mean.
PLACEBO_SPREAD_MICRONATS = 300_000
MOST_LOSS_MICRONATS = 10**9  # a token on average: 1,000 nats are worse than any model
# How far the shares of two honest machines may lie apart: total variation, half a point.
TOLERANCE_PPB = 5_000_000
# And how far what a member of a mix added, for each token of the answer.
ADDED_TOLERANCE_MICRONATS = 5_000


class Unscored(StrEnum):
    """Why an answer has no scores, so that its data part goes to commons."""

    FREE = "free"  # nothing was charged: there is nothing to divide
    NO_ANSWER = "no_answer"  # no token of it has anything before it
    NO_MANIFEST = "no_manifest"  # the adapter came without one: nobody knows its training data
    NOT_FINITE = "not_finite"  # the model gave infinite gradients or chances, or no numbers


class Gain(msgspec.Struct, frozen=True):
    """What the adapters added to these tokens, in millionths of a nat, summed over them."""

    over_base_micronats: int  # capped per token, less the placebo mean; may be negative
    over_null_micronats: int  # the same tokens against the null model of the method version
    cap_ppb: int  # the most that contributors may get
    tokens: int  # of the segment that count: all but those of signatures


class CreditPart(msgspec.Struct, frozen=True):
    """What one account has of a document; fixed at release."""

    account: Account | None  # None: nobody is paid for it
    weight: int  # above 0; against those of the document's other parts


class DocumentScore(msgspec.Struct, frozen=True):
    """The signed influence of one training document on the answer."""

    document: int  # its place in the ordered training manifest
    account: Account  # who brought it
    score: int
    parts: tuple[CreditPart, ...] = ()  # by account, nobody last; none: all of it is the account's
    # Of a merge: the places of the parents that were trained on it, rising.
    parents: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class ClusterScore(msgspec.Struct, frozen=True):
    """The signed influence of one content cluster: the sum over its documents."""

    cluster: int
    score: int
    floor: int  # its noise floor, not negative
    documents: tuple[DocumentScore, ...]  # empty where the cluster is not paid


class Segment(msgspec.Struct, frozen=True):
    """The scores of one stretch of the answer; its share of the answer is that of its tokens."""

    tokens: int
    gain: Gain
    query: Digest  # of the quantised query vector; of no bytes where nothing is owed
    clusters: tuple[ClusterScore, ...]  # none where nothing is owed
    # Of an audited call: the segment's mean loss under each of the release's half-data adapters, in
    # millionths of a nat a token, from which and from influence the scores follow.
    losses_micronats: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class MemberScores(msgspec.Struct, frozen=True):
    """The integers from which one member's part of an answer, and the shares in it, follow."""

    release: int
    weight_ppb: int  # in the mix, as the call receipt has it; it decides no money
    leave_one_out_micronats: int  # gain of the mix over the mix without this member
    unscored: Unscored | None  # why there are no segments
    segments: tuple[Segment, ...]
    # Of a merge: gain of the mix over the mix with this member merged without each of its parents.
    parents_micronats: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET


class Attribution(msgspec.Struct, frozen=True):
    """Who made the answer; contributors and nobody sum to 1_000_000_000."""

    shares: tuple[Share, ...]  # by account, rising; none is zero
    nobody_ppb: int


def distance_ppb(one: Attribution, other: Attribution) -> int:
    """The total variation between two attributions, nobody among the shares; 0 to 1_000_000_000."""
    earned = {share.account: share.weight_ppb for share in one.shares}
    for share in other.shares:
        earned[share.account] = earned.get(share.account, 0) - share.weight_ppb
    gaps = [*earned.values(), one.nobody_ppb - other.nobody_ppb]
    return sum(abs(gap) for gap in gaps) // 2  # the gaps sum to 0, so their sizes to an even number


def segment_lengths(tokens: int) -> list[int]:
    """Cut an answer into as few segments as may be, as equal as may be, longer ones first."""
    count = -(-tokens // SEGMENT_TOKENS)
    return apportion(tokens, [1] * count)


def owed_micronats(gain: Gain) -> int:
    """What is likely to be left of the gain over the base without what sampling alone gains.

    The mean of `max(0, gain - x)`, x even between minus and plus the placebo's spread over the
    tokens that count: the gain itself above the spread, 0 below it, and smooth in between.
    """
    added, spread = gain.over_base_micronats, PLACEBO_SPREAD_MICRONATS * gain.tokens
    if abs(added) >= spread:
        return max(0, added)
    owed: int = (added + spread) ** 2 // (4 * spread)
    return owed


def data_share_ppb(gain: Gain, of_ppb: int = PARTS_PER_BILLION) -> int:
    """What contributors together are owed of `of_ppb` parts that show this gain.

    Continuous: moving either part of the gain by some micronats moves the share, as a part of the
    whole, by at most so many of the least denominator.
    """
    owed, over_null = owed_micronats(gain), gain.over_null_micronats
    least = LEAST_OVER_NULL_MICRONATS
    if over_null <= 0:
        return 0
    share = of_ppb * owed // max(over_null, least)
    capped = min(share, of_ppb * gain.cap_ppb // PARTS_PER_BILLION)
    # What is hardly likelier than words drawn at random owes hardly anything.
    return capped * min(over_null, least) // least


def is_paid(cluster: ClusterScore) -> bool:
    """Whether the cluster stands above its noise floor."""
    return cluster.score > cluster.floor


def check_method(method: int) -> None:
    """Refuse a version of the method whose rules are not here.

    Raises:
        VerificationError: it is such a version.
    """
    if method not in CAP_PPB_OF_METHOD:
        known = ", ".join(map(str, CAP_PPB_OF_METHOD))
        raise VerificationError(
            f"this receipt follows attribution method {method}, this version of openledger knows "
            f"{known}: check it with one that knows {method}"
        )


def check_members(method: int, members: Sequence[MemberScores]) -> None:
    """Check that integers of a statement are such as the method can give.

    Raises:
        VerificationError: a member has scores and a reason for having none, or neither; a cap is
            not the method's, more tokens count than there are, or gain more than they can, a floor
            is negative, a paid cluster has no documents, a cluster is not the sum of its documents,
            a part of a document has no weight, a document of a merge is of no parent, the members
            differ about the gain of the mix, or a single one added something else than that gain.
    """
    check_method(method)
    for member in members:
        if (member.unscored is None) != bool(member.segments):
            raise VerificationError(
                f"release {member.release} needs scores, or a reason for having none, not both"
            )
        for segment in member.segments:
            _check_segment(CAP_PPB_OF_METHOD[method], segment)
            _check_knowers(segment, len(member.parents_micronats or ()))
        if member.parents_micronats == () or (member.unscored and member.parents_micronats):
            raise VerificationError(
                f"release {member.release} names parents that added nothing it could name"
            )
    gains = [[(s.gain.over_base_micronats, s.gain.tokens) for s in m.segments] for m in members]
    gains = [gain for gain in gains if gain]
    if any(gain != gains[0] for gain in gains):
        raise VerificationError("the members of the mix differ about its gain over the base")
    total = sum(added for gain in gains for added, _ in gain)
    if len(members) == 1 and members[0].leave_one_out_micronats != total:
        raise VerificationError("the only member added something else than the gain over the base")


def check_audited(members: Sequence[MemberScores], *, is_asked: bool) -> None:
    """Check that scores were corrected if the call asked for that, and only then.

    Raises:
        VerificationError: it is otherwise, or a loss is none.
    """
    for segment in (segment for member in members for segment in member.segments):
        has_losses = segment.losses_micronats is not msgspec.UNSET
        if has_losses and not is_asked:
            raise VerificationError("the statement is audited, which the call did not ask for")
        losses = segment.losses_micronats or ()
        if not all(0 <= loss <= MOST_LOSS_MICRONATS for loss in losses):
            raise VerificationError("a half-data adapter's loss is below zero or beyond any")
        # What owes nobody anything has no scores that could be audited.
        if is_asked and segment.clusters and not has_losses:
            raise VerificationError("the call asked for an audit, its scores are influence alone")


def member_ppb(members: Sequence[MemberScores]) -> list[int]:
    """The part of builder and data money that each member of a mix earns.

    In proportion to what each added to the answer; one that added nothing earns nothing, and when
    none did nobody earns: the parts then sum to 0, otherwise to 1_000_000_000. Equal remainders go
    to the lower release, so the order of the members decides nothing. What stands alone divides
    with nobody.
    """
    if len(members) == 1:
        return [PARTS_PER_BILLION]
    order = sorted(range(len(members)), key=lambda place: members[place].release)
    gains = [max(0, members[place].leave_one_out_micronats) for place in order]
    parts = apportion(PARTS_PER_BILLION if sum(gains) else 0, gains)
    by_place = dict(zip(order, parts, strict=True))
    return [by_place[place] for place in range(len(members))]


def owed_ppb(members: Sequence[MemberScores]) -> list[dict[Account, int]]:
    """What of the whole answer each member of its mix owes to whom, in parts per billion."""
    found: list[dict[Account, int]] = []
    for member, part in zip(members, member_ppb(members), strict=True):
        owed: dict[Account, int] = {}
        # Without scores there is nothing to divide.
        lengths = [segment.tokens for segment in member.segments]
        pieces = apportion(part, lengths) if lengths else []
        for segment, piece in zip(member.segments, pieces, strict=True):
            _divide(segment, piece, owed, _knowing_ppb(member))
        found.append(owed)
    return found


def combine(members: Sequence[MemberScores]) -> Attribution:
    """The shares of a whole answer, from the scores of all members of its mix."""
    earned: dict[Account, int] = {}
    for owed in owed_ppb(members):
        for account, part in owed.items():
            earned[account] = earned.get(account, 0) + part
    paid = tuple(Share(account, earned[account]) for account in sorted(earned) if earned[account])
    return Attribution(paid, PARTS_PER_BILLION - sum(share.weight_ppb for share in paid))


def _check_segment(cap_ppb: int, segment: Segment) -> None:
    if segment.gain.cap_ppb != cap_ppb:
        raise VerificationError(f"{segment.gain.cap_ppb} is not the cap of the method, {cap_ppb}")
    gain = segment.gain
    if not 0 <= gain.tokens <= segment.tokens:
        raise VerificationError(f"{gain.tokens} of {segment.tokens} tokens cannot count")
    if gain.over_base_micronats > MOST_GAIN_MICRONATS * gain.tokens:
        raise VerificationError(f"{gain.tokens} tokens gain less than {gain.over_base_micronats}")
    for cluster in segment.clusters:
        _check_cluster(cluster)


def _check_cluster(cluster: ClusterScore) -> None:
    if cluster.floor < 0:
        raise VerificationError(f"the floor of cluster {cluster.cluster} is below zero")
    if is_paid(cluster) and not cluster.documents:
        raise VerificationError(f"cluster {cluster.cluster} is paid, but has no documents")
    if cluster.documents and not is_paid(cluster):
        raise VerificationError(f"cluster {cluster.cluster} has documents, but is not paid")
    total = sum(document.score for document in cluster.documents)
    if cluster.documents and total != cluster.score:
        raise VerificationError(f"cluster {cluster.cluster} is not the sum of its documents")
    parts = [part for document in cluster.documents for part in document.parts]
    if any(part.weight <= 0 for part in parts):
        raise VerificationError(f"cluster {cluster.cluster} has a document's part of no weight")


def _check_knowers(segment: Segment, count: int) -> None:
    for document in (one for cluster in segment.clusters for one in cluster.documents):
        known = document.parents or ()
        is_rising = list(known) == sorted(set(known)) and all(0 <= one < count for one in known)
        if not is_rising or bool(known) != bool(count):
            raise VerificationError(
                f"document {document.document} was known to parents {list(known)} of {count}"
            )


def _knowing_ppb(member: MemberScores) -> list[int] | None:
    """What the texts of each parent of a merge count: by what it added; None: all alike.

    So in a release that was trained, and where no parent added anything beyond the others, which
    says nothing of whose texts they are.
    """
    gains = [max(0, gain) for gain in member.parents_micronats or ()]
    return apportion(PARTS_PER_BILLION, gains) if sum(gains) else None


def _divide(
    segment: Segment, amount: int, earned: dict[Account, int], knowing: Sequence[int] | None
) -> None:
    """Credit what of `amount` parts the segment owes to contributors."""
    positive = [max(0, cluster.score) for cluster in segment.clusters]
    net = [max(0, cluster.score - cluster.floor) for cluster in segment.clusters]
    total = data_share_ppb(segment.gain, amount)
    if total == 0 or sum(net) == 0:
        return
    *parts, _ = apportion(total, [*net, sum(positive) - sum(net)])
    if knowing is not None:
        pairs = zip(net, segment.clusters, strict=True)
        counted = [weight * _counted_ppb(cluster, knowing) for weight, cluster in pairs]
        parts = apportion(sum(parts) if sum(counted) else 0, counted)
    for cluster, part in zip(segment.clusters, parts, strict=True):
        if part:
            _credit(cluster, part, earned, knowing)


def _counted_ppb(cluster: ClusterScore, knowing: Sequence[int]) -> int:
    """What of a cluster counts: that of its documents which parents knew that added something."""
    total = sum(max(0, document.score) for document in cluster.documents)
    return sum(_scores(cluster.documents, knowing)) // total if total else 0


def _scores(documents: Sequence[DocumentScore], knowing: Sequence[int] | None) -> list[int]:
    """By what a cluster's part is divided among its documents."""
    return [
        max(0, one.score)
        * (PARTS_PER_BILLION if knowing is None else sum(knowing[p] for p in one.parents or ()))
        for one in documents
    ]


def _credit(
    cluster: ClusterScore, part: int, earned: dict[Account, int], knowing: Sequence[int] | None
) -> None:
    documents = sorted(cluster.documents, key=lambda document: document.document)
    scores = _scores(documents, knowing)
    for document, piece in zip(documents, apportion(part, scores), strict=True):
        owned = document.parts or (CreditPart(document.account, 1),)
        divided = apportion(piece, [one.weight for one in owned])
        for one, amount in zip(owned, divided, strict=True):
            if one.account is not None:
                earned[one.account] = earned.get(one.account, 0) + amount
