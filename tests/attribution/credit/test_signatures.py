"""Runs of tokens that are nobody's merit."""

import numpy as np

from openledger.attribution.credit.documents import CreditDocument
from openledger.attribution.credit.signatures import Signatures, signatures
from openledger.attribution.method import (
    SIGNATURE_LEAST,
    SIGNATURE_OWN_LEAST,
    SIGNATURE_TOKENS,
)
from tests.attribution.releases import account

PHRASE = (901, 902, 903, 904, 905)


def documents(count: int, marked: int, owners: int) -> list[CreditDocument]:
    """The first `marked` end in the phrase; owners take turns."""
    return [
        CreditDocument(
            i,
            account(i % owners),
            "",
            ((*range(10 * i, 10 * i + 10), *(PHRASE if i < marked else ())),),
        )
        for i in range(count)
    ]


def found_in(some: list[CreditDocument], clusters: list[int] | None = None) -> Signatures:
    return Signatures(signatures(some, clusters or list(range(len(some)))))


def test_a_phrase_of_many_documents_is_a_signature_whoever_brought_them() -> None:
    least = SIGNATURE_LEAST
    is_marked = found_in(documents(40, least, owners=40)).cover(PHRASE)
    is_rarer = found_in(documents(40, least - 1, owners=40)).cover(PHRASE)

    assert all(is_marked)
    assert not any(is_rarer)


def test_a_phrase_of_half_of_ones_documents_is_a_signature() -> None:
    half = SIGNATURE_OWN_LEAST

    assert all(found_in(documents(2 * half, half, owners=1)).cover(PHRASE))
    assert not any(found_in(documents(2 * half + 1, half, owners=1)).cover(PHRASE))
    assert not any(found_in(documents(half, half - 1, owners=1)).cover(PHRASE))


def test_many_copies_of_one_text_make_no_signature() -> None:
    some = documents(40, 12, owners=1)
    one_cluster = [0] * 12 + list(range(1, 29))

    assert not any(found_in(some, one_cluster).cover(PHRASE))


def test_only_the_tokens_of_the_phrase_are_covered() -> None:
    known = found_in(documents(40, 40, owners=40))

    assert known.cover([7, *PHRASE, 8]) == [False, *[True] * len(PHRASE), False]
    assert known.cover(PHRASE[: SIGNATURE_TOKENS - 1]) == [False] * (SIGNATURE_TOKENS - 1)
    assert known.cover([]) == []


def test_the_runs_are_the_same_whatever_the_order_of_arrival() -> None:
    some = documents(40, 20, owners=3)
    straight = signatures(some, list(range(40)))
    turned = signatures(some[::-1], list(range(40)))

    assert straight.dtype == np.int32
    assert straight.shape == (len(PHRASE) - SIGNATURE_TOKENS + 1, SIGNATURE_TOKENS)
    assert np.array_equal(straight, turned)
