from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from openledger.core.errors import ConflictError, InvalidInputError, NotFoundError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import load_adapter, save_adapter, tensors_of
from openledger.lm.lora import (
    TARGETS,
    Adapter,
    LoraHost,
    LoraShape,
    MixedLinear,
    MixMember,
    Site,
    added_up,
    banked,
    linear_at,
)
from tests.lm.adapters import lively_adapter

# peft 0.21 still asks transformers 5.23 by a name that goes away in v6.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.tensor([[5, 80, 270, 9, 33, 2], [7, 7, 60, 61, 62, 63]])
ONE, TWO = Digest("1" * 64), Digest("2" * 64)


@pytest.fixture
def other(tiny: BaseModel) -> Adapter:
    shape = LoraShape(rank=5, alpha=5, layers=(1, 3), targets=("q_proj", "down_proj"))
    return lively_adapter(tiny, shape, seed=2)


def peft_logits(base: BaseModel, members: list[tuple[Adapter, float]]) -> torch.Tensor:
    """The same mix, computed by peft: its adapters add up when several are active."""
    model = None
    for i, (adapter, weight) in enumerate(members):
        config = LoraConfig(
            r=adapter.shape.rank,
            lora_alpha=adapter.shape.alpha,
            target_modules=list(adapter.shape.targets),
            layers_to_transform=list(adapter.shape.layers),
        )
        if model is None:
            model = get_peft_model(base.model, config, adapter_name="m0")
        else:
            model.add_adapter(f"m{i}", config)
        state = dict(model.named_parameters())
        for name, tensor in tensors_of(adapter).items():
            factor = weight if "lora_B" in name else 1.0
            state[name.replace(".weight", f".m{i}.weight")].data.copy_(tensor * factor)
    assert model is not None
    model.base_model.set_adapter([f"m{i}" for i in range(len(members))])
    logits: torch.Tensor = model(IDS).logits.detach()
    model.unload()
    return logits


@PEFT_WARNS
def test_one_adapter_equals_peft(tiny: BaseModel, adapter: Adapter) -> None:
    expected = peft_logits(tiny, [(adapter, 1.0)])
    host = LoraHost(tiny.model, tiny.digest)
    plain = tiny.model(IDS).logits
    host.add(ONE, adapter)

    host.set_mix([MixMember(ONE)])

    assert (tiny.model(IDS).logits - expected).abs().max() < 1e-5
    assert (expected - plain).abs().max() > 0.1


@PEFT_WARNS
def test_a_weighted_mix_of_different_ranks_equals_peft(
    tiny: BaseModel, adapter: Adapter, other: Adapter
) -> None:
    expected = peft_logits(tiny, [(adapter, 0.7), (other, -0.4)])
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.add(TWO, other)

    host.set_mix([MixMember(ONE, 0.7), MixMember(TWO, -0.4)])

    assert (tiny.model(IDS).logits - expected).abs().max() < 1e-5


def test_adapters_added_up_are_one_adapter(
    tiny: BaseModel, adapter: Adapter, other: Adapter
) -> None:
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.add(TWO, other)
    with host.mixed([MixMember(ONE, 0.7), MixMember(TWO, -0.4)]):
        expected = tiny.model(IDS).logits
    host.close()
    whole = LoraHost(tiny.model, tiny.digest)
    whole.add(ONE, added_up(tiny.model, [adapter, other], [0.7, -0.4]))
    with whole.mixed([MixMember(ONE)]):
        found = tiny.model(IDS).logits
    whole.close()

    assert (found - expected).abs().max() < 1e-5


def test_adapters_of_two_bases_are_not_added_up(tiny: BaseModel, adapter: Adapter) -> None:
    stranger = Adapter(adapter.shape, TWO, adapter.pairs)

    for some in ([], [adapter, stranger]):
        with pytest.raises(InvalidInputError, match="one base model"):
            added_up(tiny.model, some, [1.0] * len(some))


def test_the_previous_mix_comes_back_and_an_empty_one_is_the_base(
    tiny: BaseModel, adapter: Adapter
) -> None:
    plain = tiny.model(IDS).logits
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)

    with host.mixed([MixMember(ONE)]) as model:
        assert not torch.equal(model(IDS).logits, plain)
        with host.mixed([]):
            assert torch.equal(tiny.model(IDS).logits, plain)
        assert host.mix == (MixMember(ONE),)

    assert torch.equal(tiny.model(IDS).logits, plain)


def test_adapters_share_the_base_weights(tiny: BaseModel, adapter: Adapter, other: Adapter) -> None:
    before = {p.data_ptr() for p in tiny.model.parameters()}
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.add(TWO, other)
    host.add(TWO, other)

    assert {p.data_ptr() for p in tiny.model.parameters()} == before
    assert host.adapters == {ONE, TWO}


