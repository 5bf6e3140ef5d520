"""Compositions give what their steps give one by one, and alpha moves with the picture."""

import pytest
import torch
import torch.nn.functional as F

import sharingan_hub
from sharingan_hub.postprocess import circularize, postprocess, postprocess_with_alpha, recolor, symmetrize
from sharingan_hub.postprocess.steps import parse_steps
from training.emblems import render, sample_emblems


@pytest.fixture(scope="module")
def images():
    return render([e for e in sample_emblems("sharingan", range(100, 120)) if e.order == 3][:1], 96)


def squeezed(images: torch.Tensor) -> torch.Tensor:
    """Pulled out of round by 4 %, twice around the circle."""
    axis = (torch.arange(images.shape[-1]) + 0.5) * 2 / images.shape[-1] - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    factor = torch.exp(0.04 * torch.cos(2 * torch.atan2(-y, x)))
    grid = torch.stack((x * factor, y * factor), dim=-1)[None]
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(0, 1)


def test_steps_are_applied_in_order(images):
    bent = squeezed(images)
    done = postprocess(bent, ["circularize", {"symmetrize": {"order": 3}}, {"recolor": {"palette": "violet"}}])
    expected = recolor(symmetrize(circularize(bent).images, 3), "violet")
    torch.testing.assert_close(done, expected)
    assert (done - bent).abs().max() > 0.2
    torch.testing.assert_close(postprocess(images, []), images)


def test_short_forms_mean_the_same(images):
    expected = [("symmetrize", {"order": 3}), ("recolor", {"palette": "violet"}), ("circularize", {})]
    assert parse_steps([{"symmetrize": 3}, {"recolor": "violet"}, "circularize"]) == expected
    assert parse_steps("circularize") == parse_steps({"circularize": {}}) == [("circularize", {})]
    assert parse_steps([{"symmetrize": None}]) == [("symmetrize", {})]


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (["polish"], ValueError, "steps holds 'polish'; it must be of circularize, symmetrize, recolor"),
        ([{"recolor": {}, "symmetrize": {}}], ValueError, "each must be a name or a mapping such as"),
        ([3], ValueError, "steps holds 3; each must be"),
        (7, TypeError, "steps is a int"),
        ([{"recolor": {"color": "red"}}], ValueError, "recolor has no option 'color'; it has palette, reference"),
        ([{"symmetrize": 0}], ValueError, "order is 0"),
    ],
)
def test_wrong_steps_are_named(images, steps, error, message):
    with pytest.raises(error, match=message):
        postprocess(images, steps)


def test_opaque_pictures_come_out_as_without_alpha(images):
    bent = squeezed(images)
    for steps in ("circularize", {"symmetrize": {"order": 4, "method": "wedge"}}, {"recolor": "gold"}):
        colors, alpha = postprocess_with_alpha(bent, torch.ones_like(bent[:, :1]), steps)
        torch.testing.assert_close(colors, postprocess(bent, steps), atol=2e-3, rtol=0)
        torch.testing.assert_close(alpha, torch.ones_like(alpha), atol=1e-4, rtol=0)


def test_alpha_is_warped_with_the_picture():
    """A disc that is transparent all around: made round, alpha is that of the round disc."""
    axis = torch.arange(128) + 0.5 - 64
    radius = torch.hypot(axis[:, None], axis[None, :])
    disc = (52.5 - radius).clamp(0, 1)[None, None]
    colors = torch.where(radius < 30, 0.1, 0.7).expand(1, 3, 128, 128).clone()
    bent_colors, bent_alpha = squeezed(colors), squeezed(disc)
    done, alpha = postprocess_with_alpha(bent_colors, bent_alpha, "circularize")
    assert (bent_alpha - disc).abs().mean() > 0.01
    assert (alpha - disc).abs().mean() < 0.002
    assert (done - colors).abs()[:, :, radius < 50].mean() < 0.01


def test_alpha_of_symmetric_pictures_is_symmetric(images):
    hole = torch.ones_like(images[:, :1])
    hole[:, :, 20:40, 20:40] = 0
    colors, alpha = postprocess_with_alpha(images, hole, {"symmetrize": {"order": 4, "method": "average"}})
    torch.testing.assert_close(alpha, torch.rot90(alpha, 1, (2, 3)), atol=1e-4, rtol=0)
    assert alpha[0, 0, 30, 30] == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize("change", [{"iris": "cyan"}, {"iris": "cyan", "sclera": "navy"}])
def test_recolouring_leaves_no_trace_of_the_ground(images, change):
    """Colours of a disc's soft edge do not depend on the ground it is judged on."""
    axis = torch.arange(96) + 0.5 - 48
    radius = torch.hypot(axis[:, None], axis[None, :])
    alpha = (46.5 - radius).clamp(0, 1)[None, None]
    disc = torch.tensor([0.8, 0.1, 0.1])[:, None, None].expand(1, 3, 96, 96)
    colors, after = postprocess_with_alpha(disc, alpha, {"recolor": change})
    assert torch.equal(after, alpha)
    middle = colors[0, :, 48, 48]
    assert middle[2] > 0.8 and middle[0] < 0.2
    edge = ((alpha > 0.3) & (alpha < 0.9))[0, 0]
    assert (colors[0][:, edge] - middle[:, None]).abs().max() < 0.1


def test_the_package_offers_the_functions():
    for name in ("circularize", "recolor", "symmetrize", "symmetry_score", "estimate_order"):
        assert callable(getattr(sharingan_hub, name))
        assert name in dir(sharingan_hub)
