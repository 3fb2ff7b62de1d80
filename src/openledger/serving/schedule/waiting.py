"""The requests that wait for a place: in which order they are tried, and who may go first.

One that cannot begin yet, for want of KV blocks or because its adapters are not in memory, is
passed by others that can; but only for so long, then everything waits until it has what it needs.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic

import msgspec

from openledger.core.errors import EngineFaultError, OpenLedgerError
from openledger.core.types import Digest
from openledger.serving.adapters import AdapterStore
from openledger.serving.batch import Loaded, Weighted
from openledger.serving.schedule.fairness import TokenCounters
from openledger.serving.schedule.sequence import Sequence


class Queue(Generic[Loaded]):
    """The waiting requests, in order of arrival."""

    def __init__(self, counters: TokenCounters, skip_limit_s: float) -> None:
        self._counters = counters
        self._skip_limit_s = skip_limit_s
        self._waiting: list[Sequence[Loaded]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Sequence[Loaded]]:
        return iter(self._waiting)

    def add(self, sequence: Sequence[Loaded]) -> None:
        self._waiting.append(sequence)

    def drop(self, sequence: Sequence[Loaded]) -> None:
        """It began or ended; one that does not wait is no error."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)

    def in_turn(self, now_s: float) -> list[Sequence[Loaded]]:
        """Those passed by for too long, then by the tenants' counters, then by arrival."""
        return sorted(
            self._waiting,
            key=lambda one: (
                not self._is_overdue(one, now_s),
                self._counters.spent(one.request.tenant),
            ),
        )

    def pass_by(self, sequence: Sequence[Loaded], now_s: float) -> bool:
        """Its turn came and it cannot begin; whether others still may."""
        if sequence.passed_since_s is None:
            sequence.passed_since_s = now_s
        return not self._is_overdue(sequence, now_s)

    def _is_overdue(self, sequence: Sequence[Loaded], now_s: float) -> bool:
        since_s = sequence.passed_since_s
        return since_s is not None and now_s - since_s >= self._skip_limit_s


class Reading(msgspec.Struct, Generic[Loaded], frozen=True):
    """What came of getting a request's adapters into memory."""

    mix: tuple[Weighted[Loaded], ...] | None
    error: OpenLedgerError | None  # why there is none
    freed: int  # `AdapterStore.freed` before it began
    seconds: float


class Reader(Generic[Loaded]):
    """Gets the adapters of requests into memory: one thread, so that no two get half each."""

    def __init__(
        self,
        store: AdapterStore[Loaded],
        done: Callable[[Sequence[Loaded], Reading[Loaded]], None],
    ) -> None:
        """`done` is called on the reader's thread."""
        self._store = store
        self._done = done
        self._thread = ThreadPoolExecutor(1, "openledger-adapters")

    def has(self, sequence: Sequence[Loaded]) -> bool:
        """Whether its adapters are held; if not, reading them has begun, or waits for room."""
        if sequence.mix is not None:
            return True
        if sequence.is_reading or sequence.refused_at == self._store.freed:
            return False
        adapters = self._store.hold_resident(_needed(sequence))
        if adapters is None:
            sequence.is_reading = True
            self._thread.submit(self._read, sequence)
            return False
        sequence.mix = _weighted(sequence, adapters)
        return True

    def give_up(self, sequence: Sequence[Loaded]) -> None:
        """Hold them no longer."""
        if sequence.mix:
            self._store.let_go(_needed(sequence))
        sequence.mix = None

    def close(self) -> None:
        """Wait for the reading under way and do no other."""
        self._thread.shutdown(cancel_futures=True)

    def _read(self, sequence: Sequence[Loaded]) -> None:
        started, freed = time.perf_counter(), self._store.freed
        mix: tuple[Weighted[Loaded], ...] | None = None
        error: OpenLedgerError | None = None
        try:
            mix = _weighted(sequence, self._store.hold(_needed(sequence)))
        except OpenLedgerError as cause:
            error = cause
        except Exception as cause:  # noqa: BLE001 - whatever broke, it ends this request alone
            error = EngineFaultError(
                f"an adapter of request {sequence.request.id} could not be read "
                f"({type(cause).__name__}); it costs nothing, try again"
            )
            error.__cause__ = cause
        self._done(sequence, Reading(mix, error, freed, time.perf_counter() - started))


def _needed(sequence: Sequence[Loaded]) -> list[Digest]:
    return [member.adapter for member in sequence.members]


def _weighted(
    sequence: Sequence[Loaded], adapters: tuple[Loaded, ...]
) -> tuple[Weighted[Loaded], ...]:
    pairs = zip(sequence.members, adapters, strict=True)
    return tuple(Weighted(adapter, member.weight) for member, adapter in pairs)
