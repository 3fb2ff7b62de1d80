"""Which mixes stand on the shelf as one adapter each, and who uses them.

A mix is made when it is first asked for and kept for the next time, up to a number of mixes; beyond
it the longest unused goes, from the server and from the shelf.
"""

from collections import OrderedDict
from contextlib import suppress
from threading import Lock

from openledger.core.errors import NotFoundError
from openledger.core.types import Digest
from openledger.serving.adapters import AdapterStore
from openledger.serving.engine import AdapterRef
from openledger.serving.request import MixMember
from openledger.serving.vllm.shelf import Shelf, Shelved, mix_digest

_KEPT = 64

Members = tuple[MixMember, ...]


class Mixes:
    """Safe to call from any thread; `acquire` may take its time."""

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
