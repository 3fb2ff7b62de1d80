"""Keep part of the data out of training, whole keys at a time, so that no twin leaks.

Which keys is decided by the run's seed, which nobody knows before the data stand on chain.
"""

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from openledger.core.errors import InvalidInputError
from openledger.core.types import BASIS_POINTS
from openledger.training.rows import Example


class Split(msgspec.Struct, frozen=True):
    """The two parts, each in the order of the examples; they share no key."""

    training: tuple[Example, ...]
    held_out: tuple[Example, ...]


def split_by_key(examples: Sequence[Example], seed: bytes, held_out_bps: int) -> Split:
    """Hold out keys, in an order drawn from the seed, until they hold this part of all characters.

    At least one key is held out and at least one is trained on.

    Raises:
        InvalidInputError: fewer than two keys, or a part outside 1 to 9,999 basis points.
    """
    if not 0 < held_out_bps < BASIS_POINTS:
        raise InvalidInputError(
            f"hold out 1 to {BASIS_POINTS - 1} basis points, not {held_out_bps}"
        )
    sizes: dict[str, int] = {}
    for example in examples:
        sizes[example.key] = sizes.get(example.key, 0) + len(example.text)
    if len(sizes) < 2:
        raise InvalidInputError("a run needs texts with at least two titles: one is held out")
    drawn = sorted(sizes, key=lambda key: sha256(seed + key.encode()).digest())
    wanted = sum(sizes.values()) * held_out_bps
    held: set[str] = set()
    for key in drawn[:-1]:
        if held and sum(sizes[one] for one in held) * BASIS_POINTS >= wanted:
            break
        held.add(key)
    return Split(
        training=tuple(example for example in examples if example.key not in held),
        held_out=tuple(example for example in examples if example.key in held),
    )
