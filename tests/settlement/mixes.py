"""Integer scores of members of mixes, as hypothesis draws them."""

import msgspec
from hypothesis import strategies as st

from openledger.core.types import PARTS_PER_BILLION, Account, Digest
from openledger.settlement.shares import (
    ClusterScore,
    CreditPart,
    DocumentScore,
    Gain,
    MemberScores,
    Segment,
)

CAP_PPB = 900_000_000
NAT = 1_000_000
ALICE, BOB = Account("0x" + "a1" * 20), Account("0x" + "b0" * 20)
gains = st.builds(
    Gain,
    st.integers(-(10**9), 10**9),
    st.integers(-(10**6), 10**10),
    st.integers(0, 10**9),
    st.integers(0, 5),
)
accounts = st.sampled_from([ALICE, BOB])
part_lists = st.lists(
    st.builds(CreditPart, st.sampled_from([ALICE, BOB, None]), st.integers(1, 2**40)), max_size=3
).map(tuple)


@st.composite
def cluster_lists(draw: st.DrawFn) -> tuple[ClusterScore, ...]:
    clusters = []
    for number in range(draw(st.integers(0, 6))):
        scores = draw(st.lists(st.integers(-(2**50), 2**50), min_size=1, max_size=5))
        documents = tuple(
            DocumentScore(number * 10 + i, draw(accounts), score, draw(part_lists))
            for i, score in enumerate(scores)
        )
        floor = draw(st.integers(0, 2**48))
        clusters.append(ClusterScore(number, sum(scores), floor, documents))
    return tuple(clusters)


def segment(gain: Gain, clusters: tuple[ClusterScore, ...], tokens: int = 5) -> Segment:
    return Segment(tokens, gain, Digest("d" * 64), clusters)


def member(*segments: Segment, release: int = 1, added: int | None = None) -> MemberScores:
    """A release; without `added` the gain over the base, as for one that answered alone."""
    if added is None:
        added = sum(one.gain.over_base_micronats for one in segments)
    return MemberScores(release, PARTS_PER_BILLION, added, None, segments)


members = st.builds(
    lambda pieces, added: member(*(segment(*piece) for piece in pieces), added=added),
    st.lists(st.tuples(gains, cluster_lists(), st.integers(1, 128)), max_size=3),
    st.integers(-(10**9), 10**9),
)


@st.composite
def mixes(draw: st.DrawFn) -> list[MemberScores]:
    """Members in any order, each release once; several may have added the same."""
    found = draw(st.lists(members, min_size=1, max_size=4))
    numbers = draw(st.permutations(range(1, len(found) + 1)))
    return [
        msgspec.structs.replace(one, release=number)
        for one, number in zip(found, numbers, strict=True)
    ]
