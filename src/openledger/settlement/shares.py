"""From the integer scores of one answer to shares in parts per billion.

Pure and integer, so that anyone redoes it to the last part from a public receipt. The rules are
those of method version 1 (docs/protocol/attribution.md):

- The answer's gain over the base model decides how much goes to contributors at all.
- Credit units are content clusters, fixed at release and blind to identity. A cluster's noise
  floor is subtracted, and what falls below the floors goes to nobody, never to the others.
- Inside a paid cluster credit goes to documents by the positive part of their score, and an
  account earns the sum over its documents: splitting them among accounts changes nothing.
- What an earlier account wrote of a document is that account's, whoever brought it later; a part
  without an account is nobody's.
"""

import msgspec

from openledger.core.errors import VerificationError
from openledger.core.types import PARTS_PER_BILLION, Account, Share
from openledger.settlement.split import apportion

# The most that contributors can get of an answer, by version of the attribution method.
CAP_PPB_OF_METHOD = {1: 900_000_000}


class Gain(msgspec.Struct, frozen=True):
    """What the adapter added to this answer, in millionths of a nat, summed over its tokens."""

    over_base_micronats: int  # capped per token, less the placebo mean; may be negative
    over_null_micronats: int  # the same tokens against the null model of the method version
    cap_ppb: int  # the most that contributors may get


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


class ClusterScore(msgspec.Struct, frozen=True):
    """The signed influence of one content cluster: the sum over its documents."""

    cluster: int
    score: int
    floor: int  # its noise floor, not negative
    documents: tuple[DocumentScore, ...]  # empty where the cluster is not paid


class Attribution(msgspec.Struct, frozen=True):
    """Who made the answer; contributors and nobody sum to 1_000_000_000."""

    shares: tuple[Share, ...]  # by account, rising; none is zero
    nobody_ppb: int


def data_share_ppb(gain: Gain) -> int:
    """The part of the data money that the answer owes to contributors together."""
    if gain.over_base_micronats <= 0 or gain.over_null_micronats <= 0:
        return 0
    share = PARTS_PER_BILLION * gain.over_base_micronats // gain.over_null_micronats
    return min(share, gain.cap_ppb)


def is_paid(cluster: ClusterScore) -> bool:
    """Whether the cluster stands above its noise floor."""
    return cluster.score > cluster.floor


def check_scores(method: int, gain: Gain, clusters: tuple[ClusterScore, ...]) -> None:
    """Check that integers of a statement are such as the method can give.

    Raises:
        VerificationError: the cap is not the method's, a floor is negative, a paid cluster has no
            documents, a cluster is not the sum of its documents, or a part of a document has no
            weight.
    """
    # A call that cost nothing is not scored: its gain is 0 whatever the cap.
    if gain.over_base_micronats and gain.cap_ppb != CAP_PPB_OF_METHOD.get(method):
        raise VerificationError(f"{gain.cap_ppb} is not the cap of attribution method {method}")
    for cluster in clusters:
        if cluster.floor < 0:
            raise VerificationError(f"the floor of cluster {cluster.cluster} is below zero")
        if is_paid(cluster) and not cluster.documents:
            raise VerificationError(f"cluster {cluster.cluster} is paid, but has no documents")
        total = sum(document.score for document in cluster.documents)
        if cluster.documents and total != cluster.score:
            raise VerificationError(f"cluster {cluster.cluster} is not the sum of its documents")
        parts = [part for document in cluster.documents for part in document.parts]
        if any(part.weight <= 0 for part in parts):
            raise VerificationError(f"cluster {cluster.cluster} has a document's part of no weight")


def shares(gain: Gain, clusters: tuple[ClusterScore, ...]) -> Attribution:
    """Divide 1_000_000_000 parts among contributors and nobody."""
    positive = [max(0, cluster.score) for cluster in clusters]
    net = [max(0, cluster.score - cluster.floor) for cluster in clusters]
    total = data_share_ppb(gain)
    if total == 0 or sum(net) == 0:
        return Attribution((), PARTS_PER_BILLION)
    *parts, _ = apportion(total, [*net, sum(positive) - sum(net)])
    earned: dict[Account, int] = {}
    for cluster, part in zip(clusters, parts, strict=True):
        if part:
            _credit(cluster, part, earned)
    paid = tuple(Share(account, earned[account]) for account in sorted(earned) if earned[account])
    return Attribution(paid, PARTS_PER_BILLION - sum(share.weight_ppb for share in paid))


def _credit(cluster: ClusterScore, part: int, earned: dict[Account, int]) -> None:
    documents = sorted(cluster.documents, key=lambda document: document.document)
    scores = [max(0, document.score) for document in documents]
    for document, piece in zip(documents, apportion(part, scores), strict=True):
        owned = document.parts or (CreditPart(document.account, 1),)
        divided = apportion(piece, [one.weight for one in owned])
        for one, amount in zip(owned, divided, strict=True):
            if one.account is not None:
                earned[one.account] = earned.get(one.account, 0) + amount
