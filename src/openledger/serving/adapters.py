"""The adapters an engine knows: read once, counted while in use, evicted by bytes.

Reading happens on the thread that asks, never on the engine's. An adapter in use or pinned is
never evicted; an evicted one stays known and is read, and checked, again when needed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition
from typing import Generic, Protocol, TypeVar

from openledger.core.errors import InvalidInputError, NotFoundError, UnavailableError
from openledger.core.types import Digest
from openledger.serving.engine import AdapterRef, Residency, Tier


class Adapter(Protocol):
    """What a runner made of an adapter's folder."""

    @property
    def rank(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...


Loaded = TypeVar("Loaded", bound=Adapter)


@dataclass
class Counters:
    """What a store did since it was made."""

    loads: int = 0
    hits: int = 0
    evictions: int = 0
    load_s: float = 0.0


@dataclass
class _Entry(Generic[Loaded]):
    ref: AdapterRef
    adapter: Loaded | None = None  # None: not resident
    references: int = 0
    is_pinned: bool = False
    is_loading: bool = False
    is_leaving: bool = False
    last_turn: int = 0


class AdapterStore(Generic[Loaded]):
    """Adapters by digest, within a budget of bytes; safe to call from any thread."""

    def __init__(
        self, read: Callable[[AdapterRef], Loaded], budget_bytes: int, unload_timeout_s: float
    ) -> None:
        """`read` loads and checks one folder; it raises what `Engine.load` promises."""
        self._read = read
        self._budget_bytes = budget_bytes
        self._unload_timeout_s = unload_timeout_s
        self._entries: dict[Digest, _Entry[Loaded]] = {}
        self._turn = 0  # orders uses for eviction
        self._changed = Condition()
        self.counters = Counters()

    def load(self, ref: AdapterRef, *, pin: bool = False) -> Residency:
        """See `Engine.load`."""
        with self._changed:
            self._await_gone(ref.digest, only_if_leaving=True)
            is_new = ref.digest not in self._entries
            entry = self._entries.setdefault(ref.digest, _Entry(ref))
            entry.ref = ref  # the folder may have moved
        try:
            self.acquire(ref.digest)
        except BaseException:
            if is_new:
                self._forget_broken(entry)
            raise
        with self._changed:
            entry.is_pinned = entry.is_pinned or pin
            self.release(ref.digest)
            return _residency(entry)

    def unload(self, digest: Digest) -> None:
        """See `Engine.unload`."""
        with self._changed:
            entry = self._known(digest)
            entry.is_leaving = True
            self._drop_if_gone(entry)
            self._await_gone(digest)

    def acquire(self, digest: Digest) -> Loaded:
        """Take a reference, reading the adapter first if it is not resident.

        Raises:
            NotFoundError: it is not known, or is being unloaded.
            UnavailableError: everything resident is in use; and what `read` raises.
        """
        with self._changed:
            entry = self._known(digest)
            entry.references += 1  # before any wait: it cannot be dropped from here on
            self._changed.wait_for(lambda: not entry.is_loading)
            if entry.adapter is not None:
                self.counters.hits += 1
                return entry.adapter
            entry.is_loading = True
        try:
            return self._make_resident(entry)
        except BaseException:
            self.release(digest)
            raise
        finally:
            with self._changed:
                entry.is_loading = False
                self._changed.notify_all()

    def release(self, digest: Digest) -> None:
        """Give a reference back; the last one of a leaving adapter frees it."""
        with self._changed:
            entry = self._entries[digest]
            entry.references -= 1
            self._turn += 1
            entry.last_turn = self._turn
            self._drop_if_gone(entry)

    def residency(self) -> tuple[Residency, ...]:
        """Every known adapter, by digest."""
        with self._changed:
            return tuple(_residency(self._entries[digest]) for digest in sorted(self._entries))

    def resident_bytes(self) -> int:
        with self._changed:
            return sum(e.adapter.size_bytes for e in self._entries.values() if e.adapter)

    def _make_resident(self, entry: _Entry[Loaded]) -> Loaded:
        started = time.monotonic()
        adapter = self._read(entry.ref)
        with self._changed:
            self._make_room(entry.ref.digest, adapter.size_bytes)
            entry.adapter = adapter
            self.counters.loads += 1
            self.counters.load_s += time.monotonic() - started
        return adapter

    def _make_room(self, digest: Digest, size_bytes: int) -> None:
        if size_bytes > self._budget_bytes:
            raise InvalidInputError(
                f"adapter {digest} takes {size_bytes} bytes and the engine keeps "
                f"{self._budget_bytes} for all; raise serving.adapter_bytes"
            )
        idle = [e for e in self._entries.values() if e.adapter and not e.references]
        idle = sorted((e for e in idle if not e.is_pinned), key=lambda e: e.last_turn)
        while self.resident_bytes() + size_bytes > self._budget_bytes:
            if not idle:
                raise UnavailableError(
                    "every resident adapter is in use or pinned; try again", retry_after_s="1"
                )
            idle.pop(0).adapter = None
            self.counters.evictions += 1

    def _known(self, digest: Digest) -> _Entry[Loaded]:
        entry = self._entries.get(digest)
        if entry is None or entry.is_leaving:
            raise NotFoundError(f"adapter {digest} is not loaded; load it first")
        return entry

    def _drop_if_gone(self, entry: _Entry[Loaded]) -> None:
        if entry.is_leaving and not entry.references:
            self._entries.pop(entry.ref.digest, None)
        self._changed.notify_all()

    def _await_gone(self, digest: Digest, *, only_if_leaving: bool = False) -> None:
        entry = self._entries.get(digest)
        if entry is None or (only_if_leaving and not entry.is_leaving):
            return
        if not self._changed.wait_for(
            lambda: self._entries.get(digest) is not entry, self._unload_timeout_s
        ):
            raise UnavailableError(
                f"adapter {digest} is still in use by {entry.references} requests; try again"
            )

    def _forget_broken(self, entry: _Entry[Loaded]) -> None:
        with self._changed:
            entry.is_leaving = True
            self._drop_if_gone(entry)


def _residency(entry: _Entry[Loaded]) -> Residency:
    adapter = entry.adapter
    return Residency(
        digest=entry.ref.digest,
        tier=Tier.RAM if adapter else Tier.DISK,
        rank=adapter.rank if adapter else None,
        size_bytes=adapter.size_bytes if adapter else 0,
        references=entry.references,
        is_pinned=entry.is_pinned,
    )
