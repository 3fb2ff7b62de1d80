from pathlib import Path

import pytest

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.serving.adapters import AdapterStore
from openledger.serving.engine import AdapterRef
from openledger.serving.request import MixMember
from openledger.serving.vllm.library import Mixes
from openledger.serving.vllm.shelf import Shelf, Shelved, mix_digest


def test_the_longest_unused_mix_goes_first_and_none_that_is_used(
    shelf: Shelf, refs: list[AdapterRef], tmp_path: Path
) -> None:
    mixes, dropped = Mixes(shelf, kept=2), list[Digest]()
    store: AdapterStore[Shelved] = AdapterStore(
        lambda ref: mixes.make(ref.digest), 1 << 30, 1.0, lambda gone: dropped.append(gone.digest)
    )
    some = [(MixMember(refs[0].digest, weight),) for weight in (0.1, 0.2, 0.3, 0.4)]
    used = mixes.acquire(store, some[0])
    for members in some[1:3]:
        mixes.release(store, mixes.acquire(store, members))
    assert dropped == [mix_digest(some[1])]
    mixes.release(store, mixes.acquire(store, some[3]))

    assert dropped == [mix_digest(members) for members in some[1:3]]
    assert {one.digest for one in store.residency()} == {used, mix_digest(some[3])}
    assert len(list((tmp_path / "shelf").glob("mix-*"))) == 2


def test_a_mix_that_cannot_be_made_is_forgotten(shelf: Shelf, refs: list[AdapterRef]) -> None:
    mixes = Mixes(shelf)
    store: AdapterStore[Shelved] = AdapterStore(lambda ref: mixes.make(ref.digest), 1 << 30, 1.0)
    members = (MixMember(refs[0].digest, 1e300),)

    for _ in range(2):
        with pytest.raises(InvalidInputError):
            mixes.acquire(store, members)
    assert mix_digest(members) not in mixes
    assert store.residency() == ()
