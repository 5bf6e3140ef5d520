import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sharingan_hub.postprocess.circularize import circularize
from sharingan_hub.postprocess.radial_scale import RadialScale, bernstein, warp
from training.emblems import render, sample_emblems

TURN = 2 * math.pi
THETA = torch.arange(1024, dtype=torch.float64) * (TURN / 1024)
RED, GREEN = (0.8, 0.1, 0.15), (0.1, 0.4, 0.2)


def random_logs(seed: int, rms: float = 0.03, harmonics: int = 6, lowest: int = 2) -> torch.Tensor:
    """Coefficients (1, 1, 2, K) of a log s of this RMS."""
    coefficients = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 1, 2, harmonics)))
    coefficients[..., : lowest - 1] = 0
    return coefficients * rms / (coefficients.square().sum() / 2).sqrt()


def disc(scale, size=128, shift=(0.0, 0.0), radius=0.72, ring=True, inside=RED, outside=(0.9,) * 3) -> torch.Tensor:
    """A disc (1, 3, S, S), with a ring and a pupil, out of round by `scale`; differentiable in its coefficients."""
    supersample = 3
    axis = (torch.arange(size * supersample, dtype=torch.float64) + 0.5) / supersample - size / 2
    x, y = axis[None] - shift[0], -(axis[:, None] - shift[1])
    r = torch.hypot(x, y) / scale(torch.atan2(y, x))[0]

    def cover(edge: float) -> torch.Tensor:
        return ((edge * size / 2 - r) * supersample + 0.5).clamp(0, 1)

    picture = torch.lerp(
        torch.tensor(outside).double()[:, None, None], torch.tensor(inside).double()[:, None, None], cover(radius)
    )
    if ring:
        picture = picture * (1 - 0.9 * (cover(radius * 0.6) - cover(radius * 0.52) + cover(radius * 0.2)))
    return F.avg_pool2d(picture[None], supersample)


def radial_error(result, truth, size=128, shift=(0.0, 0.0), radius=0.72, i=0) -> float:
    """RMS in pixels of where the true outer edge comes to lie."""
    r = radius * size / 2 * truth(THETA)[i]
    x = size / 2 + shift[0] + r * THETA.cos() - result.center[i, 0]
    y = size / 2 + shift[1] - r * THETA.sin() - result.center[i, 1]
    repaired = torch.hypot(x, y) / result.scale(torch.atan2(-y, x))[i]
    return repaired.std().item()


def edge_radius(picture: torch.Tensor, inside, outside) -> torch.Tensor:
    """Radius of the disc's edge at each angle, measured in the picture: the area under the coverage along the ray."""
    from sharingan_hub.postprocess.polar import to_polar

    size = picture.shape[-1]
    radii = torch.arange(0.32 * size, 0.45 * size, 0.25, dtype=torch.float64)
    ray = to_polar(picture, radii, THETA[::4], mode="bicubic")[0, 0]
    return radii[0] - 0.125 + ((ray - outside[0]) / (inside[0] - outside[0])).sum(0) * 0.25


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, -3.0)])
def test_a_distorted_disc_comes_back_round(seed, shift):
    truth = RadialScale(random_logs(seed))
    picture = disc(truth, shift=shift)
    result = circularize(picture)
    assert result.ok.all() and result.confidence.item() > 0.9
    assert radial_error(result, truth, shift=shift) < 0.03
    assert radial_error(circularize(picture[:, :1]), truth, shift=shift) < 0.03
    # ... and so it does in the pixels.
    before = edge_radius(disc(truth), RED, (0.9,) * 3).std()
    after = edge_radius(result.images, RED, (0.9,) * 3).std()
    assert before > 1.2 and after < 0.06
    offset = result.center[0] - 64 - torch.tensor(shift, dtype=torch.float64)
    assert offset.abs().max() < 0.05


@pytest.mark.parametrize("background", [(0.0,) * 3, (1.0,) * 3, (0.15, 0.32, 0.04)])
def test_any_background_will_do(background):
    """The last one has the luminance of the disc."""
    truth = RadialScale(random_logs(7))
    assert radial_error(circularize(disc(truth, outside=background)), truth) < 0.05


@pytest.mark.parametrize(("rms", "bound"), [(0.06, 0.05), (0.1, 0.1)])
def test_strong_distortions(rms, bound):
    for seed in range(3):
        truth = RadialScale(random_logs(seed, rms, lowest=1))
        result = circularize(disc(truth, radius=0.64))
        assert result.ok.all() and radial_error(result, truth, radius=0.64) < bound


def test_as_many_harmonics_as_the_picture_asks_for():
    twelve = torch.zeros(1, 1, 2, 12, dtype=torch.float64)
    twelve[0, 0, 0, 11] = 0.03
    result = circularize(disc(RadialScale(twelve)))
    assert radial_error(result, RadialScale(twelve)) < 0.1
    assert (result.scale.coefficients[0, 0].norm(dim=0) > 0).sum() < 12
    few = circularize(disc(RadialScale(twelve)), harmonics=6)
    assert few.scale.coefficients.shape == (1, 1, 2, 6)
    assert not few.ok.all() or radial_error(few, RadialScale(twelve)) > 0.5


