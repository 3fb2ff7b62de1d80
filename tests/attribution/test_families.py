"""Training, attribution state and shares on models of every family."""

from pathlib import Path

import msgspec
import pytest
import torch

from openledger.attribution.attribute import Attributor
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel
from openledger.attribution.release import build
from openledger.attribution.state import load_state
from openledger.core.errors import InvalidInputError
from openledger.core.types import PARTS_PER_BILLION
from openledger.lm.base import BaseModel
from openledger.training.finetune import finetune
from openledger.training.task import Task
from tests.attribution.influence.test_gradients import STARTS, TEXTS, by_autograd, gradients
from tests.attribution.releases import RECIPE, account, examples_of, some_adapter, some_text
from tests.lm.families.foreign import KINDS, random_model
from tests.training.songs import QUICK, SEED, example

DOCUMENTS = tuple(some_text(i, words=10) for i in range(8))
THOROUGH = msgspec.structs.replace(
    QUICK,
    epochs=20,
    batch_size=1,
    learning_rate_micro=10_000,
    anchor_weight_hundredths=0,
    evaluations=1,
)


@pytest.fixture(params=KINDS)
def family(request: pytest.FixtureRequest, base: BaseModel) -> BaseModel:
    return msgspec.structs.replace(base, model=random_model(request.param))


def test_gradients_are_those_of_plain_autograd(family: BaseModel) -> None:
    adapter = some_adapter(family)
    rows = [family.tokenizer.encode(text) for text in TEXTS]
    found = gradients(ProbedModel(family, adapter), rows)
    factors = [factor for pair in adapter.pairs.values() for factor in (pair.a, pair.b)]
    for factor in factors:
        factor.requires_grad_(True)

    for i, (row, start) in enumerate(zip(rows, STARTS, strict=True)):
        wanted = torch.autograd.grad(by_autograd(family, adapter, row, start), factors)
        sites = [found[site.module] for site in adapter.pairs]
        ours = [factor[i] for site in sites for factor in (site.a, site.b)]
        for one, other in zip(ours, wanted, strict=True):
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_what_was_trained_on_is_paid_for_its_answers(family: BaseModel, tmp_path: Path) -> None:
    training = tuple(example(i, text, text) for i, text in enumerate(DOCUMENTS))
    task = Task(THOROUGH, SEED, training, (example(9, some_text(9, words=10)),))
    tuned = finetune(family, task, tmp_path)
    models = Checkpoints(ProbedModel(family, tuned.early), ProbedModel(family, tuned.adapter))
    examples = examples_of(family, DOCUMENTS, [i % 3 for i in range(len(DOCUMENTS))])
    build(tmp_path / "state", models, examples, RECIPE)
    attributor = Attributor(load_state(tmp_path / "state"), models)
    ids = family.tokenizer.encode(DOCUMENTS[4])
    found = attributor.attribute(ids[:12], ids[12:])

    assert tuned.tuned.loss < tuned.base.loss
    [segment] = found.segments
    assert segment.gain.over_base_micronats > 0
    assert max(segment.clusters, key=lambda one: one.score).cluster == 4
    shares = found.attribution.shares
    assert max(shares, key=lambda one: one.weight_ppb).account == account(4 % 3)
    assert sum(one.weight_ppb for one in shares) + found.attribution.nobody_ppb == PARTS_PER_BILLION


def test_a_row_that_is_longer_than_a_window_is_refused(base: BaseModel, tmp_path: Path) -> None:
    family = msgspec.structs.replace(base, model=random_model("mistral"))
    recipe = msgspec.structs.replace(QUICK, max_length=128)
    task = Task(recipe, SEED, (example(1, "c d e f g a b " * 90), example(2)), (example(3),))

    with pytest.raises(InvalidInputError, match="context of 96"):
        finetune(family, task, tmp_path)
