"""What people are shown of one answer: records alone, without what finds them."""

import msgspec

from openledger.core.types import Account, Digest, ReceiptId


class Passage(msgspec.Struct, frozen=True):
    """A document's copy of a passage."""

    span: int  # its place among the spans
    start: int  # characters of the document's text
    end: int


class DocumentEvidence(msgspec.Struct, frozen=True):
    """One training document."""

    document: int  # its number in the release
    contribution: int  # on chain
    account: Account
    title: str
    licence: str
    digest: Digest  # sha256 of its text
    text: str | None  # none where the licence does not let anyone pass it on
    share_ppb: int  # of the answer, that it earned its contributor
    strength_ppb: (
        int  # its influence by the index, of the strongest document's; 0 if none was found
    )
    passages: tuple[Passage, ...]


class SpanEvidence(msgspec.Struct, frozen=True):
    """A passage of the answer that stands in training documents."""

    start: int  # characters of the answer
    end: int
    first_token: int  # of the answer
    end_token: int  # the first that is past it
    text: str
    words: int
    documents: tuple[int, ...]  # those shown that hold it, the best match first
    holders: int  # how many training documents hold it in all


class Evidence(msgspec.Struct, frozen=True):
    """What there is to see of one answer."""

    receipt: ReceiptId
    answer: str
    basis: str
    matching: str
    verdict: str  # whether passages and influence agree, in a sentence
    is_disagreeing: bool
    documents: tuple[DocumentEvidence, ...]  # by influence; behind them those that only match
    spans: tuple[SpanEvidence, ...]
    withdrawn: int  # contributions of this release that are not here any more