def test_emblems_with_patterns_and_noise():
    size = 128
    emblems = render(sample_emblems("sharingan", range(4)), size).double()
    truth = RadialScale(torch.cat([random_logs(seed) for seed in range(4)]))
    inverse = RadialScale(-truth.coefficients)
    noise = 0.03 * torch.randn(emblems.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Smaller, so that the distorted rim stays inside.
    small = F.pad(
        F.interpolate(emblems, scale_factor=0.875, mode="bilinear", antialias=True), (8,) * 4, mode="replicate"
    )
    distorted = (warp(small, inverse) + noise).clamp(0, 1)
    result = circularize(distorted)
    assert result.ok.all()
    for i in range(4):
        assert radial_error(result, truth, radius=0.79, i=i) < 0.06


def test_a_picture_does_not_depend_on_its_batch():
    pictures = torch.cat([disc(RadialScale(random_logs(seed))) for seed in range(3)]).float()
    together = circularize(pictures.repeat(6, 1, 1, 1))
    for i in range(3):
        torch.testing.assert_close(together.images[[i + 15]], circularize(pictures[[i]]).images, atol=1e-3, rtol=0)


def leaves(seed: int, size: int = 128) -> torch.Tensor:
    """Rectangles and discs over one another: the edges of a photograph."""
    rng = np.random.default_rng(seed)
    picture = torch.zeros(3, size, size)
    x, y = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="xy")
    for _ in range(300):
        half = size * 0.02 / math.sqrt(rng.uniform(0.002, 1))
        dx, dy = x - rng.uniform(0, size), y - rng.uniform(0, size)
        shape = (dx.abs() < half * rng.uniform(0.3, 1)) & (dy.abs() < half)
        if rng.random() < 0.3:
            shape = dx.square() + dy.square() < half**2
        picture[:, shape] = torch.from_numpy(rng.uniform(0, 1, (3, 1))).float()
    return picture


def test_where_nothing_can_be_fitted_the_picture_comes_back_as_it_went_in():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 128).expand(3, 128, 128)
    bars = (torch.arange(128) // 16 % 2).float().expand(3, 128, 128)
    noise = [torch.rand(3, 128, 128, generator=generator) for _ in range(3)]
    pictures = torch.stack([torch.zeros(3, 128, 128), 0 * ramp + 0.4, ramp, bars, *noise, *map(leaves, range(5))])
    result = circularize(pictures)
    assert not result.ok.any() and (result.confidence < 0.5).all()
    assert torch.equal(result.images, pictures)
    assert (result.center == 64).all() and (result.scale(THETA) == 1).all()
    assert circularize(disc(RadialScale(random_logs(0)))).ok.all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (16, 16), (20, 90)])
def test_small_and_narrow_pictures(size):
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    result = circularize(pictures)
    assert result.images.shape == pictures.shape and result.images.isfinite().all()
    assert min(size) >= 16 or torch.equal(result.images, pictures)


def test_no_pictures():
    result = circularize(torch.zeros(0, 3, 32, 32))
    assert result.images.shape == (0, 3, 32, 32) and result.ok.shape == (0,) and result.center.shape == (0, 2)


def test_a_huge_picture():
    truth = RadialScale(random_logs(3))
    small = disc(truth, size=128)[:, :1].float()
    huge = F.interpolate(small, size=(4096, 4096), mode="bilinear")
    result = circularize(huge)
    assert result.ok.all() and radial_error(result, truth, 4096) < 4096 * 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes(dtype):
    truth = RadialScale(random_logs(2))
    picture = disc(truth)
    result = circularize(picture.to(dtype))
    assert result.images.dtype == dtype and result.ok.all()
    torch.testing.assert_close(result.images.double(), circularize(picture).images, atol=0.04, rtol=0)


@pytest.mark.parametrize(("method", "least"), [("warp", 36), ("ratio", 33)])
def test_colours_survive_a_known_warp(method, least):
    emblem = render(sample_emblems("sharingan", [1]), 256)
    coefficients = random_logs(5).float()
    distorted = warp(emblem, RadialScale(-coefficients))
    error = (warp(distorted, RadialScale(coefficients), None, method) - emblem)[..., 16:-16, 16:-16].square().mean()
    assert -10 * error.log10() > least
    assert -10 * (distorted - emblem).square().mean().log10() < 25


def test_a_grey_picture_is_the_same_by_either_method():
    picture = disc(RadialScale(random_logs(4)))[:, :1].float()
    torch.testing.assert_close(circularize(picture).images, circularize(picture, method="ratio").images)


def test_a_given_centre_is_kept():
    truth = RadialScale(random_logs(1))
    picture = disc(truth, shift=(6.0, 4.0))
    result = circularize(picture, center=(70, 68))
    assert result.center.tolist() == [[70, 68]] and radial_error(result, truth, shift=(6, 4)) < 0.05
    assert circularize(disc(truth), center="image").center.tolist() == [[64, 64]]


