"""One tiny base model for all tests of the room; tests that alter files copy the folder."""

from pathlib import Path

import pytest

from openledger.lm.base import BaseModel, load_base
from openledger.lm.lora import Adapter, LoraShape
from openledger.lm.tiny import build_tiny
from tests.lm.adapters import lively_adapter


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path) -> BaseModel:
    return load_base(tiny_folder)


@pytest.fixture
def adapter(tiny: BaseModel) -> Adapter:
    return lively_adapter(tiny, LoraShape(rank=3, alpha=6, layers=(2, 3)), seed=1)
