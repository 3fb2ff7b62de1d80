"""The adapters an engine knows: read once, counted while in use, evicted by bytes.

Reading happens on the thread that asks, never on the engine's. An adapter that is claimed stays
known, one that is held or pinned stays resident; an evicted one stays known and is read, and
checked, again when needed. Several are claimed and held together or not at all, so that no two
requests can wait for each other.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
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
    size_bytes: int = 0  # as last read
    claims: int = 0  # requests that name it
    holds: int = 0  # of these, those that it is resident for
    is_pinned: bool = False
    is_loading: bool = False
    is_leaving: bool = False


class AdapterStore(Generic[Loaded]):
    """Adapters by digest, within a budget of bytes; safe to call from any thread."""

    def __init__(
        self,
        read: Callable[[AdapterRef], Loaded],
        budget_bytes: int,
        unload_timeout_s: float,
        drop: Callable[[Loaded], None] = lambda _: None,
    ) -> None:
        """A store of nothing.

        Args:
            read: loads and checks one folder; it raises what `Engine.load` promises.
            budget_bytes: for all that is resident.
            unload_timeout_s: how long `unload` waits for the last user.
            drop: told of whatever was read and is not, or no more, resident; it must not wait.
        """
        self._read = read
        self._drop = drop
        self._budget_bytes = budget_bytes
        self._unload_timeout_s = unload_timeout_s
        self._entries: dict[Digest, _Entry[Loaded]] = {}
        self._idle: OrderedDict[Digest, None] = OrderedDict()  # may be evicted, the first first
        self._resident_bytes = 0
        self._changed = Condition()
        self.freed = 0  # grows when someone gave room back
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
        """Claim and hold one adapter; errors are those of `claim` and `hold`."""
        self.claim([digest])
        try:
            return self.hold([digest])[0]
        except BaseException:
            self.disclaim([digest])
            raise

    def release(self, digest: Digest) -> None:
        """Undo `acquire`."""
        self.let_go([digest])
        self.disclaim([digest])

    def claim(self, digests: Sequence[Digest]) -> None:
        """Keep adapters known; nothing is read.

        Raises:
            NotFoundError: one is not known, or is being unloaded.
        """
        with self._changed:
            for entry in [self._known(digest) for digest in digests]:
                entry.claims += 1

    def disclaim(self, digests: Sequence[Digest]) -> None:
        """Undo `claim`; the last claim on a leaving adapter frees it."""
        with self._changed:
            for digest in digests:
                entry = self._entries[digest]
                entry.claims -= 1
                self._drop_if_gone(entry)

    def hold(self, digests: Sequence[Digest]) -> tuple[Loaded, ...]:
        """Keep claimed adapters resident, reading those that are not; this may take its time.

        Raises:
            UnavailableError: everything resident is held; and what `read` raises.
            InvalidInputError: together they are larger than all the room there is.
        """
        held: list[Digest] = []
        try:
            adapters = []
            for digest in digests:
                adapters.append(self._hold(digest))
                held.append(digest)
            return tuple(adapters)
        except BaseException as error:
            self._let_go(held)
            if isinstance(error, UnavailableError):
                self._check_together(digests)
            raise

    def hold_resident(self, digests: Sequence[Digest]) -> tuple[Loaded, ...] | None:
        """Keep claimed adapters resident if they are; None: one is not. Never waits for a disk."""
        with self._changed:
            entries = [self._entries[digest] for digest in digests]
            adapters = tuple(one.adapter for one in entries if one.adapter is not None)
            if len(adapters) < len(entries):
                return None
            for entry in entries:
                self._note_hold(entry)
            self.counters.hits += len(entries)
            return adapters

    def let_go(self, digests: Sequence[Digest]) -> None:
        """Undo `hold`."""
        with self._changed:
            self._let_go(digests)
            self.freed += 1

    def knows(self, digest: Digest) -> bool:
        """Whether it was loaded and not unloaded since."""
        with self._changed:
            return digest in self._entries

    def residency(self) -> tuple[Residency, ...]:
        """Every known adapter, by digest."""
        with self._changed:
            return tuple(_residency(self._entries[digest]) for digest in sorted(self._entries))

    def resident_bytes(self) -> int:
        return self._resident_bytes

    def resident(self) -> int:
        """How many adapters are in memory."""
        with self._changed:
            return sum(entry.adapter is not None for entry in self._entries.values())

    def _hold(self, digest: Digest) -> Loaded:
        with self._changed:
            entry = self._entries.get(digest)
            if entry is None:
                raise NotFoundError(f"adapter {digest} was unloaded; load it first")
            self._note_hold(entry)  # before any wait: from here on it cannot be dropped
            self._changed.wait_for(lambda: not entry.is_loading)
            if entry.adapter is not None:
                self.counters.hits += 1
                return entry.adapter
            entry.is_loading = True
        try:
            return self._make_resident(entry)
        except BaseException:
            self._let_go([digest])
            raise
        finally:
            with self._changed:
                entry.is_loading = False
                self._changed.notify_all()

    def _make_resident(self, entry: _Entry[Loaded]) -> Loaded:
        started = time.monotonic()
        adapter = self._read(entry.ref)
        with self._changed:
            entry.size_bytes = adapter.size_bytes
            try:
                self._make_room(entry.ref.digest, adapter.size_bytes)
            except BaseException:
                self._drop(adapter)
                raise
            entry.adapter = adapter
            self._resident_bytes += adapter.size_bytes
            self.counters.loads += 1
            self.counters.load_s += time.monotonic() - started
        return adapter

    def _make_room(self, digest: Digest, size_bytes: int) -> None:
        if size_bytes > self._budget_bytes:
            raise InvalidInputError(
                f"adapter {digest} takes {size_bytes} bytes and the engine keeps "
                f"{self._budget_bytes} for all; raise models.adapter_mb"
            )
        while self._resident_bytes + size_bytes > self._budget_bytes:
            if not self._idle:
                raise UnavailableError(
                    "every resident adapter is in use or pinned; try again", retry_after_s="1"
                )
            oldest, _ = self._idle.popitem(last=False)
            self._evict(self._entries[oldest])
            self.counters.evictions += 1

    def _check_together(self, digests: Sequence[Digest]) -> None:
        """Nobody is to wait, or to hold others up, for room that can never be."""
        with self._changed:
            total = sum(self._entries[digest].size_bytes for digest in digests)
        if total > self._budget_bytes:
            raise InvalidInputError(
                f"the {len(digests)} adapters take {total} bytes together and the engine keeps "
                f"{self._budget_bytes} for all; take fewer, or raise models.adapter_mb"
            )

    def _evict(self, entry: _Entry[Loaded]) -> None:
        assert entry.adapter is not None
        self._resident_bytes -= entry.adapter.size_bytes
        self._drop(entry.adapter)
        entry.adapter = None

    def _note_hold(self, entry: _Entry[Loaded]) -> None:
        entry.holds += 1
        self._idle.pop(entry.ref.digest, None)

    def _let_go(self, digests: Sequence[Digest]) -> None:
        with self._changed:
            for digest in digests:
                entry = self._entries[digest]
                entry.holds -= 1
                if not entry.holds and not entry.is_pinned and entry.adapter is not None:
                    self._idle[digest] = None
                self._drop_if_gone(entry)

    def _known(self, digest: Digest) -> _Entry[Loaded]:
        entry = self._entries.get(digest)
        if entry is None or entry.is_leaving:
            raise NotFoundError(f"adapter {digest} is not loaded; load it first")
        return entry

    def _drop_if_gone(self, entry: _Entry[Loaded]) -> None:
        if entry.is_leaving and not entry.claims and not entry.holds:
            self._entries.pop(entry.ref.digest, None)
            self._idle.pop(entry.ref.digest, None)
            if entry.adapter is not None:
                self._evict(entry)
            self.freed += 1
        self._changed.notify_all()

    def _await_gone(self, digest: Digest, *, only_if_leaving: bool = False) -> None:
        entry = self._entries.get(digest)
        if entry is None or (only_if_leaving and not entry.is_leaving):
            return
        if not self._changed.wait_for(
            lambda: self._entries.get(digest) is not entry, self._unload_timeout_s
        ):
            raise UnavailableError(
                f"adapter {digest} is still in use by {entry.claims} requests; try again"
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
        references=entry.claims,
        is_pinned=entry.is_pinned,
    )
