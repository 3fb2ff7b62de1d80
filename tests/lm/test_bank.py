import pytest
import torch

from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.bank import banked
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraHost, LoraShape, MixMember, Site, linear_at
from tests.lm.adapters import lively_adapter

IDS = torch.tensor([[5, 80, 270, 9, 33, 2], [7, 7, 60, 61, 62, 63], [1, 2, 3, 4, 5, 6]])
SHAPE = LoraShape(rank=3, alpha=6, layers=(2, 3))


def alone(base: BaseModel, adapter: Adapter, ids: torch.Tensor) -> torch.Tensor:
    host = LoraHost(base.model, base.digest)
    host.add(Digest("1" * 64), adapter)
    with host.mixed([MixMember(Digest("1" * 64))]) as model:
        logits: torch.Tensor = model(ids).logits
    host.close()
    return logits


@torch.no_grad()
def test_each_row_has_the_adapter_that_was_chosen_for_it(tiny: BaseModel) -> None:
    adapters = [lively_adapter(tiny, SHAPE, seed=seed) for seed in range(3)]
    expected = [alone(tiny, adapter, IDS) for adapter in adapters]

    with banked(tiny.model, adapters) as bank:
        everyone = tiny.model(IDS.repeat(3, 1)).logits.split(3)
        bank.choose([2, 0])
        some = tiny.model(torch.cat([IDS[:1], IDS[1:2]])).logits

    for found, wanted in zip(everyone, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(some[0], expected[2][0], atol=1e-4)
    assert torch.allclose(some[1], expected[0][1], atol=1e-4)


def test_the_plain_layers_come_back_even_after_an_error(tiny: BaseModel) -> None:
    adapter = lively_adapter(tiny, SHAPE, seed=1)
    before = linear_at(tiny.model, Site(2, "q_proj"))

    with pytest.raises(RuntimeError, match="on purpose"), banked(tiny.model, [adapter]):
        raise RuntimeError("on purpose")

    assert tiny.model.get_submodule("model.layers.2.self_attn.q_proj") is before


def test_adapters_of_other_shapes_or_none_are_refused(tiny: BaseModel) -> None:
    one = lively_adapter(tiny, SHAPE, seed=1)
    other = lively_adapter(tiny, LoraShape(rank=2, alpha=6, layers=(2, 3)), seed=1)

    for adapters in ([], [one, other]):
        with pytest.raises(InvalidInputError, match="one shape"), banked(tiny.model, adapters):
            pass
