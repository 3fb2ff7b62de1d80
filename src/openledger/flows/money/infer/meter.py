"""Counts what each release answered since the start, for whoever watches the process.

Only releases that answered have counts, so there are never more than the home has released. What
was ever called, and what it earned, the receipts tell (operation `model.usage`).
"""

import threading
from collections.abc import Sequence

import msgspec

from openledger.settlement.price import MixMember


class Answered(msgspec.Struct, frozen=True):
    """What one release answered; a mix counts in full for each of its members."""

    answers: int = 0  # handed out, whole or in part
    mixed_answers: int = 0  # of them, those made with other releases
    input_tokens: int = 0
    output_tokens: int = 0


class Meter:
    """Counts answers; safe to share among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: dict[str, Answered] = {}

    def count(self, mix: Sequence[MixMember], input_tokens: int, output_tokens: int) -> None:
        """Count one answer for each member of the mix that made it."""
        with self._lock:
            for member in mix:
                has = self._answered.get(member.name, Answered())
                self._answered[member.name] = Answered(
                    answers=has.answers + 1,
                    mixed_answers=has.mixed_answers + (len(mix) > 1),
                    input_tokens=has.input_tokens + input_tokens,
                    output_tokens=has.output_tokens + output_tokens,
                )

    def answered(self) -> dict[str, Answered]:
        """By owner/name@version, as of now."""
        with self._lock:
            return dict(self._answered)
