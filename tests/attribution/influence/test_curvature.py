import pytest
import torch
from torch import Tensor

from openledger.attribution.influence import curvature
from openledger.attribution.influence.curvature import (
    Gradients,
    Site,
    SiteGradient,
    Votes,
    Whitener,
    fit,
    searched,
)
from openledger.attribution.method import DAMPING
from openledger.core.errors import InvalidInputError

R, D_IN, D_OUT = 3, 40, 600
SITE = Site("site", "read", D_IN, D_OUT, R)
ALL = R * (searched(D_IN) + searched(D_OUT))


def sample(count: int, seed: int) -> dict[str, SiteGradient]:
    """Gradients that are outer products of vectors with known, very unequal covariances."""
    generator = torch.Generator().manual_seed(seed)
    slope_in, slope_out = torch.logspace(0, -2, D_IN), torch.logspace(0, -3, D_OUT)
    wide_in = torch.randn(count, D_IN, generator=generator) * slope_in
    rank_out = torch.randn(count, R, generator=generator)
    wide_out = torch.randn(count, D_OUT, generator=generator) * slope_out
    rank_in = torch.randn(count, R, generator=generator)
    a = rank_out[:, :, None] * wide_in[:, None, :]
    b = wide_out[:, :, None] * rank_in[:, None, :]
    return {"site": SiteGradient(a, b)}


def votes(gradients: Gradients, weights: Tensor | None = None) -> list[Votes]:
    count = len(next(iter(gradients.values())).a)
    return [Votes(gradients, torch.ones(count) if weights is None else weights)]


def fitted(count: int = 2_000, seed: int = 0, width: int = ALL) -> Whitener:
    gradients = sample(count, seed)
    return fit([SITE], [gradients], votes(gradients), width, torch.Generator().manual_seed(1))


def damped_inverse(flat: Tensor, queries: Tensor) -> Tensor:
    fisher = flat.T @ flat
    ridge = DAMPING * fisher.trace() / len(fisher) * torch.eye(len(fisher))
    found: Tensor = queries @ torch.linalg.solve(fisher + ridge, queries.T)
    return found


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def products(whitener: Whitener, gradients: dict[str, SiteGradient]) -> Tensor:
    features = whitener.whiten(gradients)[0]
    return features @ features.T


def test_whitened_products_are_those_of_the_damped_inverse_fisher() -> None:
    gradients, queries = sample(6_000, 0), sample(30, 1)
    whitener = fit([SITE], [gradients], votes(gradients), ALL, torch.Generator().manual_seed(1))
    exact = damped_inverse(gradients["site"].a.flatten(1), queries["site"].a.flatten(1))
    exact = exact + damped_inverse(gradients["site"].b.flatten(1), queries["site"].b.flatten(1))
    off = ~torch.eye(30, dtype=torch.bool)

    ours = products(whitener, queries)

    assert correlation(ours[off], exact[off]) > 0.9
    assert correlation(ours.diagonal(), exact.diagonal()) > 0.9


def test_no_direction_outweighs_another_once_whitened() -> None:
    whitener = fitted()
    energy = whitener.whiten(sample(2_000, 2))[0].square().sum(0)

    assert len(energy) == whitener.widths[0] == ALL
    assert energy.max() < 1.5  # one a direction, were the two samples the same


