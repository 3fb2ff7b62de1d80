"""The tiny base; whoever changes its modules loads a copy from the folder."""

from pathlib import Path

import pytest

from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)
