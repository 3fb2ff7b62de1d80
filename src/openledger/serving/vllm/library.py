"""The adapters that a vLLM server was told of: single ones, and mixes made into one.

A mix is made when it is first asked for and kept for the next time, up to a number of mixes; beyond
it the longest unused goes, from the server and from the shelf.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock

from openledger.core.errors import NotFoundError
from openledger.core.types import Digest
from openledger.serving.adapters import AdapterStore, Counters
from openledger.serving.engine import AdapterRef, Config, Residency
from openledger.serving.request import MixMember
from openledger.serving.vllm.shelf import Shelf, Shelved, mix_digest

_KEPT = 64  # mixes

Members = tuple[MixMember, ...]


class Library:
    """Safe to call from any thread; what reads adapters may take its time."""

    def __init__(
        self,
        shelf: Shelf,
        config: Config,
        tell: Callable[[Digest, str], None],
        drop: Callable[[Digest], None],
    ) -> None:
        """A library of nothing.

        Args:
            shelf: where adapters are written for the server.
            config: for the bytes of all that the server was told of, and how long to wait.
            tell: has the server read what lies at that path; errors are those of `Engine.load`.
            drop: has the server forget one, some time; it must not wait.
        """
        self._shelf = shelf
        self._tell = tell
        self._mixes = Mixes(shelf)
        self._ranks: dict[Digest, int] = {}  # of what was loaded
        self._store: AdapterStore[Shelved] = AdapterStore(
            self._read,
            config.adapter_bytes,
            config.unload_timeout_s,
            lambda shelved: drop(shelved.digest),
        )

    @property
    def counters(self) -> Counters:
        return self._store.counters

    @property
    def resident(self) -> int:
        """How many adapters the server was told of, mixes included."""
        return self._store.resident()

    @property
    def resident_bytes(self) -> int:
        return self._store.resident_bytes()

    def load(self, ref: AdapterRef, *, is_pinned: bool) -> Residency:
        """See `Engine.load`."""
        return self._store.load(ref, pin=is_pinned)

    def unload(self, adapter: Digest) -> None:
        """See `Engine.unload`."""
        self._store.unload(adapter)
        self._shelf.remove(adapter, lambda: self._store.knows(adapter))

    def residency(self) -> tuple[Residency, ...]:
        """What was loaded; mixes come and go by themselves."""
        return tuple(one for one in self._store.residency() if one.digest not in self._mixes)

    def claim(self, named: Sequence[Digest], members: Sequence[MixMember]) -> None:
        """Keep all that a request names known, if the server can serve its members together.

        Raises:
            NotFoundError: one is not known, or is being unloaded.
            InvalidInputError: their ranks add up to more than the server takes.
        """
        self._store.claim(named)
        try:
            self._shelf.check_rank(sum(self._ranks.get(one.adapter, 0) for one in members))
        except BaseException:
            self._store.disclaim(named)
            raise

    def disclaim(self, named: Sequence[Digest]) -> None:
        """Undo `claim`."""
        self._store.disclaim(named)

    def hold(self, members: tuple[MixMember, ...]) -> Digest:
        """Have the server know what answers, one adapter or a mix of any number; by which name."""
        if len(members) == 1 and members[0].weight == 1:
            self._store.hold([members[0].adapter])
            return members[0].adapter
        return self._mixes.acquire(self._store, members)

    def let_go(self, name: Digest) -> None:
        """Undo `hold`."""
        if name in self._mixes:
            self._mixes.release(self._store, name)
        else:
            self._store.let_go([name])

    def seen(self, name: Digest) -> str:
        """Where the server finds what it knows by this name."""
        return self._shelf.seen(name, is_mix=name in self._mixes)

    def _read(self, ref: AdapterRef) -> Shelved:
        is_mix = ref.digest in self._mixes
        shelved = self._mixes.make(ref.digest) if is_mix else self._shelf.ingest(ref)
        self._tell(ref.digest, self.seen(ref.digest))
        if not is_mix:
            self._ranks[ref.digest] = shelved.rank
        return shelved


class Mixes:
    """Which mixes stand on the shelf, and how many use each; `acquire` may take its time."""

    def __init__(self, shelf: Shelf, kept: int = _KEPT) -> None:
        """So many mixes are kept; more only while they are all in use."""
        self._shelf = shelf
        self._kept = kept
        self._members: OrderedDict[Digest, Members] = OrderedDict()  # the longest unused first
        self._users: dict[Digest, int] = {}
        self._lock = Lock()

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._members

    def make(self, digest: Digest) -> Shelved:
        """Write a mix that is being acquired; errors are those of `Shelf.make`."""
        return self._shelf.make(digest, self._members[digest])

    def acquire(self, store: AdapterStore[Shelved], members: Members) -> Digest:
        """Make a mix resident and keep it so; errors are those of `AdapterStore.load`."""
        digest = mix_digest(members)
        with self._lock:
            self._members[digest] = members
            self._members.move_to_end(digest)
            self._users[digest] = self._users.get(digest, 0) + 1
        try:
            store.load(AdapterRef(digest, self._shelf.path(digest)))
            store.acquire(digest)
        except BaseException:
            self._leave(store, digest, is_made=False)
            raise
        return digest

    def release(self, store: AdapterStore[Shelved], digest: Digest) -> None:
        """Undo `acquire`."""
        store.release(digest)
        self._leave(store, digest, is_made=True)

    def _leave(self, store: AdapterStore[Shelved], digest: Digest, *, is_made: bool) -> None:
        with self._lock:
            self._users[digest] -= 1
            if not self._users[digest]:
                del self._users[digest]
                if not is_made:
                    self._forget(store, digest)
            idle = [one for one in self._members if one not in self._users]
            for old in idle[: max(0, len(self._members) - self._kept)]:
                self._forget(store, old)

    def _forget(self, store: AdapterStore[Shelved], digest: Digest) -> None:
        del self._members[digest]
        with suppress(NotFoundError):  # it was never made
            store.unload(digest)  # at once: nobody uses it
        self._shelf.remove_mix(digest)
