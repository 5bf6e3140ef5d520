"""Symmetry against closed forms, a plain loop, and emblems whose order is known."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub.postprocess import estimate_order, symmetrize, symmetry_loss, symmetry_score
from sharingan_hub.postprocess.symmetry import carry_out, harmonics, plan
from training.emblems import render, sample_emblems


def polar_axes(size: int):
    axis = torch.arange(size) + 0.5 - size / 2
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.hypot(x, y), torch.atan2(y, x)


def wave(order: int, size: int = 96, phase: float = 0.3) -> torch.Tensor:
    """A smooth picture (1, 3, S, S) with energy in the harmonic `order` alone."""
    radius, angle = polar_axes(size)
    envelope = torch.exp(-((radius / size - 0.3) ** 2) / 0.01)
    return (0.5 + 0.4 * envelope * torch.cos(order * (angle - phase))).expand(1, 3, size, size).clone()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * (a - b).square().mean().clamp(min=1e-12).log10().item()


def single_pattern_emblems(distribution: str, each: int, highest: int):
    """`each` emblems of one pattern, of each order from 1 to `highest`."""
    found = {order: [] for order in range(1, highest + 1)}
    seed = 5000
    while min(map(len, found.values())) < each:
        (emblem,) = sample_emblems(distribution, [seed])
        if len(emblem.patterns) == 1 and len(found.get(emblem.order, range(each))) < each:
            found[emblem.order].append(emblem)
        seed += 1
    return [emblem for emblems in found.values() for emblem in emblems]


@pytest.fixture(scope="module")
def emblems():
    chosen = single_pattern_emblems("source", 3, 8) + single_pattern_emblems("sharingan", 2, 6)
    return [e.order for e in chosen], render(chosen, 128)


@pytest.fixture(scope="module")
def damaged():
    """Emblems of order 4 with a disc of paint over one quarter."""
    whole = render([e for e in sample_emblems("sharingan", range(100, 140)) if e.order == 4][:2], 128)
    radius, angle = polar_axes(128)
    x, y = radius * angle.cos(), radius * angle.sin()
    spot = torch.hypot(x - 30, y - 8) < 14
    return whole, torch.where(spot, torch.tensor([0.1, 0.4, 0.9])[:, None, None], whole)


# Scores


@pytest.mark.parametrize("order", range(1, 9))
def test_a_single_harmonic_has_the_known_scores(order):
    """S_n is 1 if n divides the harmonic and 0 if not; so the corrected score is 1 or -1 / (n - 1)."""
    expected = [1.0 if order % n == 0 or n == 1 else -1 / (n - 1) for n in range(1, 9)]
    torch.testing.assert_close(symmetry_score(wave(order))[0], torch.tensor(expected), atol=0.03, rtol=0)


def test_energy_is_that_of_the_closed_form():
    """cos(3 t) f(r) in each channel: |c_3|^2 = f^2 / 4, three channels, weighted by r."""
    image, size = wave(3, 192), 192
    r = torch.arange(0.5, 96)
    f = 0.4 * torch.exp(-((r / size - 0.3) ** 2) / 0.01)
    expected = 3 * (r * f**2 / 4).sum() / r.sum()
    assert harmonics(image)[0, 2].item() == pytest.approx(expected.item(), rel=0.02)
    assert harmonics(image)[0].sum().item() == pytest.approx(expected.item(), rel=0.03)


def test_score_agrees_with_a_plain_loop():
    image = render(sample_emblems("source", [12]), 64)
    order, rings, angles = 3, 32, 360
    own = rest = 0.0
    for ring in range(rings):
        radius = (ring + 0.5) * 32 / rings
        theta = torch.arange(angles) * 2 * math.pi / angles
        x, y = 32 + radius * theta.cos(), 32 - radius * theta.sin()
        grid = torch.stack((x / 32 - 1, y / 32 - 1), dim=-1)[None, None]
        values = F.grid_sample(image, grid, align_corners=False, padding_mode="border")[0, :, 0]
        for m in range(1, 49):
            wave_m = torch.exp(-1j * m * theta)
            energy = radius * ((values * wave_m).mean(dim=1).abs() ** 2).sum().item()
            own, rest = (own + energy, rest) if m % order == 0 else (own, rest + energy)
    share = own / (own + rest)
    assert symmetry_score(image, order).item() == pytest.approx((order * share - 1) / (order - 1), abs=1e-4)
    assert symmetry_loss(image, order).item() == pytest.approx(1 - share, abs=1e-4)


def test_orders_may_differ_from_picture_to_picture(emblems):
    orders, images = emblems
    all_orders = symmetry_score(images)
    chosen = torch.stack([row[n - 1] for row, n in zip(all_orders, orders, strict=True)])
    torch.testing.assert_close(symmetry_score(images, orders), chosen)
    assert chosen.min() > 0.9


def test_loss_leads_to_symmetry():
    image = (0.7 * wave(2) + 0.3 * wave(3)).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.02)
    before = symmetry_loss(image, 3).item()
    for _ in range(30):
        optimizer.zero_grad()
        symmetry_loss(image.clamp(0, 1), 3).sum().backward()
        optimizer.step()
    assert before > 0.5
    assert symmetry_loss(image.detach().clamp(0, 1), 3).item() < 0.1


def test_loss_has_the_gradient_of_finite_differences():
    image = render(sample_emblems("source", [3]), 16).double() * 0.9 + 0.05
    image.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: symmetry_loss(x, 3), (image[:, :, 4:12, 4:12].detach().requires_grad_(),))


def test_a_blank_picture_is_symmetric_and_has_gradients():
    image = torch.full((1, 1, 32, 32), 0.3, requires_grad=True)
    assert symmetry_score(image).tolist() == [[1.0] * 8]
    symmetry_loss(image, 3).sum().backward()
    assert image.grad.abs().max() == 0
    assert estimate_order(image).tolist() == [1]


# Orders


def test_orders_of_emblems_are_found(emblems):
    orders, images = emblems
    assert estimate_order(images).tolist() == orders
    noise = 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert estimate_order((images + noise).clamp(0, 1)).tolist() == orders


@pytest.mark.slow
def test_orders_of_many_emblems_are_found():
    chosen = single_pattern_emblems("source", 200, 8)
    orders = torch.tensor([e.order for e in chosen])
    found = torch.cat([estimate_order(render(chosen[i : i + 16], 128)) for i in range(0, len(chosen), 16)])
    for order in range(1, 9):
        assert (found[orders == order] == order).float().mean() >= 0.99


def test_order_does_not_depend_on_turn_or_size(emblems):
    (emblem,) = (e for e in single_pattern_emblems("source", 1, 5) if e.order == 5)
    turned = [dataclasses.replace(emblem, phase=0.37 * i) for i in range(4)]
    for size in (64, 200, 600):
        assert estimate_order(render(turned, size)).tolist() == [5] * 4


def test_noise_has_no_order():
    noise = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    assert estimate_order(noise).tolist() == [1] * 4


# Making symmetric


def test_symmetric_pictures_are_left_alone(emblems):
    orders, images = emblems
    done = symmetrize(images, orders)
    assert min(psnr(a, b) for a, b in zip(done, images, strict=True)) >= 50
    torch.testing.assert_close(symmetrize(images, "auto"), done)
    torch.testing.assert_close(symmetrize(images, None), done)


@pytest.mark.parametrize("method", ["auto", "average", "wedge"])
@pytest.mark.parametrize("order", [2, 3, 4, 7])
def test_what_comes_out_is_symmetric(method, order):
    image = 0.5 * wave(5, phase=0.1) + 0.5 * wave(order)
    assert symmetry_score(image, order).item() < 0.7
    assert symmetry_score(symmetrize(image, order, method), order).item() > 0.97


def test_average_is_the_mean_of_quarter_turns():
    image = torch.rand(1, 3, 33, 33, generator=torch.Generator().manual_seed(3))
    mean = torch.stack([torch.rot90(image, k, (2, 3)) for k in range(4)]).mean(dim=0)
    torch.testing.assert_close(symmetrize(image, 4, "average"), mean, atol=1e-4, rtol=0)


def test_the_best_wedge_repairs_a_damaged_picture(damaged):
    whole, broken = damaged
    repaired = symmetrize(broken, 4)
    for before, after, truth in zip(broken, repaired, whole, strict=True):
        assert psnr(after, truth) > psnr(before, truth) + 6
        assert psnr(after, truth) > 27
    assert [choice for choice, _, _ in plan(broken, 4, "auto")] == ["wedge"] * 2


def test_small_flaws_are_averaged():
    image = 0.5 + 0.9 * (wave(3, 192) - 0.5) + 0.11 * (wave(4, 192) - 0.5)
    assert [choice for choice, _, _ in plan(image, 3, "auto")] == ["average"]


def test_further_channels_go_along(damaged):
    broken = damaged[1]
    plans = plan(broken, 4, "auto")
    torch.testing.assert_close(carry_out(plans, broken[:, :1]), carry_out(plans, broken)[:, :1])


def test_strips_make_no_seams(monkeypatch, damaged):
    import sharingan_hub.postprocess.symmetry as room  # no function has this name

    whole = {method: symmetrize(damaged[1], 3, method) for method in ("average", "wedge")}
    strips = room._strips
    monkeypatch.setattr(room, "_strips", lambda images: cut(strips(images)))

    def cut(parts):
        ((radius, angle, _),) = parts
        return [(radius[top : top + 19], angle[top : top + 19], top) for top in range(0, len(radius), 19)]

    for method, expected in whole.items():
        torch.testing.assert_close(symmetrize(damaged[1], 3, method), expected)


@settings(max_examples=20)
@given(
    st.integers(1, 12),
    st.integers(1, 24),
    st.integers(1, 24),
    st.sampled_from(["auto", "average", "wedge"]),
    st.sampled_from([1, 3]),
)
def test_any_size(order, height, width, method, channels):
    images = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(order))
    done = symmetrize(images, order, method)
    assert done.shape == images.shape and done.isfinite().all()
    assert 0 <= done.min() and done.max() <= 1


def test_each_picture_has_its_own_order_and_dtype_stays(damaged):
    images = damaged[1].half()
    done = symmetrize(images, [4, 2])
    assert done.dtype == torch.float16
    torch.testing.assert_close(done[1:], symmetrize(images[1:], 2), atol=2e-3, rtol=0)
    assert estimate_order(images).dtype == torch.int64
    assert symmetrize(images[:0], 3).shape == (0, 3, 128, 128)


def test_gradients_reach_the_picture(damaged):
    image = damaged[1][:1].clone().requires_grad_()
    symmetrize(image, 3, "average").square().sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0,), ValueError, "order is 0; it must be from 1 to 360"),
        ((2.5,), TypeError, "order is '2.5'; it must be a whole number"),
        (("many",), TypeError, "order is 'many'; it must be a whole number"),
        ((True,), TypeError, "order is 'True'"),
        (([3, 4],), ValueError, "order holds 2 values for 1 pictures"),
        ((3, "best"), ValueError, "method is 'best'; it must be one of auto, average, wedge"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        symmetrize(torch.zeros(1, 3, 8, 8), *arguments)


@pytest.mark.parametrize("function", [symmetry_score, estimate_order, symmetrize])
def test_nan_is_refused(function):
    with pytest.raises(ValueError, match="images holds NaN"):
        function(torch.full((1, 3, 4, 4), torch.nan))


@pytest.mark.gpu
def test_the_gpu_gives_the_same(emblems, damaged):
    assert estimate_order(emblems[1].cuda()).tolist() == emblems[0]
    torch.testing.assert_close(symmetrize(damaged[1].cuda(), 4).cpu(), symmetrize(damaged[1], 4), atol=1e-2, rtol=0)
