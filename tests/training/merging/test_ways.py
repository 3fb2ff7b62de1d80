import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel
from openledger.lm.checkpoint import tensors_of
from openledger.lm.lora import Adapter, LoraPair, LoraShape, Site
from openledger.training.merging.ways import (
    Merging,
    Term,
    Way,
    _largest,
    _random_part,
    is_near,
    merge,
)
from tests.lm.adapters import lively_adapter

SEED = bytes(range(32))
LAYERS, TARGETS = (2, 3), ("q_proj", "down_proj")
# peft 0.21 still asks transformers 5.23 by a name that goes away in v6.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def shape(rank: int, targets: tuple[str, ...] = TARGETS, alpha: int = 8) -> LoraShape:
    return LoraShape(rank, alpha, LAYERS, targets)


def change(adapter: Adapter, site: Site) -> torch.Tensor:
    pair = adapter.pairs[site]
    return pair.b @ pair.a * adapter.shape.scale


@pytest.fixture
def terms(base: BaseModel) -> list[Term]:
    return [
        Term(lively_adapter(base, shape(4), seed=1), 0.75, "one"),
        Term(lively_adapter(base, shape(3), seed=2), 0.5, "two"),
    ]


def by_peft(base: BaseModel, terms: list[Term], way: str, rank: int) -> dict[Site, torch.Tensor]:
    """What peft's `add_weighted_adapter` adds at each site, at a density of a half."""
    names = [f"m{place}" for place in range(len(terms))]
    model = None
    for name, term in zip(names, terms, strict=True):
        config = LoraConfig(
            r=term.adapter.shape.rank,
            lora_alpha=term.adapter.shape.alpha,
            target_modules=list(TARGETS),
            layers_to_transform=list(LAYERS),
        )
        if model is None:
            model = get_peft_model(base.model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        state = dict(model.named_parameters())
        for key, tensor in tensors_of(term.adapter).items():
            state[key.replace(".weight", f".{name}.weight")].data.copy_(tensor)
    assert model is not None
    weights = [term.weight for term in terms]
    model.base_model.add_weighted_adapter(
        names, weights, "all", combination_type=way, svd_rank=rank, density=0.5
    )
    modules = dict(model.base_model.model.named_modules())
    found = {
        Site(layer, target): modules[Site(layer, target).module].get_delta_weight("all").detach()
        for layer in LAYERS
        for target in TARGETS
    }
    model.unload()
    return found


@PEFT_WARNS
@pytest.mark.parametrize(("way", "name"), [(Way.SVD, "svd"), (Way.TIES, "ties_svd")])
@pytest.mark.parametrize("rank", [2, 16])
def test_a_merge_adds_what_pefts_does(
    base: BaseModel, terms: list[Term], way: Way, name: str, rank: int
) -> None:
    expected = by_peft(base, terms, name, rank)

    found = merge(base, terms, Merging(way, 5_000), shape(rank), SEED).adapter

    for site in found.shape.sites:
        assert (change(found, site) - expected[site]).abs().max() < 1e-4


def test_a_sum_of_all_ranks_loses_nothing_and_less_rank_loses_more(
    base: BaseModel, terms: list[Term]
) -> None:
    lost = [merge(base, terms, Merging(Way.SVD), shape(rank), SEED).lost for rank in (1, 3, 5, 7)]

    assert lost == sorted(lost, reverse=True)
    assert 1 > lost[0] > lost[2] > 0.01
    assert lost[3] < 1e-5


def test_the_scale_of_the_shape_changes_the_factors_alone(
    base: BaseModel, terms: list[Term]
) -> None:
    one = merge(base, terms, Merging(Way.SVD), shape(4, alpha=4), SEED).adapter
    other = merge(base, terms, Merging(Way.SVD), shape(4, alpha=64), SEED).adapter

    for site in one.shape.sites:
        assert torch.allclose(change(one, site), change(other, site), atol=1e-4)


def test_a_member_without_a_site_adds_nothing_there(base: BaseModel) -> None:
    one = lively_adapter(base, shape(2, ("q_proj",)), seed=1)
    other = lively_adapter(base, LoraShape(2, 8, (3,), TARGETS), seed=2)

    found = merge(
        base, [Term(one, 1.0, "one"), Term(other, 1.0, "other")], Merging(Way.SVD), shape(4), SEED
    )

    only_one, only_other, both = Site(2, "q_proj"), Site(3, "down_proj"), Site(3, "q_proj")
    adapter = found.adapter
    assert torch.allclose(change(adapter, only_one), change(one, only_one), atol=1e-4)
    assert torch.allclose(change(adapter, only_other), change(other, only_other), atol=1e-4)
    summed = change(one, both) + change(other, both)
    assert torch.allclose(change(adapter, both), summed, atol=1e-4)
    assert not change(adapter, Site(2, "down_proj")).any()


def test_dare_keeps_numbers_by_its_seed_and_their_sum_on_average(
    base: BaseModel, terms: list[Term]
) -> None:
    # With a rank as large as the layers nothing is cut, so that single numbers can be seen.
    (term, _), site = terms, Site(2, "q_proj")
    full = shape(base.model.config.hidden_size)
    whole = change(term.adapter, site) * term.weight

    def dare(seed: bytes) -> torch.Tensor:
        return change(merge(base, [term], Merging(Way.DARE, 2_500), full, seed).adapter, site)

    drawn = [dare(bytes([number]) * 32) for number in range(8)]
    kept = (drawn[0].abs() > 1e-3 * whole.abs().mean()) & (whole.abs() > 1e-2 * whole.abs().mean())

    assert torch.equal(drawn[0], dare(bytes(32)))
    assert not torch.equal(drawn[0], drawn[1])
    assert 0.2 < kept.float().mean() < 0.3
    assert torch.allclose(drawn[0][kept], 4 * whole[kept], rtol=1e-2, atol=1e-4)
    mean = torch.stack(drawn).mean(0)
    assert abs(float((mean * whole).sum() / whole.square().sum()) - 1) < 0.1


def test_dare_draws_for_each_member_and_site_by_its_own_name(
    base: BaseModel, terms: list[Term]
) -> None:
    """So that a merge without one member keeps of the others what the whole merge does."""
    (one, two), full = terms, shape(base.model.config.hidden_size)

    def dare(*some: Term) -> Adapter:
        return merge(base, some, Merging(Way.DARE, 5_000), full, SEED).adapter

    both, alone, renamed = dare(one, two), dare(two), dare(msgspec.structs.replace(two, name="x"))

    for site in both.shape.sites:
        rest = change(both, site) - change(alone, site)
        assert torch.allclose(rest, change(dare(one), site), atol=1e-4)
        assert not torch.allclose(change(alone, site), change(renamed, site), atol=1e-2)
    first, second = (change(alone, Site(layer, "q_proj")).abs() < 1e-5 for layer in LAYERS)
    assert not torch.equal(first, second)


@given(density_bps=st.integers(1, 10_000))
def test_ties_keeps_the_largest_numbers_and_dare_makes_up_for_what_it_drops(
    density_bps: int,
) -> None:
    numbers = torch.linspace(1, 2, 2_000)
    density = Merging(Way.DARE, density_bps).density

    largest = _largest(numbers.view(40, 50), density).flatten()
    random = _random_part(numbers.view(40, 50), density, SEED).flatten()

    kept = int(density * 2_000)
    assert torch.equal(largest[2_000 - kept :], numbers[2_000 - kept :])
    assert not largest[: 2_000 - kept].any()
    assert torch.allclose(random[random != 0], (numbers / density)[random != 0])


def test_what_cannot_be_merged_is_refused(base: BaseModel, terms: list[Term]) -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        merge(base, [], Merging(Way.SVD), shape(4), SEED)
    for weight in (0.0, -0.5):
        for way in Way:
            bad = [terms[0], msgspec.structs.replace(terms[1], weight=weight)]
            with pytest.raises(InvalidInputError, match="above 0, or leave it out"):
                merge(base, bad, Merging(way), shape(4), SEED)
    for density in (0, -1, 10_001):
        with pytest.raises(InvalidInputError, match="density"):
            Merging(Way.TIES, density)


def test_where_no_member_adapts_a_layer_nothing_is_added(base: BaseModel) -> None:
    one = lively_adapter(base, LoraShape(2, 8, (2,), ("q_proj",)), seed=1)

    found = merge(base, [Term(one, 1.0, "one")], Merging(Way.SVD), shape(2), SEED)

    assert change(found.adapter, Site(2, "q_proj")).any()
    assert not change(found.adapter, Site(3, "down_proj")).any()
    assert found.lost < 1e-5


def test_an_adapter_beyond_any_number_is_near_to_none(base: BaseModel, terms: list[Term]) -> None:
    honest = merge(base, terms, Merging(Way.SVD), shape(4), SEED).adapter
    vast = {site: LoraPair(pair.a * 1e30, pair.b * 1e30) for site, pair in honest.pairs.items()}

    assert is_near(honest, honest, 0.001)
    assert not is_near(Adapter(honest.shape, honest.base, vast), honest, 0.001)
    moved = {site: LoraPair(pair.a * 1.01, pair.b) for site, pair in honest.pairs.items()}
    assert not is_near(Adapter(honest.shape, honest.base, moved), honest, 0.001)
    assert is_near(Adapter(honest.shape, honest.base, moved), honest, 0.02)
