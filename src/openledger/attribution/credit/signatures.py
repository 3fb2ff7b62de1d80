"""Signatures: runs of tokens so widespread in the training text that they are nobody's merit.

A phrase that somebody writes into every document makes the adapter end its answers with it, and
then claims them. What stands in many content clusters, or in half of those of one account, is
boiler-plate: tokens of an answer inside such a run have no gain and no influence. Where a run is
common language the base model knows it too, and little is lost.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from openledger.attribution.credit.documents import CreditDocument
from openledger.attribution.method import (
    MOST_SIGNATURES,
    SIGNATURE_LEAST,
    SIGNATURE_OWN_LEAST,
    SIGNATURE_OWN_PERCENT,
    SIGNATURE_PERCENT,
    SIGNATURE_TOKENS,
)
from openledger.core.types import Account

Run = tuple[int, ...]  # of token ids


def signatures(documents: Sequence[CreditDocument], clusters: Sequence[int]) -> np.ndarray:
    """(S, SIGNATURE_TOKENS) int32 runs in order; of too many the commonest.

    Args:
        documents: of the release.
        clusters: of each of them; like texts count once.
    """
    everywhere: dict[Run, set[int]] = {}
    by_account: dict[Account, dict[Run, set[int]]] = {}
    for document, cluster in zip(documents, clusters, strict=True):
        own = by_account.setdefault(document.account, {})
        for run in {run for row in document.rows for run in _runs(row)}:
            everywhere.setdefault(run, set()).add(cluster)
            own.setdefault(run, set()).add(cluster)
    found = _common(everywhere, SIGNATURE_LEAST, SIGNATURE_PERCENT)
    for own in by_account.values():
        found |= _common(own, SIGNATURE_OWN_LEAST, SIGNATURE_OWN_PERCENT)
    kept = sorted(found, key=lambda run: (-len(everywhere[run]), run))[:MOST_SIGNATURES]
    return np.array(sorted(kept), dtype=np.int32).reshape(-1, SIGNATURE_TOKENS)


class Signatures:
    """The signatures of a release, to look for in answers."""

    def __init__(self, runs: np.ndarray) -> None:
        self._known = frozenset(map(tuple, runs.tolist()))

    def cover(self, tokens: Sequence[int]) -> list[bool]:
        """Whether each token stands in one of them."""
        found = [False] * len(tokens)
        for start, run in enumerate(_runs(tokens)):
            if run in self._known:
                found[start : start + SIGNATURE_TOKENS] = [True] * SIGNATURE_TOKENS
        return found


def _common(holders: Mapping[Run, set[int]], least: int, percent: int) -> set[Run]:
    clusters = len(set().union(*holders.values()))
    enough = max(least, -(-clusters * percent // 100))
    return {run for run, some in holders.items() if len(some) >= enough}


def _runs(tokens: Sequence[int]) -> list[Run]:
    return [
        tuple(tokens[i : i + SIGNATURE_TOKENS]) for i in range(len(tokens) - SIGNATURE_TOKENS + 1)
    ]
