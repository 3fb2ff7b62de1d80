"""Whose a document is, passage by passage: the first who committed the words keeps their credit.

Texts are read in the order of their commits. A passage of a later text belongs to earlier accounts
where at least half of its telling shingles stand in earlier texts, to each by how many of them it
was first with; any other passage is the later account's own. It is never the document as a whole
that is compared: a later text loses only what is contained, and nothing passes along chains.
"""

from collections import Counter, deque
from collections.abc import Sequence

from openledger.attribution.credit.documents import CreditDocument, ElsewhereText
from openledger.attribution.credit.shingles import boilerplate, folded, shingles, telling
from openledger.attribution.method import PASSAGE_BYTES, SAME_CONTENT_PERCENT
from openledger.core.types import Account
from openledger.settlement.shares import CreditPart
from openledger.settlement.split import apportion


def credit_parts(
    documents: Sequence[CreditDocument], elsewhere: Sequence[ElsewhereText] = ()
) -> list[tuple[CreditPart, ...]]:
    """The parts of each document; none where all of it is its account's own.

    Weights are bytes of the folded text.
    """
    index = _Index([*(one.text for one in documents), *(one.text for one in elsewhere)])
    others = deque(sorted(elsewhere, key=lambda one: one.before))
    found = []
    for document in documents:
        while others and others[0].before <= document.number:
            earlier = others.popleft()
            index.add(earlier.text, earlier.account)
        found.append(_parts(index.owners(document.text, document.account), document.account))
        index.add(document.text, document.account)
    return found


class _Index:
    """Who was first with each shingle so far."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._common = boilerplate(
            set(shingles(raw)) for raw in dict.fromkeys(folded(text) for text in texts)
        )
        self._first: dict[bytes, Account] = {}

    def add(self, text: str, account: Account) -> None:
        for shingle in shingles(folded(text)):
            self._first.setdefault(shingle, account)

    def owners(self, text: str, account: Account) -> Counter[Account]:
        """By account, the bytes of a text that it was first with."""
        owned: Counter[Account] = Counter()
        for passage in _passages(text):
            owned.update(self._divided(passage, account))
        return owned

    def _divided(self, passage: bytes, account: Account) -> dict[Account, int]:
        compared = telling(shingles(passage), self._common)
        holders = Counter(self._first[one] for one in compared if one in self._first)
        if 100 * holders.total() < SAME_CONTENT_PERCENT * len(compared):
            return {account: len(passage)}
        accounts = sorted(holders)
        pieces = apportion(len(passage), [holders[one] for one in accounts])
        return dict(zip(accounts, pieces, strict=True))


def _passages(text: str) -> list[bytes]:
    """Lines, joined until each passage is long enough to be known again."""
    passages, open_passage = [], b""
    for line in text.splitlines():
        open_passage += folded(line)
        if len(open_passage) >= PASSAGE_BYTES:
            passages.append(open_passage)
            open_passage = b""
    last = [passages.pop() + open_passage] if passages else [open_passage]
    return passages + last


def _parts(owned: Counter[Account], account: Account) -> tuple[CreditPart, ...]:
    parts = tuple(CreditPart(one, owned[one]) for one in sorted(owned) if owned[one])
    return () if {part.account for part in parts} <= {account} else parts
