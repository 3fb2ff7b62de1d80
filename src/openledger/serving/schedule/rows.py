"""The rows of a step: what each sequence feeds, and what comes of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic

from openledger.core.errors import EngineFaultError, OpenLedgerError
from openledger.serving.batch import Chunk, Loaded
from openledger.serving.request import Finish
from openledger.serving.schedule.sequence import Found, Sequence


@dataclass(frozen=True)
class Row(Generic[Loaded]):
    """One sequence's part in a step."""

    sequence: Sequence[Loaded]
    chunk: Chunk[Loaded]


@dataclass(frozen=True)
class End(Generic[Loaded]):
    """How a sequence ends."""

    sequence: Sequence[Loaded]
    finish: Finish
    error: OpenLedgerError | None = None


def plan(
    active: Iterable[Sequence[Loaded]], step_tokens: int, prefill_chunk: int, block_tokens: int
) -> list[Row[Loaded]]:
    """Answers first, then prompts in order of admission, within the step's budget of tokens."""
    awake = [one for one in active if one.paused_since_s is None]
    rows: list[Row[Loaded]] = []
    left = step_tokens
    for sequence in sorted(awake, key=lambda one: one.left > 1):
        chunk = sequence.chunk(min(left, prefill_chunk), block_tokens)
        if chunk is not None:
            rows.append(Row(sequence, chunk))
            left -= len(chunk.token_ids)
    return rows


def take(row: Row[Loaded], found: Found | Exception) -> End[Loaded] | None:
    """Give a sequence what the step made of its row; its end, if that was the last of it."""
    cause: Exception
    if isinstance(found, Exception):
        cause = found
    else:
        try:
            finish = row.sequence.take(row.chunk, found)
        except Exception as error:  # noqa: BLE001 - whatever broke, it ends this sequence alone
            cause = error
        else:
            return None if finish is None else End(row.sequence, finish)
    fault = EngineFaultError(
        f"request {row.sequence.request.id} broke inside the engine "
        f"({type(cause).__name__}); it costs nothing, try again"
    )
    fault.__cause__ = cause
    return End(row.sequence, Finish.FAULT, fault)
