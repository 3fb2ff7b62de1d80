"""One adapter made of several, measured: on texts that they did not see, and without each of them.

What a member added is how much likelier those texts are under the merge than under the merge of the
others: the same question that attribution asks of the members of a mix, asked once, of held-out
texts instead of each answer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from openledger.lm.base import BaseModel
from openledger.lm.frozen import SplitModel, hidden_cache
from openledger.lm.lora import Adapter, attached
from openledger.training.evaluate import Measured, measure
from openledger.training.merging.ways import Merging, Term, merge
from openledger.training.rows import encode_rows
from openledger.training.task import Task

Hear = Callable[[int, int], None]  # models measured, models in all


class Member(msgspec.Struct, frozen=True):
    """One release that goes into a merge."""

    adapter: Adapter
    early: Adapter  # after a quarter of its training
    weight: float


class Outcome(msgspec.Struct, frozen=True):
    """What came of a merge."""

    adapter: Adapter
    early: Adapter  # the members' early adapters, merged in the same way
    base: Measured  # the base alone on all held-out tokens
    tuned: Measured  # with the merge
    without: tuple[Measured, ...]  # with the merge of all but each member; of one, the base alone
    lost: float  # by the cut to the rank, as a part of the whole norm


def merge_members(
    base: BaseModel,
    members: Sequence[Member],
    merging: Merging,
    task: Task,
    folder: Path,
    hear: Hear | None = None,
) -> Outcome:
    """Merge, and measure on the task's held-out texts; its training texts are not looked at.

    The base is changed while it runs and given back as it was; nobody else may use it meanwhile.
    Interrupted, it is run again from its start, and on one machine makes the same bits.

    Raises:
        InvalidInputError: there is no member or no held-out text, or a weight that the way of
            merging does not take.
        StorageFullError: the disk is full.
    """
    shape = task.recipe.shape(base.layers)

    def merged(some: Sequence[Member], *, is_early: bool = False) -> tuple[Adapter, float]:
        terms = [Term(one.early if is_early else one.adapter, one.weight) for one in some]
        found = merge(base, terms, merging, shape, task.seed)
        return found.adapter, found.lost

    whole, lost = merged(members)
    early, _ = merged(members, is_early=True)
    rows = encode_rows(base.tokenizer, task.held_out, task.recipe.max_length)
    first = shape.layers[0]
    cache = hidden_cache(folder, base, first, [row.tokens for row in rows])
    split = SplitModel(base.model, first)
    done, total = 0, len(members) + 2

    def measured(adapter: Adapter | None) -> Measured:
        nonlocal done
        if adapter is None:
            found = measure(split, cache, rows)
        else:
            with attached(base.model, adapter):
                found = measure(split, cache, rows)
        done += 1
        if hear is not None:
            hear(done, total)
        return found

    plain, tuned = measured(None), measured(whole)
    without = []
    for place in range(len(members)):
        others = [*members[:place], *members[place + 1 :]]
        without.append(measured(merged(others)[0] if others else None))
    return Outcome(whole, early, plain, tuned, tuple(without), lost)
