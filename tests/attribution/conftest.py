"""One tiny base model and one small release for all tests of the room."""

from pathlib import Path

import pytest

from openledger.attribution.attribute import Attributor
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.release import TrainingExample, build
from openledger.attribution.state import AttributionState, load_state
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from tests.attribution.releases import RECIPE, examples_of, some_checkpoints, some_model, some_text


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder)


@pytest.fixture(scope="session")
def model(base: BaseModel) -> ProbedModel:
    return some_model(base)


@pytest.fixture(scope="session")
def models(base: BaseModel) -> Checkpoints:
    return some_checkpoints(base)


@pytest.fixture(scope="session")
def examples(base: BaseModel) -> list[TrainingExample]:
    """Nine documents of three accounts; the last two say nearly the same."""
    texts = [some_text(i) for i in range(8)]
    return examples_of(base, [*texts, texts[7] + " A"], [i % 3 for i in range(9)])


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, models: Checkpoints, examples: list[TrainingExample]
) -> Path:
    """Where the release's state stands; tests that alter it copy it."""
    folder = tmp_path_factory.mktemp("releases") / "1" / "attribution"
    build(folder, models, examples, RECIPE)
    return folder


@pytest.fixture
def state(folder: Path) -> AttributionState:
    return load_state(folder)


@pytest.fixture
def attributor(state: AttributionState, models: Checkpoints) -> Attributor:
    return Attributor(state, models)
