"""The embedded engine on models of every family, held against transformers and peft."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from peft import PeftModel

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel, load_base
from openledger.lm.families.architecture import CausalModel
from openledger.lm.tiny import build_tiny
from openledger.serving.batch import Weighted
from openledger.serving.runner import Arithmetic, LlamaRunner
from tests.lm.families.foreign import KINDS, random_model
from tests.serving.test_runner import (
    WAYS,
    Mix,
    feed,
    greedy,
    prompt,
    started,
)
from tests.serving.tiny import exact_adapter

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny(folder)
    return load_base(folder)


@pytest.fixture(params=KINDS)
def base(request: pytest.FixtureRequest, tiny: BaseModel) -> BaseModel:
    return msgspec.structs.replace(tiny, model=random_model(request.param))


@pytest.fixture(params=WAYS)
def runner(request: pytest.FixtureRequest, base: BaseModel) -> LlamaRunner:
    return started(base, WAYS[request.param])


def logits_of(model: CausalModel | PeftModel, ids: tuple[int, ...]) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = model(torch.tensor([ids])).logits[0].numpy()
    return logits


def test_logits_are_those_of_transformers(runner: LlamaRunner, base: BaseModel) -> None:
    ids = prompt(37)
    wanted = logits_of(base.model, ids)

    assert abs(feed(runner, 0, ids, [37]) - wanted[-1]).max() < 1e-4
    assert abs(feed(runner, 1, ids, [20, 1, 15, 1]) - wanted[-1]).max() < 1e-4


def test_greedy_answers_are_those_of_transformers(runner: LlamaRunner, base: BaseModel) -> None:
    prompts = [prompt(5 + 7 * i, i) for i in range(3)]
    found = greedy(runner, prompts, [(), (), ()], steps=10)

    for ids, answer in zip(prompts, found, strict=True):
        whole = logits_of(base.model, (*ids, *answer[:-1]))
        assert answer == whole[len(ids) - 1 :].argmax(-1).tolist()


def test_adapters_are_those_of_peft(runner: LlamaRunner, base: BaseModel, tmp_path: Path) -> None:
    ids = prompt(21)
    ref = exact_adapter(tmp_path / "adapter", base, 1, rank=5)
    mix = (Weighted(runner.read(ref), 1.0),)
    found = feed(runner, 0, ids, [12, 9], mix)
    answer = greedy(runner, [ids], [mix], 8)[0]
    copy = random_model(base.model.config.model_type)
    model = PeftModel.from_pretrained(copy, ref.path).eval()

    assert abs(found - logits_of(model, ids)[-1]).max() < 1e-4
    assert answer == logits_of(model, (*ids, *answer[:-1]))[20:].argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_the_same_in_any_company(base: BaseModel, dtype: torch.dtype) -> None:
    runner = started(msgspec.structs.replace(base, model=base.model.to(dtype)))
    prompts = [prompt(3 + 6 * i, i) for i in range(5)]
    none: list[Mix] = [()] * 5
    together = greedy(runner, prompts, none, steps=8)

    for place in range(5):
        assert greedy(runner, [prompts[place]], [()], 8) == [together[place]]
        whole = feed(runner, place, prompts[place], [len(prompts[place])])
        assert (feed(runner, 9, prompts[place], [1] * len(prompts[place])) == whole).all()


def test_bfloat16_and_int8_stay_near(base: BaseModel) -> None:
    ids = prompt(30)
    plain = feed(started(base), 0, ids, [30])
    eight = feed(started(base, Arithmetic(is_int8=True)), 0, ids, [30])
    narrow = msgspec.structs.replace(base, model=base.model.to(torch.bfloat16))
    half = feed(started(narrow), 0, ids, [30])

    for found in (eight, half):
        assert 0 < abs(found - plain).max() < 0.1 * abs(plain).max()


def test_a_prompt_ends_where_a_window_would_slide(tiny: BaseModel) -> None:
    base = msgspec.structs.replace(tiny, model=random_model("mistral"))
    runner = started(base)

    assert runner.context == base.context == 96
    with pytest.raises(InvalidInputError, match="context of 96"):
        feed(runner, 0, prompt(97), [97])


def test_a_window_that_is_switched_off_is_none(tiny: BaseModel) -> None:
    off, on = (
        LlamaRunner(msgspec.structs.replace(tiny, model=model))
        for model in (random_model("qwen2"), random_model("qwen2", use_sliding_window=True))
    )

    assert (off.context, on.context) == (128, 32)
