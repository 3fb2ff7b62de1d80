"""A home whose contracts stand on an embedded chain, copied for each test that wants one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain.home import Home


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home, made once and never written again."""
    folder = tmp_path_factory.mktemp("deployed")
    home = Home(folder)
    home.deploy()
    home.close()
    return folder


@pytest.fixture
def home(deployed: Path, tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "home"
    shutil.copytree(deployed, folder)
    made = Home(folder)
    made.deploy()
    yield made
    made.close()
