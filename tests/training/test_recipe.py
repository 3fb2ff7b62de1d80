import msgspec
import pytest
import torch

from openledger.core.encoding import decode, digest_of, encode
from openledger.core.errors import InvalidInputError
from openledger.training.recipe import Recipe, best_precision


def test_a_recipe_has_one_digest_and_survives_encoding() -> None:
    recipe = Recipe(rank=4, target_modules=("q_proj", "v_proj"))

    assert decode(encode(recipe), Recipe) == recipe
    assert digest_of(recipe) != digest_of(Recipe())


def test_the_shape_stands_on_the_last_layers() -> None:
    assert Recipe().shape(30).layers == tuple(range(20, 30))
    assert Recipe().shape(4).layers == (0, 1, 2, 3)
    assert Recipe(rank=8, alpha=16).shape(30).scale == 2.0


def test_the_learning_rate_is_in_millionths() -> None:
    assert Recipe(learning_rate_micro=2_500).learning_rate == 0.0025


@pytest.mark.parametrize(
    "fields",
    [
        {"rank": 0},
        {"rank": 257},
        {"alpha": 0},
        {"last_layers": 0},
        {"learning_rate_micro": 0},
        {"epochs": 0},
        {"batch_size": 0},
        {"max_length": 7},
        {"warmup_steps": -1},
        {"evaluations": 0},
        {"probe_tokens": 0},
        {"patience": 0},
        {"target_modules": ()},
        {"target_modules": ("lm_head",)},
        {"target_modules": ("q_proj", "q_proj")},
    ],
)
def test_a_senseless_recipe_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(fields))):
        msgspec.structs.replace(Recipe(), **fields)


@pytest.mark.parametrize(
    ("units", "precision"),
    [({"amx_bf16": True}, "bfloat16"), ({"avx512_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_precision_follows_the_cpu(
    units: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)

    assert best_precision() == precision
