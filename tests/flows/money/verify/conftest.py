"""The base model that a checker loads."""

import pytest

from openledger.lm.base import BaseModel, load_base
from tests.audited import Files


@pytest.fixture(scope="session")
def base(audited: Files) -> BaseModel:
    return load_base(audited.base)
