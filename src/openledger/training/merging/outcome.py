"""One adapter made of several, and the same without each of them, measured on held-out texts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from openledger.lm.base import BaseModel
from openledger.lm.frozen import SplitModel, hidden_cache
from openledger.lm.lora import Adapter, attached
from openledger.training.evaluate import Measured, measure
from openledger.training.merging.ways import Merged, Merging, Term, merge
from openledger.training.rows import encode_rows
from openledger.training.task import Task

Hear = Callable[[int, int], None]  # adapters made, adapters in all; what it raises ends the merge


class Member(msgspec.Struct, frozen=True):
    """One release that goes into a merge."""

    adapter: Adapter
    early: Adapter  # after a quarter of its training
    weight: float
    name: str  # its digest, say; see `Term`


class Without(msgspec.Struct, frozen=True):
    """The merge of all members but one."""

    adapter: Adapter | None  # None: there is no other
    measured: Measured


class Outcome(msgspec.Struct, frozen=True):
    """What came of a merge."""

    adapter: Adapter
    early: Adapter  # the members' early adapters, merged in the same way
    base: Measured  # the base alone on all held-out tokens
    tuned: Measured  # with the merge
    without: tuple[Without, ...]  # each member
    lost: float  # by the cut to the rank, as a part of the whole norm


def merge_members(
    base: BaseModel,
    members: Sequence[Member],
    merging: Merging,
    task: Task,
    folder: Path,
    hear: Hear = lambda *_: None,
) -> Outcome:
    """Merge, and measure on the task's held-out texts; its training texts are not looked at.

    The base is changed while it measures and given back as it was; nobody else may use it
    meanwhile. Interrupted, it is run again from its start, and on one machine makes the same bits.

    Raises:
        InvalidInputError: there is no member or no held-out text, or a weight that the way of
            merging does not take.
        StorageFullError: the disk is full.
    """
    shape = task.recipe.shape(base.layers)
    total = len(members) + 2
    made = 0

    def merged(some: Sequence[Member], *, is_early: bool = False) -> Merged:
        nonlocal made
        terms = [Term(one.early if is_early else one.adapter, one.weight, one.name) for one in some]
        found = merge(base, terms, merging, shape, task.seed, lambda: hear(made, total))
        made += 1
        return found

    whole, early = merged(members), merged(members, is_early=True)
    rows = encode_rows(base.tokenizer, task.held_out, task.recipe.max_length)
    cache = hidden_cache(folder, base, shape.layers[0], [row.tokens for row in rows])
    split = SplitModel(base.model, shape.layers[0])

    def measured(adapter: Adapter) -> Measured:
        with attached(base.model, adapter):
            return measure(split, cache, rows)

    plain = measure(split, cache, rows)
    without = []
    for place in range(len(members)):
        others = [*members[:place], *members[place + 1 :]]
        rest = merged(others).adapter if others else None
        without.append(Without(rest, plain if rest is None else measured(rest)))
    hear(total, total)
    return Outcome(
        whole.adapter, early.adapter, plain, measured(whole.adapter), tuple(without), whole.lost
    )
