"""A tiny base of its own for each test, since training attaches an adapter to it."""

from pathlib import Path

import pytest

from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return folder


@pytest.fixture
def base(base_folder: Path) -> BaseModel:
    return load_base(base_folder)
