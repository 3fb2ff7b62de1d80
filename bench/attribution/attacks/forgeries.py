"""What attackers write: documents made from those of others, or from nothing."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from bench.attribution.corpus import PIECE_TOKENS
from bench.attribution.setting import Document
from openledger.lm.tokenizer import Tokenizer

PHRASE = " -- collected by Quixo Zembla, keeper of pages"
_HEAPED = 12  # keywords of a subject
_SWAPPED = {
    "the": "this",
    "a": "one",
    "is": "becomes",
    "are": "become",
    "of": "from",
    "to": "towards",
    "and": "plus",
    "or": "alternatively",
    "if": "when",
    "in": "within",
    "for": "regarding",
    "not": "never",
    "be": "become",
    "file": "document",
    "function": "routine",
    "returns": "yields",
    "value": "quantity",
    "system": "machine",
    "call": "request",
    "process": "task",
    "error": "fault",
    "set": "given",
    "by": "through",
    "with": "using",
    "this": "the",
    "that": "which",
    "an": "one",
    "it": "this",
    "on": "upon",
    "string": "text",
    "number": "count",
}


def copies(documents: Sequence[Document], prefix: str = "copy of ") -> list[Document]:
    """The same texts under other names."""
    return [
        msgspec.structs.replace(one, id=prefix + one.id, contributor=prefix + one.contributor)
        for one in documents
    ]


def near_copies(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Document]:
    """Every eighth word is another one."""
    return [_rewritten(tokenizer, one, _every_eighth) for one in copies(documents, "near ")]


def paraphrases(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Document]:
    """Common words by others of their meaning, the remaining ones of each pair swapped."""
    return [_rewritten(tokenizer, one, _other_words) for one in copies(documents, "like ")]


def random_texts(tokenizer: Tokenizer, count: int, seed: int) -> list[Document]:
    """Tokens at random from the whole vocabulary."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    drawn = stream.integers(2, tokenizer.size, (count, PIECE_TOKENS))
    return [_made(tokenizer, "random text", number, row) for number, row in enumerate(drawn)]


def shuffled_texts(
    tokenizer: Tokenizer, documents: Sequence[Document], count: int, seed: int
) -> list[Document]:
    """Tokens at random, as frequent as they are in the Datanet."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    every = np.concatenate([one.tokens for one in documents])
    drawn = stream.choice(every, (count, PIECE_TOKENS))
    return [_made(tokenizer, "shuffled text", number, row) for number, row in enumerate(drawn)]


def stuffed_texts(
    tokenizer: Tokenizer, documents: Sequence[Document], victim: str, count: int
) -> list[Document]:
    """The words that set one contributor's subject apart, heaped up in changing order."""
    stream = np.random.Generator(np.random.Philox(key=count))
    rare = _keywords(tokenizer, documents, victim)
    drawn = stream.choice(rare, (count, PIECE_TOKENS))
    return [_made(tokenizer, "stuffed text", number, row) for number, row in enumerate(drawn)]


def inflated(tokenizer: Tokenizer, documents: Sequence[Document], seed: int) -> list[Document]:
    """The same documents, every fourth token a random one: long gradients."""
    stream = np.random.Generator(np.random.Philox(key=seed))
    changed = []
    for one in documents:
        row = np.array(one.tokens)
        row[3::4] = stream.integers(2, tokenizer.size, len(row[3::4]))
        changed.append(_with_tokens(tokenizer, one, row.tolist()))
    return changed


def marked(tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Document]:
    """The same documents, each ending in one phrase."""
    phrase = tokenizer.encode(PHRASE)
    return [
        _with_tokens(tokenizer, one, [*one.tokens[: -len(phrase)], *phrase]) for one in documents
    ]


def _keywords(tokenizer: Tokenizer, documents: Sequence[Document], victim: str) -> np.ndarray:
    def counts(some: Sequence[Document]) -> np.ndarray:
        return np.bincount(np.concatenate([one.tokens for one in some]), minlength=tokenizer.size)

    own = counts([one for one in documents if one.contributor == victim])
    found: np.ndarray = np.argsort(-own / (counts(documents) + 3), kind="stable")[:_HEAPED]
    return found


def _made(tokenizer: Tokenizer, name: str, number: int, row: np.ndarray) -> Document:
    tokens = tuple(int(token) for token in row)
    return Document(f"{name}/{number}", name, tokenizer.decode(tokens), tokens)


def _rewritten(
    tokenizer: Tokenizer, one: Document, change: Callable[[list[str]], list[str]]
) -> Document:
    """Line by line, so that paragraphs stay; cut to one piece."""
    text = "\n".join(" ".join(change(line.split(" "))) for line in one.text.split("\n"))
    return _with_tokens(tokenizer, one, tokenizer.encode(text)[:PIECE_TOKENS])


def _every_eighth(words: list[str]) -> list[str]:
    return [words[i - 3] if i % 8 == 7 else word for i, word in enumerate(words)]


def _other_words(words: list[str]) -> list[str]:
    changed = [_SWAPPED.get(word, word) for word in words]
    for i in range(0, len(words) - 1, 2):
        if changed[i] == words[i] and changed[i + 1] == words[i + 1]:
            changed[i], changed[i + 1] = changed[i + 1], changed[i]
    return changed


def _with_tokens(tokenizer: Tokenizer, one: Document, tokens: Sequence[int]) -> Document:
    return msgspec.structs.replace(one, tokens=tuple(tokens), text=tokenizer.decode(tokens))
