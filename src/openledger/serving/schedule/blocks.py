"""Blocks of the KV cache: who uses them, and what the full ones hold.

A full block is named by everything that its keys and values depend on: the mix, and all tokens up
to its end; and by whose prompt it is, so that nobody can find out what others asked. It is never
written again. When its last user ends it stays as a prefix for others, until the room is needed.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import NewType

from openledger.core.errors import InvalidInputError
from openledger.serving.batch import Loaded, Runner
from openledger.serving.engine import Config
from openledger.serving.request import MixMember

_SPARE = 2  # KV caches of full context for each place; more would hold prefixes only

Key = NewType("Key", bytes)


def root_key(tenant: str, mix: Iterable[MixMember]) -> Key:
    """The name of an empty prefix; the order of a mix counts, since sums round differently."""
    members = [(str(member.adapter), float(member.weight).hex()) for member in mix]
    return Key(sha256(repr((tenant, members)).encode()).digest())


def next_key(key: Key, token_ids: Sequence[int]) -> Key:
    """The name of a block that holds these tokens after the prefix `key`."""
    return Key(sha256(key + array("q", token_ids).tobytes()).digest())


class BlockPool:
    """All blocks; a table that was opened never lacks one later. Not safe to share by threads."""

    def __init__(self, count: int, block_tokens: int) -> None:
        self.count = count
        self.block_tokens = block_tokens
        self._free = list(range(count - 1, -1, -1))
        self._users: Counter[int] = Counter()
        self._promised = 0  # to open tables, not allocated yet
        self._keys: dict[int, Key] = {}  # of the full blocks, as far as they are the first
        self._blocks: dict[Key, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # full, unused; the first goes first

    @property
    def used(self) -> int:
        """Blocks of open tables."""
        return len(self._users)

    @property
    def idle(self) -> int:
        """Blocks kept for their contents only."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that a new table could be promised."""
        return len(self._free) + len(self._idle) - self._promised

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold so many tokens."""
        return -(-tokens // self.block_tokens)

    def open(
        self, root: Key | None, token_ids: Sequence[int], most_tokens: int
    ) -> "BlockTable | None":
        """A table for a prompt and what comes after it, `most_tokens` in all; None: no room now.

        The table begins with the blocks that already hold the prompt's beginning. Without a root
        it shares none, then or later.
        """
        most = self.blocks_for(most_tokens)
        found = [] if root is None else self.match(root, token_ids)
        shared = sum(self._users[block] > 0 for block in found)
        if most - shared > self.available:
            return None
        table = BlockTable(self, root, most)
        table.reuse(token_ids)
        return table

    def match(self, key: Key, token_ids: Sequence[int]) -> list[int]:
        """The blocks that hold the beginning of `token_ids`, whose last token is never among it.

        The logits after the last token are wanted, so it must be fed in any case.
        """
        found: list[int] = []
        for start in range(0, len(token_ids) - self.block_tokens, self.block_tokens):
            key = next_key(key, token_ids[start : start + self.block_tokens])
            block = self._blocks.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def promise(self, count: int) -> None:
        """Keep room for blocks that are allocated later; a negative count gives it back."""
        self._promised += count

    def allocate(self) -> int:
        """A block to write to, out of what was promised."""
        self._promised -= 1
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._blocks[self._keys.pop(block)]
        self._users[block] += 1
        return block

    def take(self, block: int) -> None:
        """Use a full block that another wrote, out of what was promised."""
        self._promised -= 1
        self._users[block] += 1
        self._idle.pop(block, None)

    def publish(self, block: int, key: Key) -> None:
        """Say what a full block holds; of two that hold the same the first is found."""
        if key not in self._blocks:
            self._blocks[key] = block
            self._keys[block] = key

    def release(self, block: int) -> None:
        """One user less."""
        self._users[block] -= 1
        if self._users[block]:
            return
        del self._users[block]
        if block in self._keys:
            self._idle[block] = None
        else:
            self._free.append(block)


class BlockTable:
    """The blocks of one sequence, in order of position."""

    def __init__(self, pool: BlockPool, root: Key | None, most: int) -> None:
        """`most` is how many blocks it may come to hold."""
        self._pool = pool
        self._left = most  # promised, not yet held
        self._blocks: list[int] = []
        self._key = root  # of the full blocks so far; None: they are nobody else's
        self._tail: list[int] = []  # tokens after them
        self.tokens = 0  # in the cache
        self.reused = 0  # of these, found there
        pool.promise(most)

    def reuse(self, token_ids: Sequence[int]) -> None:
        """Take over blocks that hold what is to be fed next; `token_ids` is all of it."""
        if self._key is None or self._tail:
            return
        assert len(self._blocks) * self._pool.block_tokens == self.tokens
        size = self._pool.block_tokens
        for place, block in enumerate(self._pool.match(self._key, token_ids)):
            self._pool.take(block)
            self._left -= 1
            self._blocks.append(block)
            self._key = next_key(self._key, token_ids[place * size : (place + 1) * size])
            self.tokens += size
            self.reused += size

    def grow(self, count: int) -> tuple[int, ...]:
        """All blocks, with room for `count` tokens more."""
        while len(self._blocks) < self._pool.blocks_for(self.tokens + count):
            assert self._left > 0
            self._blocks.append(self._pool.allocate())
            self._left -= 1
        return tuple(self._blocks)

    def written(self, token_ids: Sequence[int]) -> None:
        """These tokens are in the cache now, after those before; what is full others may use."""
        size = self._pool.block_tokens
        self.tokens += len(token_ids)
        if self._key is None:
            return
        self._tail += token_ids
        while len(self._tail) >= size:
            self._key = next_key(self._key, self._tail[:size])
            del self._tail[:size]
            full = (self.tokens - len(self._tail)) // size
            self._pool.publish(self._blocks[full - 1], self._key)

    def close(self) -> None:
        """Let all blocks go, the last first: a prefix is of no use without its beginning."""
        for block in reversed(self._blocks):
            self._pool.release(block)
        self._pool.promise(-self._left)
        self._blocks.clear()
        self._left = 0


def count_blocks(runner: Runner[Loaded], config: Config, context: int) -> int:
    """As many as the memory holds; no more than could ever be of use.

    Raises:
        InvalidInputError: the configuration leaves no room to work in.
    """
    size = runner.block_tokens
    if config.prefill_chunk < size or config.step_tokens < config.max_active + size:
        raise InvalidInputError(
            f"a step of {config.step_tokens} tokens, {config.prefill_chunk} of one prompt, leaves "
            f"no room for a block of {size} beside {config.max_active} answers; raise step_tokens"
        )
    one = -(-context // runner.block_tokens)
    count = min(config.kv_bytes // runner.block_bytes, _SPARE * config.max_active * one)
    if count < one:
        raise InvalidInputError(
            f"the KV cache of {config.kv_bytes} bytes holds {count * runner.block_tokens} tokens "
            f"and one request may have {context}; raise models.kv_mb"
        )
    return count
