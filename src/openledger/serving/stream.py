"""A bounded buffer between the engine's thread and the one reader of what it makes.

The engine never waits: it asks `has_room` before a step and leaves a slow reader's sequence out.
"""

from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from openledger.core.errors import EngineFaultError, OpenLedgerError
from openledger.serving.request import Token, Usage

Item = TypeVar("Item")


class ItemStream(Generic[Item]):
    """What a request is given, on its way; the reader's half is `engine.Stream`."""

    def __init__(
        self, request_id: str, capacity: int, patience_s: float, cancel: Callable[[str], None]
    ) -> None:
        """`patience_s` is how long a reader waits for an engine that gives no sign at all."""
        self._request_id = request_id
        self._capacity = capacity
        self._patience_s = patience_s
        self._cancel = cancel
        self._items: deque[Item] = deque()
        self._usage: Usage | None = None
        self._error: OpenLedgerError | None = None
        self._is_cancelled = False
        self._changed = Condition()

    @property
    def request_id(self) -> str:
        return self._request_id

    def __iter__(self) -> "ItemStream[Item]":
        return self

    def __next__(self) -> Item:
        with self._changed:
            if self._is_cancelled:
                raise StopIteration
            if not self._changed.wait_for(lambda: self._items or self._usage, self._patience_s):
                raise self._silence()
            if self._items:
                return self._items.popleft()
            if self._error is not None:
                raise self._error
            raise StopIteration

    def cancel(self) -> None:
        with self._changed:
            self._is_cancelled = True
            self._items.clear()
        self._cancel(self._request_id)

    def usage(self) -> Usage:
        with self._changed:
            usage = self._changed.wait_for(lambda: self._usage, self._patience_s)
            if usage is None:
                raise self._silence()
            return usage

    def has_room(self) -> bool:
        """Whether one more fits."""
        return len(self._items) < self._capacity

    def put(self, item: Item) -> None:
        """Hand one over; only the engine calls it, after `has_room`."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def end(self, usage: Usage, error: OpenLedgerError | None = None) -> None:
        """Close the stream; only the engine calls it, once."""
        with self._changed:
            self._usage = usage
            self._error = error
            self._changed.notify_all()

    def _silence(self) -> EngineFaultError:
        return EngineFaultError(
            f"the engine gave no sign of request {self._request_id} in {self._patience_s:g} "
            "seconds; it costs nothing, try again"
        )


TokenStream = ItemStream[Token]
VectorStream = ItemStream[NDArray[np.float32]]  # of one (D,) vector
