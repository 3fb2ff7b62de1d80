from collections.abc import Iterator

import boa
import pytest
from world import World


@pytest.fixture(scope="session")
def deployed() -> World:
    return World()


@pytest.fixture
def world(deployed: World) -> Iterator[World]:
    with boa.env.anchor():
        yield deployed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-gas", action="store_true", help="write contracts/gas.json")
