from pathlib import Path

import pytest
import torch

from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny


def test_the_same_seed_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    assert build_tiny(tmp_path / "a") == build_tiny(tmp_path / "b")
    assert build_tiny(tmp_path / "a") != build_tiny(tmp_path / "c", seed=1)


def test_it_is_under_a_megabyte(tiny_folder: Path) -> None:
    assert sum(path.stat().st_size for path in tiny_folder.iterdir()) < 1_000_000


def test_its_layers_matter(tiny: BaseModel) -> None:
    ids = torch.arange(40)[None]
    before = tiny.model(ids).logits
    tiny.model.model.layers[3].mlp.down_proj.weight.data.zero_()

    assert (tiny.model(ids).logits - before).abs().mean() > 0.05


def test_merges_shorten_a_tune(tiny: BaseModel) -> None:
    tune = "X:1\nT:The Hill\nM:2/4\nK:G\n|:GA Bc|de fg:|"

    assert len(tiny.tokenizer.encode(tune)) < 0.9 * len(tune)


@pytest.mark.parametrize("seed", [0, 3])
def test_it_loads_like_any_base(tmp_path: Path, seed: int) -> None:
    digest = build_tiny(tmp_path / "t", seed)

    assert load_base(tmp_path / "t", digest).manifest.name == f"tiny random Llama, seed {seed}"