def test_the_strongest_features_tell_more_than_their_number() -> None:
    queries = sample(200, 3)
    everything = fitted()
    energy = everything.whiten(queries)[0].square().sum()

    for part in (2, 4, 8):
        few = fitted(width=ALL // part)

        assert few.widths == (ALL // part,)
        assert few.whiten(queries)[0].square().sum() > 1.3 * energy / part
    assert (
        correlation(products(fitted(width=ALL // 2), queries), products(everything, queries)) > 0.9
    )


def test_features_are_shared_among_sites_by_what_they_tell() -> None:
    loud, faint = Site("loud", "a", D_IN, D_IN, R), Site("faint", "b", D_IN, D_IN, R)
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(500, R, D_IN, generator=generator)
    steep = flat * torch.logspace(0, -4, D_IN)  # few directions stand above the damping
    gradients = {
        "loud": SiteGradient(flat, flat.transpose(1, 2)),
        "faint": SiteGradient(steep, steep.transpose(1, 2)),
    }

    both = [loud, faint]
    whitener = fit(both, [gradients], votes(gradients), 200, torch.Generator().manual_seed(1))

    assert sum(whitener.widths) == 200
    assert whitener.widths[0] > whitener.widths[1]


def test_features_are_linear() -> None:
    whitener = fitted()
    gradients = sample(4, 5)
    site = gradients["site"]
    summed = {"site": SiteGradient(site.a.sum(0, keepdim=True), site.b.sum(0, keepdim=True))}

    assert torch.allclose(
        whitener.whiten(summed)[0], whitener.whiten(gradients)[0].sum(0), atol=1e-4
    )


def test_a_matrix_without_gradients_earns_nothing() -> None:
    gradients = sample(50, 0)
    site = gradients["site"]
    silent = {"site": SiteGradient(torch.zeros_like(site.a), site.b)}
    heard = R * searched(D_OUT)

    whitener = fit([SITE], [silent], votes(gradients), heard, torch.Generator().manual_seed(1))

    features = whitener.whiten(gradients)[0]
    only_b = {"site": SiteGradient(torch.zeros_like(site.a), site.b)}
    assert torch.equal(features, whitener.whiten(only_b)[0])
    assert torch.isfinite(features).all()
    assert features.any()


def test_fitting_is_deterministic() -> None:
    one, other = fitted(), fitted()

    assert torch.equal(one.whiten(sample(20, 7))[0], other.whiten(sample(20, 7))[0])


def test_features_are_those_that_documents_have_most_of() -> None:
    sampled, documents = sample(2_000, 0), sample(6, 1)
    few = fit([SITE], [sampled], votes(documents), 60, torch.Generator().manual_seed(1))
    others = fit([SITE], [sampled], votes(sample(2_000, 9)), 60, torch.Generator().manual_seed(1))

    def kept(whitener: Whitener) -> float:
        return float(whitener.whiten(documents)[0].square().sum())

    assert kept(few) > 1.3 * kept(others)


def test_no_row_chooses_more_features_by_a_long_gradient() -> None:
    sampled, documents = sample(2_000, 0), sample(6, 1)
    site = documents["site"]
    longer = torch.tensor([1e3, 1, 1, 1, 1, 1])[:, None, None]
    stretched = {"site": SiteGradient(site.a * longer, site.b * longer)}

    one, other = (
        fit([SITE], [sampled], votes(chosen), 60, torch.Generator().manual_seed(1))
        for chosen in (documents, stretched)
    )

    assert torch.equal(one.whiten(documents)[0], other.whiten(documents)[0])


def test_many_short_rows_choose_no_more_than_their_tokens() -> None:
    sampled, documents = sample(2_000, 0), sample(6, 1)
    site = documents["site"]
    times = torch.tensor([1, 1, 1, 1, 1, 50])
    split = SiteGradient(site.a.repeat_interleave(times, 0), site.b.repeat_interleave(times, 0))
    weights = torch.tensor([50.0] * 5 + [1.0] * 50)  # the last one's tokens in fifty rows

    one, other = (
        fit([SITE], [sampled], chosen, 60, torch.Generator().manual_seed(1))
        for chosen in (votes(documents), votes({"site": split}, weights))
    )

    assert torch.equal(one.whiten(documents)[0], other.whiten(documents)[0])


def test_a_row_without_weight_chooses_nothing() -> None:
    sampled, documents = sample(2_000, 0), sample(6, 1)
    site = documents["site"]
    fewer = {"site": SiteGradient(site.a[:5], site.b[:5])}
    weights = torch.tensor([1.0] * 5 + [0.0])

    one, other = (
        fit([SITE], [sampled], chosen, 60, torch.Generator().manual_seed(1))
        for chosen in (votes(fewer), votes(documents, weights))
    )

    assert torch.equal(one.whiten(documents)[0], other.whiten(documents)[0])


def test_a_gradient_beyond_all_measure_is_refused() -> None:
    documents = sample(6, 1)
    documents["site"].a[3] = 1e30

    with pytest.raises(InvalidInputError, match="not finite once whitened"):
        fit([SITE], [sample(50, 0)], votes(documents), 60, torch.Generator().manual_seed(1))


def test_eigenvectors_in_no_feature_are_not_kept_and_not_missed() -> None:
    gradients, queries = sample(500, 0), sample(5, 3)
    everything = fitted(500)
    few = fit([SITE], [gradients], votes(queries), 40, torch.Generator().manual_seed(1))

    sizes = [len(few.wide_in["read"].steps), len(few.wide_out["site"].steps)]
    assert sum(sizes) <= 40
    found = few.whiten(queries)[0]
    of_all = everything.whiten(queries)[0]
    # The forty largest of all coefficients by their mean share of a document, in order.
    shares = (of_all.square() / of_all.square().sum(1, keepdim=True)).mean(0)
    chosen = torch.sort(torch.argsort(shares, descending=True, stable=True)[:40]).values
    assert torch.allclose(found, of_all[:, chosen], rtol=1e-2, atol=1e-6)


def test_of_a_large_factor_the_leading_eigenvectors_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(curvature, "MOST_DECOMPOSED", 100)
    monkeypatch.setattr(curvature, "LEADING", 50)
    queries, everything = sample(30, 1), sample(2_000, 0)
    silent = torch.zeros(30, R, D_IN)  # of the large side alone

    few = fitted(width=R * (D_IN + 50))

    assert searched(D_OUT) == 50
    basis = few.wide_out["site"].turn(torch.eye(D_OUT)).T  # (50, D_OUT)
    wide = everything["site"].b.transpose(1, 2).flatten(0, 1)
    leading = torch.linalg.eigvalsh(wide.T @ wide).flip(0)[:50].sum()
    assert (wide @ basis.T).square().sum() > 0.95 * leading
    assert few.whiten({"site": SiteGradient(silent, queries["site"].b)})[0].any()
