from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from openledger.core.types import Digest
from openledger.serving.request import MixMember
from openledger.serving.schedule.blocks import BlockPool, BlockTable, Key, next_key, root_key

SIZE = 4
COUNT = 12
ROOTS = [root_key("alice", ()), root_key("bob", ()), root_key("alice", [MixMember(Digest("a"), 1)])]


def opened(
    pool: BlockPool, tokens: Sequence[int], most: int, root: Key | None = ROOTS[0]
) -> BlockTable:
    table = pool.open(root, tokens, most)
    assert table is not None
    return table


def fill(table: BlockTable, tokens: Sequence[int]) -> tuple[int, ...]:
    fresh = tokens[table.tokens :]
    blocks = table.grow(len(fresh))
    table.written(fresh)
    return blocks


class Open:
    """A table under test, with all that is to be fed."""

    def __init__(self, table: BlockTable, root: Key, tokens: list[int], most: int) -> None:
        self.table = table
        self.root = root
        self.tokens = tokens
        self.most = most
        self.blocks: tuple[int, ...] = ()


class Blocks(RuleBasedStateMachine):
    """Sequences open, feed and close in any order; `held` is what a real cache would hold."""

    tables = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(COUNT, SIZE)
        self.held: dict[tuple[int, int], tuple[Key, tuple[int, ...]]] = {}  # by block and offset
        self.open: list[Open] = []

    @rule(
        target=tables,
        root=st.sampled_from(ROOTS),
        tokens=st.lists(st.integers(0, 1), min_size=1, max_size=3 * SIZE),
        more=st.integers(0, 2 * SIZE),
    )
    def begin(self, root: Key, tokens: list[int], more: int) -> Open | None:
        most = len(tokens) + more
        available = self.pool.available
        table = self.pool.open(root, tokens, most)
        if table is None:
            assert -(-most // SIZE) > available
            return None
        one = Open(table, root, tokens, most)
        self.open.append(one)
        one.blocks = table.grow(0)
        assert table.tokens < len(tokens)
        self._check(one)
        return one

    @rule(one=tables, count=st.integers(1, 2 * SIZE), token=st.integers(0, 1))
    def feed(self, one: Open | None, count: int, token: int) -> None:
        if one is None or one not in self.open:
            return
        one.table.reuse(one.tokens[one.table.tokens :])
        if one.table.tokens == len(one.tokens) < one.most:
            one.tokens.append(token)
        fresh = one.tokens[one.table.tokens :][:count]
        start = one.table.tokens
        one.blocks = one.table.grow(len(fresh))
        for position in range(start, start + len(fresh)):
            place = one.blocks[position // SIZE], position % SIZE
            self.held[place] = (one.root, tuple(one.tokens[: position + 1]))
        one.table.written(fresh)
        self._check(one)

    @rule(one=consumes(tables))
    def end(self, one: Open | None) -> None:
        if one is not None and one in self.open:
            self._check(one)
            one.table.close()
            self.open.remove(one)

    def _check(self, one: Open) -> None:
        """Every position holds what was computed under this root from exactly these tokens."""
        for position in range(one.table.tokens):
            place = one.blocks[position // SIZE], position % SIZE
            assert self.held[place] == (one.root, tuple(one.tokens[: position + 1]))

    @invariant()
    def every_open_table_still_holds_what_it_wrote(self) -> None:
        for one in self.open:
            self._check(one)

    @invariant()
    def no_block_is_lost_and_none_is_there_twice(self) -> None:
        users = {block for one in self.open for block in one.blocks}
        assert self.pool.used == len(users)
        assert len(users) + self.pool.idle <= COUNT
        assert self.pool.available >= 0

    def teardown(self) -> None:
        for one in self.open:
            one.table.close()
        assert self.pool.available == COUNT
        everything = opened(self.pool, [2], COUNT * SIZE)
        assert sorted(everything.grow(COUNT * SIZE)) == list(range(COUNT))


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_prefix_is_found_after_its_writer_ended() -> None:
    pool = BlockPool(COUNT, SIZE)
    first = opened(pool, range(10), 12)
    blocks = fill(first, range(10))
    first.close()
    second = opened(pool, range(10), 12)

    assert (second.tokens, second.reused) == (8, 8)
    assert second.grow(2)[:2] == blocks[:2]
    assert pool.idle == 0


def test_two_at_work_share_what_one_of_them_wrote() -> None:
    pool = BlockPool(COUNT, SIZE)
    first = opened(pool, range(10), 10)
    second = opened(pool, range(10), 10)
    fill(first, range(10))
    second.reuse(list(range(10)))

    assert second.tokens == 8
    assert pool.used == 3
    first.close()
    assert pool.used == 2


def test_the_last_token_is_fed_even_if_all_is_there() -> None:
    pool = BlockPool(COUNT, SIZE)
    fill(opened(pool, range(8), 8), range(8))

    assert opened(pool, range(8), 8).tokens == 4
    assert opened(pool, range(9), 9).tokens == 8


def test_a_table_without_a_root_shares_nothing_and_leaves_nothing() -> None:
    pool = BlockPool(COUNT, SIZE)
    shared = opened(pool, range(10), 10)
    fill(shared, range(10))
    own, other = (opened(pool, range(10), 10, None) for _ in range(2))
    own.reuse(list(range(10)))
    blocks = {*fill(own, range(10)), *fill(other, range(10)), *shared.grow(0)}

    assert (own.reused, len(blocks), pool.used) == (0, 9, 9)
    own.close()
    other.close()
    assert (pool.idle, pool.available) == (0, COUNT - 3)


@pytest.mark.parametrize("root", ROOTS[1:])
def test_another_tenant_or_another_mix_finds_nothing(root: Key) -> None:
    pool = BlockPool(COUNT, SIZE)
    fill(opened(pool, range(8), 8), range(8))

    assert opened(pool, range(9), 9, root).tokens == 0


def test_a_mix_is_named_with_its_weights_and_its_order() -> None:
    one, two = MixMember(Digest("a"), 1.0), MixMember(Digest("b"), 1.0)
    mixes = [(), (one,), (two,), (one, two), (two, one), (MixMember(Digest("a"), 0.5),)]

    assert len({root_key("alice", mix) for mix in mixes}) == len(mixes)


def test_a_block_is_named_with_all_before_it() -> None:
    assert next_key(ROOTS[0], [1, 2]) != next_key(ROOTS[1], [1, 2])
    assert next_key(next_key(ROOTS[0], [1]), [2]) != next_key(ROOTS[0], [1, 2])


def test_the_prefix_that_was_used_longest_ago_goes_first_and_its_end_before_its_beginning() -> None:
    pool = BlockPool(4, SIZE)
    for start in (0, 100):
        table = opened(pool, range(start, start + 8), 8)
        fill(table, range(start, start + 8))
        table.close()
    opened(pool, [7], SIZE).grow(1)

    assert pool.idle == 3
    assert len(pool.match(ROOTS[0], range(9))) == 1
    assert len(pool.match(ROOTS[0], range(100, 109))) == 2


def test_what_was_promised_is_not_given_to_others() -> None:
    pool = BlockPool(4, SIZE)
    first = opened(pool, [1], 3 * SIZE)

    assert pool.available == 1
    assert pool.open(ROOTS[0], [2], 2 * SIZE) is None
    first.close()
    assert pool.open(ROOTS[0], [2], 4 * SIZE) is not None


def test_a_shared_beginning_needs_no_room_of_its_own() -> None:
    pool = BlockPool(4, SIZE)
    fill(opened(pool, range(9), 12), range(9))

    assert opened(pool, range(9), 12).reused == 8
    assert pool.available == 0
