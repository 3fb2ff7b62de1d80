"""Tokens become text one at a time: whole characters only, and nothing past a stop string.

Both classes hold back what may still change: a character whose bytes have not all come, a tail that
may grow into a stop string. What they gave out is never taken back.
"""

import codecs
from collections.abc import Sequence

from openledger.core.errors import InvalidInputError
from openledger.lm.tokenizer import Tokenizer


class Detokenizer:
    """The text of a growing answer.

    Invariant: all pieces together are `tokenizer.decode` of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that this token completes; often one word, sometimes none."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left: U+FFFD for bytes that never became a character."""
        return self._decoder.decode(b"", final=True)


class StopScanner:
    """Cuts a growing text before the first stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise InvalidInputError("a stop string may not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.is_stopped = False

    def push(self, piece: str) -> str:
        """The text that is now certain to stand before any stop string."""
        if self.is_stopped:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.is_stopped, self._held = True, ""
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The held text, when the answer ended without completing a stop string."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The longest tail of `text` that begins `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
