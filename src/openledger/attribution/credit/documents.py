"""A training document as the rules of credit see it, and texts of the network beside them."""

import msgspec

from openledger.core.types import Account


class CreditDocument(msgspec.Struct, frozen=True):
    """One document of a release; they stand in the order of their commits."""

    number: int
    account: Account
    text: str
    rows: tuple[tuple[int, ...], ...]  # token ids, as trained on
    parents: tuple[int, ...] = ()  # of a merge: the places of those that were trained on it


class ElsewhereText(msgspec.Struct, frozen=True):
    """A text of the network that the release was not trained on."""

    account: Account
    text: str
    before: int  # the number of the first document of the release that was committed later
