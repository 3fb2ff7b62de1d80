from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel, load_base
from openledger.lm.frozen import SplitModel, batches_by_length, hidden_cache
from openledger.lm.lora import Adapter, LoraHost, MixMember

ROWS = [[5, 80, 270, 9, 33, 2], [7, 7, 60], [1, 2, 3, 4]]
ONE = Digest("1" * 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_halves_are_the_whole_model_under_an_adapter(
    tiny_folder: Path, tmp_path: Path, adapter: Adapter, dtype: torch.dtype
) -> None:
    base = load_base(tiny_folder, dtype=dtype)
    host = LoraHost(base.model, base.digest)
    host.add(ONE, adapter)
    cache = hidden_cache(tmp_path, base, 2, ROWS)
    split = SplitModel(base.model, 2)

    with host.mixed([MixMember(ONE)]):
        logits = split.head(split.upper(cache.padded([0, 1, 2])))
        for i, row in enumerate(ROWS):
            whole = base.model(torch.tensor([row])).logits[0]
            tolerance = 1e-5 if dtype == torch.float32 else 0.05
            assert (logits[i, : len(row)] - whole).abs().max() < tolerance


@pytest.mark.parametrize("first", [0, 4])
def test_a_model_can_be_cut_at_either_end(tiny: BaseModel, tmp_path: Path, first: int) -> None:
    split = SplitModel(tiny.model, first)
    cache = hidden_cache(tmp_path, tiny, first, ROWS)

    logits = split.head(split.upper(cache[0][None]))
    assert torch.allclose(logits, tiny.model(torch.tensor([ROWS[0]])).logits, atol=1e-5)


def test_a_cut_outside_the_model_is_refused(tiny: BaseModel) -> None:
    with pytest.raises(InvalidInputError, match="cannot be cut"):
        SplitModel(tiny.model, 5)


def test_hidden_states_are_computed_once(tiny: BaseModel, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = hidden_cache(tmp_path, tiny, 2, ROWS, lambda done, total: seen.append((done, total)))
    again = hidden_cache(tmp_path, tiny, 2, ROWS, lambda done, total: seen.append((done, total)))

    assert seen == [(3, 3)]
    assert len(first) == len(again) == 3
    assert all(torch.equal(first[i], again[i]) for i in range(3))
    assert first.key == again.key


def test_other_rows_layers_or_precision_have_another_cache(
    tiny: BaseModel, tiny_folder: Path, tmp_path: Path
) -> None:
    half = load_base(tiny_folder, dtype=torch.bfloat16)
    hidden_cache(tmp_path, tiny, 2, ROWS)
    hidden_cache(tmp_path, tiny, 1, ROWS)
    hidden_cache(tmp_path, tiny, 2, ROWS[:2])
    hidden_cache(tmp_path, half, 2, ROWS)

    assert len(list(tmp_path.glob("*.bin"))) == 4


def test_an_interrupted_computation_leaves_no_cache(tiny: BaseModel, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hidden_cache(tmp_path, tiny, 2, ROWS, stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_empty_rows_are_refused(tiny: BaseModel, tmp_path: Path, rows: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError, match="may be empty"):
        hidden_cache(tmp_path, tiny, 2, rows)


@given(lengths=st.lists(st.integers(1, 1_500), max_size=40))
def test_each_row_is_in_one_batch_of_bounded_size(lengths: list[int]) -> None:
    batches = batches_by_length(lengths)

    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 1_024
