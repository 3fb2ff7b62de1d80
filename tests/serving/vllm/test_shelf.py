from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openledger.core.errors import DigestMismatchError, InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter
from openledger.lm.lora import Adapter, LoraPair, LoraShape, Site
from openledger.serving.engine import AdapterRef
from openledger.serving.request import MixMember
from openledger.serving.vllm.shelf import Shelf, concatenated, mix_digest

FIRST, SECOND = Digest("1" * 64), Digest("2" * 64)
WIDTHS = {"q_proj": (6, 4), "up_proj": (5, 4)}  # numbers out and in


def adapter(shape: LoraShape, seed: int) -> Adapter:
    generator = torch.Generator().manual_seed(seed)

    def factor(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    pairs = {}
    for site in shape.sites:
        rows, columns = WIDTHS[site.target]
        pairs[site] = LoraPair(factor(shape.rank, columns), factor(rows, shape.rank))
    return Adapter(shape, Digest("b" * 64), pairs)


def delta(one: Adapter, site: Site) -> Tensor:
    """(D_out, D_in) what it adds to the weights at a site."""
    pair = one.pairs.get(site)
    if pair is None:
        return torch.zeros(WIDTHS[site.target])
    return one.shape.scale * pair.b @ pair.a


_shapes = st.builds(
    LoraShape,
    rank=st.integers(1, 5),
    alpha=st.integers(1, 20),
    layers=st.sets(st.integers(0, 2), min_size=1).map(lambda some: tuple(sorted(some))),
    targets=st.sampled_from([("q_proj",), ("up_proj",), ("q_proj", "up_proj")]),
)


@given(st.lists(st.tuples(_shapes, st.floats(-10, 10)), min_size=1, max_size=4))
def test_one_adapter_adds_what_a_mix_adds(mix: list[tuple[LoraShape, float]]) -> None:
    adapters = [adapter(shape, seed) for seed, (shape, _) in enumerate(mix)]
    weights = [weight for _, weight in mix]
    one = concatenated(adapters, weights)

    assert one.shape.rank == sum(shape.rank for shape, _ in mix)
    for layer in range(3):
        for target in WIDTHS:
            site = Site(layer, target)
            parts = [w * delta(part, site) for part, w in zip(adapters, weights, strict=True)]
            assert torch.allclose(delta(one, site), sum(parts, torch.zeros(1)), atol=1e-3)


def test_a_mix_is_named_by_members_and_weights_in_any_order() -> None:
    one, other = MixMember(FIRST, 0.7), MixMember(SECOND, 0.3)

    assert mix_digest([one, other]) == mix_digest([other, one])
    assert mix_digest([one, other]) != mix_digest([MixMember(FIRST, 0.3), MixMember(SECOND, 0.7)])
    assert mix_digest([one]) != mix_digest([MixMember(FIRST, 0.7000000000000001)])


def test_a_made_adapter_is_sound_and_readable_for_all(
    base: BaseModel, shelf: Shelf, refs: list[AdapterRef], tmp_path: Path
) -> None:
    members = [MixMember(ref.digest, 0.5) for ref in refs[:2]]
    made = shelf.make(mix_digest(members), members)
    folder = tmp_path / "shelf" / f"mix-{made.digest}"

    assert load_adapter(folder, base).shape.rank == made.rank == 17
    assert shelf.seen(made.digest, is_mix=True) == f"/seen/mix-{made.digest}"
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}


def test_weights_beyond_all_numbers_are_refused(shelf: Shelf, refs: list[AdapterRef]) -> None:
    members = [MixMember(refs[0].digest, 1e300)]

    with pytest.raises(InvalidInputError, match="too large"):
        shelf.make(mix_digest(members), members)


def test_an_altered_or_missing_member_makes_no_mix(
    shelf: Shelf, refs: list[AdapterRef], tmp_path: Path
) -> None:
    weights = shelf.path(refs[0].digest) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    shelf.remove(refs[1].digest, lambda: False)
    wanted = [MixMember(ref.digest, 0.5) for ref in refs[:2]]

    with pytest.raises(DigestMismatchError):
        shelf.make(mix_digest(wanted), wanted)
    with pytest.raises(NotFoundError):
        shelf.make(mix_digest(wanted[1:]), wanted[1:])
    assert not list((tmp_path / "shelf").glob("mix-*"))


def test_what_is_asked_for_again_stays(shelf: Shelf, refs: list[AdapterRef]) -> None:
    shelf.remove(refs[0].digest, lambda: True)

    assert shelf.path(refs[0].digest).is_dir()


def test_mixes_of_an_earlier_run_are_dropped_and_adapters_kept(
    base: BaseModel, shelf: Shelf, refs: list[AdapterRef], tmp_path: Path
) -> None:
    members = [MixMember(ref.digest, 0.5) for ref in refs[:2]]
    shelf.make(mix_digest(members), members)
    Shelf(tmp_path / "shelf", "/seen", base, max_rank=64)

    left = {folder.name for folder in (tmp_path / "shelf").iterdir()}
    assert left == {ref.digest for ref in refs[:2]}
