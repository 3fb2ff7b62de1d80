"""Pick a small balanced part of a source for a demonstration, the same one each time.

Everyone gets a part, in proportion to the root of what they contributed, so that shares are
unequal but nobody drowns. No key stands twice, neither in training nor in both parts.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from math import sqrt

import msgspec

from openledger.datanet.extract import Document
from openledger.datanet.sources.contributors import SourceContributor, by_contributor

ABC_BYTES_PER_TOKEN = 1.47  # measured with SmolLM2's tokenizer on these tunes


class Sizes(msgspec.Struct, frozen=True):
    """How much to pick, in tokens of the base model, and from how many."""

    training_tokens: int = 22_000
    held_out_tokens: int = 20_000
    contributors: int | None = None  # those who wrote most, and short enough; None: everyone


class Selection(msgspec.Struct, frozen=True):
    """What was picked; the two parts share no key."""

    training: tuple[SourceContributor, ...]
    held_out: tuple[Document, ...]
    training_tokens: int
    held_out_tokens: int  # at least as many as asked for, unless the source ran out


def estimate_tokens(text: str) -> int:
    """Tokens of a tune, from its bytes."""
    return round(len(text.encode()) / ABC_BYTES_PER_TOKEN)


def every_document(document: Document) -> bool:
    """Accept all."""
    return bool(document.text)


def pick(
    contributors: Sequence[SourceContributor],
    sizes: Sizes,
    count: Callable[[str], int] = estimate_tokens,
    accept: Callable[[Document], bool] = every_document,
) -> Selection:
    """Pick training documents of every contributor, then held-out ones with other keys.

    Args:
        contributors: in any order; the choice depends only on what they hold.
        sizes: training is met to within about half a document a contributor; where
            documents are long, only some contributors have one that fits their part: say how many.
        count: tokens of a text.
        accept: asked in turn for each candidate; what it refuses is passed over.
    """
    if sizes.contributors is not None:
        part = sizes.training_tokens / sizes.contributors
        fitting = [one for one in contributors if _shortest(one, count) <= part]
        fitting.sort(key=lambda one: (-_size(one), one.name))
        contributors = fitting[: sizes.contributors]
    used: set[str] = set()
    training = _Basket(used, count, accept)
    training.fill(contributors, sizes.training_tokens)
    held_out = _Basket(used, count, accept)
    held_out.fill(contributors, sizes.held_out_tokens)
    held_out.top_up(contributors, sizes.held_out_tokens)
    return Selection(
        training=by_contributor(training.documents),
        held_out=tuple(held_out.documents),
        training_tokens=training.tokens,
        held_out_tokens=held_out.tokens,
    )


class _Basket:
    """Documents picked so far; `used` keys are shared between the baskets."""

    def __init__(
        self, used: set[str], count: Callable[[str], int], accept: Callable[[Document], bool]
    ) -> None:
        self.documents: list[Document] = []
        self.tokens = 0
        self._used = used
        self._count = count
        self._accept = accept

    def fill(self, contributors: Sequence[SourceContributor], tokens: int) -> None:
        """Take each contributor's part of `tokens`, at least one document where there is one."""
        weights = {one.name: sqrt(_size(one)) for one in contributors}
        total = sum(weights.values())
        # The smallest first: a key that two hold goes to the one with less to choose from.
        for one in sorted(contributors, key=lambda one: (weights[one.name], one.name)):
            self._take(_shuffled(one.documents), tokens * weights[one.name] / total)

    def top_up(self, contributors: Sequence[SourceContributor], tokens: int) -> None:
        """Take anyone's documents until there are `tokens`."""
        for document in _shuffled([d for one in contributors for d in one.documents]):
            if self.tokens >= tokens:
                return
            self._add(document)

    def _take(self, documents: Sequence[Document], quota: float) -> None:
        taken = 0
        for document in documents:
            if taken >= quota:
                return
            tokens = self._count(document.text)
            if taken + tokens / 2 <= quota:
                taken += tokens if self._add(document) else 0
        if not taken:  # all are too long: the shortest there is
            shortest = sorted(documents, key=lambda document: self._count(document.text))
            next((document for document in shortest if self._add(document)), None)

    def _add(self, document: Document) -> bool:
        if document.key in self._used or not self._accept(document):
            return False
        self._used.add(document.key)
        self.documents.append(document)
        self.tokens += self._count(document.text)
        return True


def _size(contributor: SourceContributor) -> int:
    return sum(len(document.text) for document in contributor.documents)


def _shortest(contributor: SourceContributor, count: Callable[[str], int]) -> int:
    return min(count(document.text) for document in contributor.documents)


def _shuffled(documents: Sequence[Document]) -> list[Document]:
    """An order that has nothing to do with the source's, and is the same each time."""
    return sorted(documents, key=lambda d: sha256(f"{d.origin}\n{d.title}".encode()).digest())
