"""What is compared: each makes so many tokens for a batch of prompts, greedily."""

from typing import Protocol

import msgspec


class Cell(msgspec.Struct, frozen=True, order=True):
    """One place of the grid."""

    rows: int  # B
    adapters: int  # N different ones; 0: the base alone

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"B{self.rows}N{self.adapters}"


class Cost(msgspec.Struct, frozen=True):
    """CPU time of one run."""

    whole_s: float
    decode_s: float | None  # without the prompts; None: not told apart
    clock_s: float | None = None  # by the clock, as who asked saw it; None: nobody looked


class Contender(Protocol):
    """An engine of the bench."""

    @property
    def name(self) -> str: ...

    def can(self, cell: Cell) -> bool:
        """Whether it has a way to serve this cell."""
        ...

    def run(self, cell: Cell, tokens: int) -> Cost:
        """Answer the first prompts with so many tokens each."""
        ...
