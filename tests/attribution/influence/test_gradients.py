import numpy as np
import pytest
import torch

from openledger.attribution.influence.curvature import SiteGradient
from openledger.attribution.influence.gradients import ProbedModel, label_gradients, log_chances
from openledger.core.errors import InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter, LoraHost, MixMember, Site
from tests.attribution.releases import ADAPTER, some_adapter, some_text

TEXTS = (some_text(1, 9), some_text(2, 3), some_text(3, 14))
STARTS = (1, 4, 2)


def by_autograd(base: BaseModel, adapter: Adapter, row: list[int], start: int) -> torch.Tensor:
    """The summed loss of a row's tokens from `start` on, with a graph to the factors."""
    host = LoraHost(base.model, base.digest)
    host.add(ADAPTER, adapter)
    try:
        with host.mixed([MixMember(ADAPTER)]) as model:
            logs = torch.log_softmax(model(torch.tensor([row])).logits[0, :-1], -1)
    finally:
        host.close()
    return -logs.gather(1, torch.tensor(row[1:])[:, None])[start - 1 :].sum()


def gradients(model: ProbedModel, rows: list[list[int]]) -> dict[str, SiteGradient]:
    batch = model.batch(rows, STARTS[: len(rows)])
    states = model.upper(batch, has_graph=True)
    return model.gradients(states, label_gradients(model, batch, states).true)


def test_gradients_are_those_of_plain_autograd_row_by_row(base: BaseModel) -> None:
    adapter = some_adapter(base)
    rows = [base.tokenizer.encode(text) for text in TEXTS]
    found = gradients(ProbedModel(base, adapter), rows)

    for pair in adapter.pairs.values():
        pair.a.requires_grad_(True)
        pair.b.requires_grad_(True)
    for i, (row, start) in enumerate(zip(rows, STARTS, strict=True)):
        wanted = torch.autograd.grad(
            by_autograd(base, adapter, row, start),
            [factor for pair in adapter.pairs.values() for factor in (pair.a, pair.b)],
        )
        seen = [
            factor
            for site in adapter.pairs
            for factor in (found[site.module].a[i], found[site.module].b[i])
        ]
        for ours, theirs in zip(seen, wanted, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


def test_padding_changes_nothing(base: BaseModel, model: ProbedModel) -> None:
    rows = [base.tokenizer.encode(text) for text in TEXTS]

    together = gradients(model, rows)
    alone = gradients(model, rows[:1])

    for name, gradient in alone.items():
        assert torch.allclose(together[name].a[0], gradient.a[0], atol=1e-5)
        assert torch.allclose(together[name].b[0], gradient.b[0], atol=1e-5)


def test_the_base_that_was_given_is_left_alone(base: BaseModel, model: ProbedModel) -> None:
    ids = torch.tensor([base.tokenizer.encode(TEXTS[0])])
    before = base.model(ids).logits

    gradients(model, [base.tokenizer.encode(text) for text in TEXTS])

    assert torch.equal(base.model(ids).logits, before)
    shared = model.base.model.model.layers[3].mlp.up_proj.linear.weight
    assert shared.data_ptr() == base.model.model.layers[3].mlp.up_proj.weight.data_ptr()


def test_adapters_that_sit_on_the_base_do_not_count(base: BaseModel) -> None:
    rows = [base.tokenizer.encode(TEXTS[0])]
    alone = gradients(ProbedModel(base, some_adapter(base)), rows)
    host = LoraHost(base.model, base.digest)
    host.add(ADAPTER, some_adapter(base, seed=9))
    try:
        with host.mixed([MixMember(ADAPTER)]):
            beside = gradients(ProbedModel(base, some_adapter(base)), rows)
    finally:
        host.close()

    assert all(torch.equal(alone[name].a, beside[name].a) for name in alone)


def test_log_chances_are_those_of_the_model(base: BaseModel) -> None:
    adapter = some_adapter(base)
    model = ProbedModel(base, adapter)
    row = base.tokenizer.encode(TEXTS[1])
    batch = model.batch([row], [4])
    adapted = log_chances(model, batch, model.upper(batch))
    plain = log_chances(model, batch, model.upper(batch, is_adapted=False))

    logs = torch.log_softmax(base.model(torch.tensor([row])).logits[0, :-1], -1)
    wanted = logs.gather(1, torch.tensor(row[1:])[:, None])[3:, 0]

    assert len(adapted) == len(row) - 4
    assert torch.allclose(plain, wanted, atol=1e-4)
    assert torch.isclose(-adapted.sum(), by_autograd(base, adapter, row, 4), atol=1e-3)


def test_drawn_labels_follow_the_model(base: BaseModel, model: ProbedModel) -> None:
    """Over the whole distribution, the gradient of drawn labels has mean zero."""
    row = base.tokenizer.encode(TEXTS[1])[:3]
    batch = model.batch([row] * 2_000, [2] * 2_000)
    states = model.upper(batch)
    uniforms = (np.arange(2_000) + 0.5) / 2_000

    labels = label_gradients(model, batch, states, uniforms)

    assert labels.sampled is not None
    spread = labels.sampled[:, 1].norm(dim=1).mean()
    assert labels.sampled[:, 1].mean(0).norm() < 0.02 * spread
    assert labels.true[:, 1].mean(0).norm() > 0.5 * spread
    assert not labels.sampled[:, 0].any()  # the prompt has no loss


def test_layers_that_read_the_same_share_a_name(model: ProbedModel) -> None:
    reads = {site.name.split("layers.")[1]: site.reads for site in model.sites}

    assert reads["2.self_attn.q_proj"] == reads["2.self_attn.v_proj"] == "2.qkv"
    assert reads["2.mlp.gate_proj"] == reads["2.mlp.up_proj"] == "2.mlp"
    assert len(set(reads.values())) == 8  # four vectors in each of two layers


def test_another_base_is_refused(base: BaseModel) -> None:
    adapter = some_adapter(base)
    stranger = Adapter(adapter.shape, Digest("f" * 64), adapter.pairs)

    with pytest.raises(InvalidInputError, match="trained on base model fff"):
        ProbedModel(base, stranger)


def test_sites_are_in_the_order_of_the_adapter(base: BaseModel, model: ProbedModel) -> None:
    first = Site(2, "q_proj")

    assert model.sites[0].name == first.module
    assert (model.sites[0].inputs, model.sites[0].outputs, model.sites[0].rank) == (64, 64, 4)