def test_per_ring_follows_a_distortion_that_changes_with_the_radius():
    coefficients = random_logs(3, 0.03).repeat(1, 4, 1, 1) * torch.tensor([0.0, 0.2, 0.6, 1.6]).view(1, 4, 1, 1)
    truth = RadialScale(-coefficients, 1.15 * 64)
    rings = disc(lambda theta: torch.ones(1, *theta.shape, dtype=torch.float64))
    distorted = warp(rings, truth)
    assert truth.coefficients.shape == (1, 4, 2, 6)

    one, each = circularize(distorted, center="image"), circularize(distorted, center="image", per_ring=True)
    assert each.ok.all() and each.scale.coefficients.shape[1] == 4

    def error(result, radius: float) -> float:
        wrong = result.scale.log(THETA, radius) + truth.log(THETA, radius)
        return (wrong.square().mean().sqrt() * radius).item()

    outer, inner = 0.72 * 64, 0.72 * 0.56 * 64
    assert error(each, outer) < 0.15 and error(each, inner) < 0.15
    assert error(one, inner) > 0.3
    with pytest.raises(ValueError, match="r is None"):
        each.scale(THETA)


def test_bernstein_polynomials_are_a_partition_of_one():
    values = bernstein(torch.linspace(-0.5, 1.5, 21), 4)
    assert values.shape == (4, 21) and (values >= 0).all()
    torch.testing.assert_close(values.sum(0), torch.ones(21))


def test_scale_is_the_series_it_says():
    scale = RadialScale(torch.tensor([[[[0.1, 0.0], [0.0, 0.2]]]]))
    wanted = torch.exp(0.1 * THETA.cos() + 0.2 * (2 * THETA).sin()).float()
    torch.testing.assert_close(scale(THETA)[0], wanted)


def test_warp_and_its_inverse_are_true_to_scale():
    """The edge of a disc of radius r comes to lie at r / s."""
    round_disc = disc(lambda theta: torch.ones(1, *theta.shape, dtype=torch.float64), ring=False, radius=0.76)
    scale = RadialScale(random_logs(6, 0.02))
    at = edge_radius(warp(round_disc, scale), RED, (0.9,) * 3)
    assert (at - 0.76 * 64 / scale(THETA[::4])[0]).abs().max() < 0.12


def test_gradients_agree_with_finite_differences():
    picture = disc(RadialScale(random_logs(2)), size=48) * 0.8 + 0.1
    rng = np.random.default_rng(0)
    picture = picture + 0.005 * torch.from_numpy(rng.standard_normal(picture.shape))
    mask = torch.from_numpy(rng.uniform(0, 1, picture.shape))
    # A smooth direction: steps towards another shape, not noise.
    direction = disc(RadialScale(random_logs(3)), size=48) - disc(RadialScale(random_logs(4)), size=48)

    def losses(x: torch.Tensor) -> list[torch.Tensor]:
        result = circularize(x)
        shape = result.scale.coefficients[0, 0, :, 1:3].sum() + result.center.sum() / 10
        return [(result.images * mask).sum(), (result.images - x).square().sum(), shape]

    x = picture.clone().requires_grad_()
    for i, loss in enumerate(losses(x)):
        (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
        step = 1e-5
        there, back = ((picture + d * step * direction).requires_grad_() for d in (1, -1))
        wanted = (losses(there)[i] - losses(back)[i]).item() / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(wanted, rel=0.01)


def test_gradient_descent_through_circularize_flattens_a_disc():
    coefficients = random_logs(3, 0.05, 4).requires_grad_()
    before = coefficients.norm().item()
    optimizer = torch.optim.SGD([coefficients], lr=0.45)
    for _ in range(4):
        picture = disc(RadialScale(coefficients), size=48)
        loss = circularize(picture, harmonics=6, center="image").scale.coefficients.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert coefficients.norm().item() < 0.1 * before


def test_gradients_flow_where_nothing_was_fitted():
    picture = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    circularize(picture).images.sum().backward()
    assert torch.equal(picture.grad, torch.ones_like(picture))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"harmonics": 0}, ValueError, "harmonics is 0"),
        ({"harmonics": 65}, ValueError, "harmonics is 65"),
        ({"harmonics": 2.5}, TypeError, "harmonics is a float"),
        ({"harmonics": True}, TypeError, "harmonics is a bool"),
        ({"center": "middle"}, ValueError, "center is 'middle'"),
        ({"center": (1, 2, 3)}, ValueError, "center is"),
        ({"center": (math.nan, 2)}, ValueError, "center is"),
        ({"center": 3}, ValueError, "center is 3"),
        ({"method": "colour"}, ValueError, "method is 'colour'"),
    ],
)
def test_wrong_options_are_refused_by_name(options, error, said):
    with pytest.raises(error, match=said):
        circularize(torch.zeros(1, 3, 32, 32), **options)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="images holds NaN or infinite values"):
        circularize(torch.full((1, 3, 32, 32), value))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_a_gpu():
    picture = disc(RadialScale(random_logs(2))).float()
    torch.testing.assert_close(circularize(picture.cuda()).images.cpu(), circularize(picture).images, atol=0.02, rtol=0)
