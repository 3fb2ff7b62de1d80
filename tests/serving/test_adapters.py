from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread

import pytest

from openledger.core.errors import (
    DigestMismatchError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.serving.adapters import AdapterStore
from openledger.serving.engine import AdapterRef, Tier
from tests.fakes import HashAdapter, HashRunner
from tests.serving.tiny import hash_adapter

Store = AdapterStore[HashAdapter]


def store(budget_bytes: int = 25, timeout_s: float = 5.0) -> Store:
    return AdapterStore(HashRunner().read, budget_bytes, timeout_s)


@pytest.fixture
def refs(tmp_path: Path) -> list[AdapterRef]:
    return [hash_adapter(tmp_path / name, name) for name in ("a", "b", "c")]


def tiers(one: Store, refs: list[AdapterRef]) -> list[Tier]:
    known = {residency.digest: residency.tier for residency in one.residency()}
    return [known[ref.digest] for ref in refs]


def test_the_least_recently_used_goes_first(refs: list[AdapterRef]) -> None:
    one = store()
    one.load(refs[0])
    one.load(refs[1])
    one.load(refs[0])
    one.load(refs[2])

    assert tiers(one, refs) == [Tier.RAM, Tier.DISK, Tier.RAM]
    assert one.resident_bytes() == 20


def test_a_pinned_adapter_stays(refs: list[AdapterRef]) -> None:
    one = store()
    one.load(refs[0], pin=True)
    one.load(refs[1])
    one.load(refs[2])

    assert tiers(one, refs) == [Tier.RAM, Tier.DISK, Tier.RAM]
    assert [residency.is_pinned for residency in one.residency()].count(True) == 1


def test_a_pin_outlasts_a_later_load_without_one(refs: list[AdapterRef]) -> None:
    one = store()
    one.load(refs[0], pin=True)

    assert one.load(refs[0]).is_pinned


def test_an_adapter_in_use_is_not_evicted(refs: list[AdapterRef]) -> None:
    one = store()
    for ref in refs[:2]:
        one.load(ref)
        one.acquire(ref.digest)

    with pytest.raises(UnavailableError, match="in use or pinned"):
        one.load(refs[2])
    assert len(one.residency()) == 2
    one.release(refs[0].digest)
    one.load(refs[2])
    assert tiers(one, refs) == [Tier.DISK, Tier.RAM, Tier.RAM]


def test_an_adapter_larger_than_the_budget_is_refused(refs: list[AdapterRef]) -> None:
    with pytest.raises(InvalidInputError, match="10 bytes"):
        store(budget_bytes=9).load(refs[0])


def test_an_evicted_adapter_that_changed_on_disk_is_refused(refs: list[AdapterRef]) -> None:
    one = store()
    for ref in refs:
        one.load(ref)
    (refs[0].path / "name").write_text("altered")

    with pytest.raises(DigestMismatchError):
        one.acquire(refs[0].digest)
    with pytest.raises(DigestMismatchError):
        one.load(refs[0])
    assert tiers(one, refs)[0] is Tier.DISK
    assert all(residency.references == 0 for residency in one.residency())


def test_a_moved_folder_is_read_from_its_new_place(refs: list[AdapterRef], tmp_path: Path) -> None:
    one = store()
    for ref in refs:
        one.load(ref)
    refs[0].path.rename(tmp_path / "moved")
    one.load(AdapterRef(refs[0].digest, tmp_path / "moved"))

    assert one.acquire(refs[0].digest).name == "a"


def test_many_threads_read_an_adapter_once(refs: list[AdapterRef]) -> None:
    gate = Event()
    runner = HashRunner()

    def read(ref: AdapterRef) -> HashAdapter:
        gate.wait(5)
        return runner.read(ref)

    one: Store = AdapterStore(read, 25, 5.0)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(one.load, refs[0]) for _ in range(4)]
        gate.set()
        for load in loads:
            load.result()

    assert one.counters.loads == 1
    assert one.counters.hits == 3


def test_adapters_that_can_never_be_resident_together_are_refused(
    refs: list[AdapterRef],
) -> None:
    one = store(timeout_s=0.01)
    for ref in refs[:3]:
        one.load(ref)
    together = [ref.digest for ref in refs[:3]]
    one.claim(together)

    with pytest.raises(InvalidInputError, match="together"):
        one.hold(together)

    one.disclaim(together)
    for ref in refs[:3]:
        one.unload(ref.digest)  # at once: nobody holds any


def test_unloading_gives_up_in_time_and_the_last_user_still_frees_it(
    refs: list[AdapterRef],
) -> None:
    one = store(timeout_s=0.01)
    one.load(refs[0])
    one.acquire(refs[0].digest)

    with pytest.raises(UnavailableError, match="still in use by 1"):
        one.unload(refs[0].digest)
    with pytest.raises(NotFoundError):
        one.acquire(refs[0].digest)
    with pytest.raises(UnavailableError):
        one.load(refs[0])
    one.release(refs[0].digest)
    assert one.residency() == ()


def test_loading_again_waits_until_the_old_one_is_gone(refs: list[AdapterRef]) -> None:
    one = store()
    one.load(refs[0])
    one.acquire(refs[0].digest)
    unloading = Thread(target=one.unload, args=[refs[0].digest])
    unloading.start()
    while True:
        try:
            one.acquire(refs[0].digest)
            one.release(refs[0].digest)
        except NotFoundError:
            break
    loading = Thread(target=one.load, args=[refs[0]])
    loading.start()
    one.release(refs[0].digest)
    for thread in (unloading, loading):
        thread.join(5)

    assert one.residency()[0].tier is Tier.RAM


def test_whoever_reads_is_told_of_all_that_is_not_resident_any_more(
    refs: list[AdapterRef],
) -> None:
    dropped: list[str] = []
    runner = HashRunner()
    one: Store = AdapterStore(runner.read, 25, 5.0, lambda adapter: dropped.append(adapter.name))
    for ref in refs:
        one.load(ref)
    assert dropped == ["a"]
    one.acquire(refs[1].digest)
    one.acquire(refs[2].digest)
    with pytest.raises(UnavailableError):
        one.load(refs[0])  # read, and no room for it
    assert dropped == ["a", "a"]
    one.release(refs[1].digest)
    one.unload(refs[1].digest)

    assert dropped == ["a", "a", "b"]
    assert [one.knows(ref.digest) for ref in refs] == [True, False, True]
