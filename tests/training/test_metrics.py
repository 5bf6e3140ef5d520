"""Formulas against closed forms, plain loops and SciPy; and the properties that make the figures worth reading."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from training import metrics
from training.emblems import render, sample_emblems
from training.train_features import deformed


def normal(count: int, dim: int = 6, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * scale + shift


def test_fid_is_the_frechet_distance_of_the_fitted_gaussians():
    real, fake = normal(500), normal(400, seed=1, shift=0.5, scale=2.0)
    x, y = real.double().numpy(), fake.double().numpy()
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * linalg.sqrtm(cov_x @ cov_y).real)
    found = metrics.fid(real, fake)
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert 0 < found.error < 0.3 * found.value


def test_kid_is_the_unbiased_estimate():
    real, fake = normal(40), normal(30, seed=1, shift=1.0)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / 6 + 1) ** 3

    def plain(part: torch.Tensor) -> float:
        within = [
            np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (real, part)
        ]
        return sum(within) - 2 * np.mean([kernel(a, b) for a in real for b in part])

    parts = [plain(fake[3 * i : 3 * i + 3]) for i in range(10)]
    found = metrics.kid(real, fake)
    assert found.value == pytest.approx(np.mean(parts), rel=1e-4)
    assert found.error == pytest.approx(np.std(parts, ddof=1) / math.sqrt(10), rel=1e-4)


@pytest.mark.parametrize("count", [2, 3, 64, 101])
def test_kid_has_an_error_for_any_number_of_fakes(count):
    found = metrics.kid(normal(40), normal(count, seed=1))
    assert math.isfinite(found.value) and (count < 4 or math.isfinite(found.error))


def test_kid_of_equal_distributions_is_zero_within_its_error():
    scores = [
        found.value / found.error
        for seed in range(12)
        for found in [metrics.kid(normal(600, seed=seed), normal(300, seed=100 + seed))]
    ]
    assert abs(np.mean(scores)) < 1.2 and min(scores) < 0 < max(scores)


def test_manifold_metrics_agree_with_a_plain_loop():
    real, fake = normal(30), normal(30, seed=1, shift=0.7)

    def ball(points: torch.Tensor, i: int) -> float:
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[2]

    in_real = [[float((r - f).norm()) <= ball(real, i) for i, r in enumerate(real)] for f in fake]
    in_fake = [[float((r - f).norm()) <= ball(fake, j) for j, f in enumerate(fake)] for r in real]
    found = metrics.manifold_metrics(real, fake, k=3)
    assert found["precision"].value == pytest.approx(np.mean([any(row) for row in in_real]))
    assert found["recall"].value == pytest.approx(np.mean([any(row) for row in in_fake]))
    assert found["density"].value == pytest.approx(np.mean([sum(row) / 3 for row in in_real]))
    assert found["coverage"].value == pytest.approx(np.mean(np.array(in_real).any(axis=0)))


def test_one_picture_again_and_again_has_precision_without_recall():
    real = normal(300)
    same = real[:1] + 1e-3 * normal(300, seed=1)
    found = metrics.manifold_metrics(real, same)
    assert found["precision"].value == 1 and found["recall"].value < 0.01 and found["coverage"].value < 0.1
    apart = metrics.manifold_metrics(real, normal(300, seed=2, shift=50))
    assert apart["precision"].value == apart["density"].value == apart["coverage"].value == 0


def test_intra_cluster_diversity_averages_pairs_within_clusters():
    training = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    fake = torch.tensor([[0.0, 1.0], [0.0, -1.0], [10.0, 0.0], [10.0, 3.0], [10.0, -3.0], [20.0, 0.0]])
    assert metrics.intra_cluster_diversity(fake, training).value == pytest.approx((2 + (3 + 3 + 6) / 3) / 2)
    assert metrics.intra_cluster_diversity(training, training).value == 0


def test_copying_is_one_percent_for_true_draws_and_all_for_copies():
    training, real = normal(15, seed=9), normal(10_000)
    assert metrics.copying(real, normal(10_000, seed=1), training).value == pytest.approx(0.01, abs=0.004)
    assert metrics.copying(real, training, training).value == 1
    half = torch.cat([normal(100, seed=2), training[torch.arange(100) % 15] + 1e-3])
    found = metrics.copying(real, half, training)
    assert found.value == pytest.approx(0.5, abs=0.02) and found.error == pytest.approx(0.035, abs=0.005)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
def test_mann_whitney_agrees_with_scipy(m, n, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 9, m).astype(float), rng.integers(0, 9, n).astype(float)
    u = stats.mannwhitneyu(x, y).statistic
    expected = (u - m * n / 2) / math.sqrt(m * n * (m + n + 1) / 12)
    assert metrics.mann_whitney_z(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected)


def test_data_copying_is_a_z_score_below_zero_for_copies_and_above_for_strangers():
    training, real = normal(5, seed=9), normal(2000)
    scores = [metrics.data_copying(real, normal(500, seed=seed), training) for seed in range(1, 13)]
    assert abs(np.mean([s.value / s.error for s in scores])) < 0.9
    copies = training[torch.arange(500) % 5] + 0.05 * normal(500, seed=3)
    assert metrics.data_copying(real, copies, training).value < -10
    assert metrics.data_copying(real, normal(500, seed=4, scale=3.0), training).value > 5
    assert math.isnan(metrics.data_copying(real, training, training).value)  # too few in each cell


def test_turned_copies_of_a_training_picture_share_its_cell():
    """Two pictures, each twice; against scipy's Mann-Whitney test in the cells of the two, weighted by their real ones."""
    training, real, fake = normal(4, seed=9), normal(2000), normal(500, seed=1, scale=1.2)
    where = {name: torch.cdist(some, training).min(dim=1) for name, some in (("real", real), ("fake", fake))}
    total = 0.0
    for picture in (0, 1):
        p, q = (some.values[(some.indices == picture) | (some.indices == picture + 2)] for some in where.values())
        u = stats.mannwhitneyu(q, p).statistic
        total += (
            len(p) / len(real) * (u - len(p) * len(q) / 2) / math.sqrt(len(p) * len(q) * (len(p) + len(q) + 1) / 12)
        )
    assert metrics.data_copying(real, fake, training, 2).value == pytest.approx(total, rel=1e-6)
    assert metrics.data_copying(real, fake, training).value != pytest.approx(total, rel=1e-2)


def test_pictures_out_of_round_are_measured_in_percent():
    emblems = [e for e in sample_emblems("sharingan", range(60)) if e.order in (3, 4)][:16]
    images = render(emblems, 128)
    assert metrics.symmetry(images).value > 0.9
    assert metrics.deformation(images).value < 0.3
    bent = deformed(images, torch.full((16,), 0.04), torch.Generator().manual_seed(0))
    assert metrics.deformation(bent).value == pytest.approx(4, rel=0.25)
    assert metrics.symmetry(bent).value < 0.9
    assert math.isnan(metrics.deformation(torch.rand(2, 3, 64, 64)).value)


def test_the_error_of_a_mean_shrinks_with_the_root_of_the_number():
    x = torch.rand(10_000)
    assert metrics.mean(x).error == pytest.approx(math.sqrt(1 / 12 / 10_000), rel=0.03)
    assert math.isnan(metrics.mean(x[:1]).error)
