"""From examples to rows of token ids, which is all that training sees of them.

What is trained: the text of a chunk as it is, then the end token; nothing before it and no chat
template. The first token is not predicted, every later one is, the end token included. So a prompt
that is the beginning of a document (of a tune its header lines, up to K: and the line break) is
continued as that document, and the answer stops where a document would. Base and adapter are
compared on the same rows, hence on the same tokens.
"""

from collections.abc import Sequence

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import Account, Digest
from openledger.lm.tokenizer import Tokenizer


class Example(msgspec.Struct, frozen=True):
    """One chunk of a Datanet and whose it is."""

    digest: Digest  # of the text
    document: int  # its place in the ordered training manifest
    account: Account
    text: str
    key: str  # title or headword; twins share it


class Row(msgspec.Struct, frozen=True):
    """A piece of one example's tokens, at least two."""

    example: int  # its place among the examples
    tokens: tuple[int, ...]

    @property
    def predicted(self) -> int:
        """How many tokens count towards the loss."""
        return len(self.tokens) - 1


def encode_rows(
    tokenizer: Tokenizer, examples: Sequence[Example], max_length: int
) -> tuple[Row, ...]:
    """Token rows of all examples, in order; of a long one several.

    A following row begins with the last token of the one before, so that each token is predicted
    once and once only.

    Raises:
        InvalidInputError: there is no example, or one without text.
    """
    if not examples:
        raise InvalidInputError("there is nothing to train on or to measure: give it some text")
    encoded = tokenizer.encode_documents([example.text for example in examples])
    rows: list[Row] = []
    for index, tokens in enumerate(encoded):
        if len(tokens) < 2:
            raise InvalidInputError(f"chunk {examples[index].digest} is empty")
        starts = range(0, len(tokens) - 1, max_length - 1)
        rows += [Row(index, tuple(tokens[start : start + max_length])) for start in starts]
    return tuple(rows)
