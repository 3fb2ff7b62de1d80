"""Adapters on the tiny base, and a shelf that holds two of them."""

from pathlib import Path

import pytest

from openledger.lm.base import BaseModel
from openledger.serving.engine import AdapterRef
from openledger.serving.vllm.shelf import Shelf
from tests.serving.tiny import exact_adapter


@pytest.fixture(scope="module")
def refs(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    home = tmp_path_factory.mktemp("adapters")
    return [exact_adapter(home / f"a{i}", base, i, rank) for i, rank in enumerate((4, 13, 1))]


@pytest.fixture
def shelf(base: BaseModel, refs: list[AdapterRef], tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "shelf", "/seen/", base, max_rank=64)
    for ref in refs[:2]:
        shelf.ingest(ref)
    return shelf