def test_a_bf16_base_keeps_its_dtype_under_a_float32_adapter(
    tiny: BaseModel, adapter: Adapter
) -> None:
    tiny.model.to(torch.bfloat16)
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.set_mix([MixMember(ONE)])

    assert tiny.model(IDS).logits.dtype == torch.bfloat16


def test_close_puts_the_plain_layers_back(tiny: BaseModel, adapter: Adapter) -> None:
    plain = tiny.model(IDS).logits
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.set_mix([MixMember(ONE)])

    host.close()

    assert not any(isinstance(m, MixedLinear) for m in tiny.model.modules())
    assert torch.equal(tiny.model(IDS).logits, plain)


def test_an_adapter_in_use_cannot_be_removed(tiny: BaseModel, adapter: Adapter) -> None:
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)
    host.set_mix([MixMember(ONE)])

    with pytest.raises(ConflictError, match="in the mix"):
        host.remove(ONE)
    host.set_mix([])
    host.remove(ONE)
    with pytest.raises(NotFoundError, match="not loaded"):
        host.set_mix([MixMember(ONE)])
    with pytest.raises(NotFoundError, match="not loaded"):
        host.remove(ONE)


def test_an_adapter_of_another_base_is_refused(tiny: BaseModel, adapter: Adapter) -> None:
    host = LoraHost(tiny.model, Digest("9" * 64))

    with pytest.raises(ConflictError, match="was trained on base model"):
        host.add(ONE, adapter)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_must_be_finite(tiny: BaseModel, adapter: Adapter, weight: float) -> None:
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)

    with pytest.raises(InvalidInputError, match="finite"):
        host.set_mix([MixMember(ONE, weight)])


def test_an_adapter_stands_once_in_a_mix(tiny: BaseModel, adapter: Adapter) -> None:
    host = LoraHost(tiny.model, tiny.digest)
    host.add(ONE, adapter)

    with pytest.raises(InvalidInputError, match="twice"):
        host.set_mix([MixMember(ONE), MixMember(ONE)])


def test_a_site_outside_the_model_is_named(tiny: BaseModel) -> None:
    with pytest.raises(NotFoundError, match=r"layers\.9"):
        linear_at(tiny.model, Site(9, TARGETS[0]))


BANKED_IDS = torch.tensor([[5, 80, 270, 9, 33, 2], [7, 7, 60, 61, 62, 63], [1, 2, 3, 4, 5, 6]])
BANKED_SHAPE = LoraShape(rank=3, alpha=6, layers=(2, 3))


def alone(base: BaseModel, adapter: Adapter, ids: torch.Tensor) -> torch.Tensor:
    host = LoraHost(base.model, base.digest)
    host.add(Digest("1" * 64), adapter)
    with host.mixed([MixMember(Digest("1" * 64))]) as model:
        logits: torch.Tensor = model(ids).logits
    host.close()
    return logits


@torch.no_grad()
def test_each_row_has_the_adapter_that_was_chosen_for_it(tiny: BaseModel) -> None:
    adapters = [lively_adapter(tiny, BANKED_SHAPE, seed=seed) for seed in range(3)]
    expected = [alone(tiny, adapter, BANKED_IDS) for adapter in adapters]

    with banked(tiny.model, adapters) as bank:
        everyone = tiny.model(BANKED_IDS.repeat(3, 1)).logits.split(3)
        bank.choose([2, 0])
        some = tiny.model(torch.cat([BANKED_IDS[:1], BANKED_IDS[1:2]])).logits

    for found, wanted in zip(everyone, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(some[0], expected[2][0], atol=1e-4)
    assert torch.allclose(some[1], expected[0][1], atol=1e-4)


def test_the_plain_layers_come_back_even_after_an_error(tiny: BaseModel) -> None:
    adapter = lively_adapter(tiny, BANKED_SHAPE, seed=1)
    before = linear_at(tiny.model, Site(2, "q_proj"))

    with pytest.raises(RuntimeError, match="on purpose"), banked(tiny.model, [adapter]):
        raise RuntimeError("on purpose")

    assert tiny.model.get_submodule("model.layers.2.self_attn.q_proj") is before


def test_others_read_their_adapters_while_some_are_trained_together(
    tiny: BaseModel, tmp_path: Path
) -> None:
    """Answers are attributed between the steps of a training."""
    adapter = lively_adapter(tiny, BANKED_SHAPE, seed=1)
    digest = save_adapter(tmp_path / "adapter", adapter, tiny.name)

    with banked(tiny.model, [adapter, adapter]):
        found = load_adapter(tmp_path / "adapter", tiny, digest)

    assert found.shape == adapter.shape


def test_adapters_of_other_shapes_or_none_are_refused(tiny: BaseModel) -> None:
    one = lively_adapter(tiny, BANKED_SHAPE, seed=1)
    other = lively_adapter(tiny, LoraShape(rank=2, alpha=6, layers=(2, 3)), seed=1)

    for adapters in ([], [one, other]):
        with pytest.raises(InvalidInputError, match="one shape"), banked(tiny.model, adapters):
            pass
