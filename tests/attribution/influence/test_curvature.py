import torch
from torch import Tensor

from openledger.attribution.influence.curvature import (
    Moments,
    Site,
    SiteGradient,
    Whitener,
    fit,
    rounded,
)

R, D_IN, D_OUT = 3, 40, 300
SITE = Site("site", "read", D_IN, D_OUT, R)


def sample(count: int, seed: int) -> tuple[dict[str, SiteGradient], Moments]:
    """Gradients that are outer products of vectors with known, very unequal covariances."""
    generator = torch.Generator().manual_seed(seed)
    slope_in, slope_out = torch.logspace(0, -2, D_IN), torch.logspace(0, -3, D_OUT)
    wide_in = torch.randn(count, D_IN, generator=generator) * slope_in
    rank_out = torch.randn(count, R, generator=generator)
    wide_out = torch.randn(count, D_OUT, generator=generator) * slope_out
    rank_in = torch.randn(count, R, generator=generator)
    a = rank_out[:, :, None] * wide_in[:, None, :]
    b = wide_out[:, :, None] * rank_in[:, None, :]
    moments = Moments(
        {"read": wide_in.T @ wide_in},
        {"site": wide_out.T @ wide_out},
        {"site": rank_out.T @ rank_out},
        {"site": rank_in.T @ rank_in},
    )
    return {"site": SiteGradient(a, b)}, moments


def fitted(count: int = 3_000, seed: int = 0) -> Whitener:
    gradients, moments = sample(count, seed)
    return fit([SITE], moments, [gradients], torch.Generator().manual_seed(1))


def damped_inverse(flat: Tensor, queries: Tensor) -> Tensor:
    fisher = flat.T @ flat
    ridge = 0.1 * fisher.trace() / len(fisher) * torch.eye(len(fisher))
    found: Tensor = queries @ torch.linalg.solve(fisher + ridge, queries.T)
    return found


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_whitened_products_are_those_of_the_damped_inverse_fisher() -> None:
    gradients, moments = sample(6_000, 0)
    whitener = fit([SITE], moments, [gradients], torch.Generator().manual_seed(1))
    queries, _ = sample(30, 1)
    features = whitener.features(queries)[0]
    exact = damped_inverse(gradients["site"].a.flatten(1), queries["site"].a.flatten(1))
    exact = exact + damped_inverse(gradients["site"].b.flatten(1), queries["site"].b.flatten(1))
    off = ~torch.eye(30, dtype=torch.bool)

    ours = features @ features.T

    assert correlation(ours[off], exact[off]) > 0.9
    assert correlation(ours.diagonal(), exact.diagonal()) > 0.9


def test_whitening_makes_directions_alike() -> None:
    whitener = fitted()
    features = whitener.features(sample(2_000, 2)[0])[0]
    energy = features.square().mean(0)
    kept = R * 40

    assert features.shape[1] == whitener.sizes()[0] == R * (40 + D_IN + 75 + D_OUT)
    assert energy[:kept].max() / energy[:kept].mean() < 5


def test_what_the_kept_vectors_leave_stays_small_but_counts() -> None:
    whitener = fitted()
    features = whitener.features(sample(200, 3)[0])[0]
    tail = features[:, -R * D_OUT :]

    assert 0 < tail.square().sum() < 0.5 * features.square().sum()


def test_features_are_linear() -> None:
    whitener = fitted()
    gradients, _ = sample(4, 5)
    site = gradients["site"]
    summed = {"site": SiteGradient(site.a.sum(0, keepdim=True), site.b.sum(0, keepdim=True))}

    assert torch.allclose(
        whitener.features(summed)[0], whitener.features(gradients)[0].sum(0), atol=1e-4
    )


def test_a_matrix_without_gradients_earns_nothing() -> None:
    gradients, moments = sample(50, 0)
    site = gradients["site"]
    silent = {"site": SiteGradient(torch.zeros_like(site.a), site.b)}
    whitener = fit([SITE], moments, [silent], torch.Generator().manual_seed(1))

    features = whitener.features(gradients)[0]

    assert not features[:, : R * 80].any()
    assert torch.isfinite(features).all()


def test_fitting_is_deterministic_and_rounding_costs_little() -> None:
    gradients, _ = sample(20, 7)
    one, other = fitted(), fitted()
    exact, coarse = one.features(gradients)[0], rounded(one).features(gradients)[0]

    assert torch.equal(exact, other.features(gradients)[0])
    assert correlation(exact @ exact.T, coarse @ coarse.T) > 0.999
