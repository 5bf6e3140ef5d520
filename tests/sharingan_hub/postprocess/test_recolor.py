"""Roles and colours, checked against emblems whose every pixel's role is known, and against closed forms."""

import dataclasses
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub.postprocess import PALETTES, recolor, recolor_colors
from sharingan_hub.postprocess.oklab import fit_to_screen, from_oklab, to_encoded, to_linear, to_oklab
from sharingan_hub.postprocess.roles import find_roles
from training.emblems import Emblem, render, sample_emblems

RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def painted(emblem: Emblem, iris, pattern, sclera) -> Emblem:
    """The same shapes in one colour for each role."""
    return dataclasses.replace(
        emblem,
        patterns=tuple(dataclasses.replace(p, color=pattern) for p in emblem.patterns),
        rings=tuple(dataclasses.replace(r, color=pattern) for r in emblem.rings),
        iris_inner=iris,
        iris_outer=iris,
        rim_color=pattern,
        pupil_color=pattern,
        background_inner=sclera,
        background_outer=sclera,
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return -10 * (a - b).square().mean(dim=(1, 2, 3)).clamp(min=1e-12).log10()


@pytest.fixture(scope="module")
def sharingan():
    emblems = sample_emblems("sharingan", range(300, 304))
    return emblems, render(emblems, 96)


def hue_of(color) -> float:
    lab = to_oklab(torch.as_tensor(color, dtype=torch.float64))
    return torch.atan2(lab[..., 2], lab[..., 1])


# OKLab


def test_oklab_has_the_published_values():
    """Ottosson 2020: white and the primaries; L, a and b as CSS Color 4 lists them."""
    rgb = torch.tensor([(1, 1, 1), RED, GREEN, BLUE], dtype=torch.float64)
    known = [(1, 0, 0), (0.62796, 0.22486, 0.12585), (0.86644, -0.23389, 0.17950), (0.45201, -0.03246, -0.31153)]
    torch.testing.assert_close(to_oklab(rgb), torch.tensor(known, dtype=torch.float64), atol=1e-4, rtol=0)


@given(st.lists(st.floats(-0.1, 1.1), min_size=3, max_size=3))
def test_oklab_comes_back(values):
    rgb = torch.tensor(values, dtype=torch.float64)[None]
    torch.testing.assert_close(from_oklab(to_oklab(rgb)), rgb, atol=1e-4, rtol=0)
    torch.testing.assert_close(to_encoded(to_linear(rgb)), rgb, atol=1e-6, rtol=0)


@given(st.floats(0, 1), st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_fitting_keeps_lightness_and_hue_and_shows(light, a, b):
    lab = torch.tensor([[light, a, b]], dtype=torch.float64)
    fitted = fit_to_screen(lab)
    rgb = from_oklab(fitted)
    assert -0.02 <= rgb.min() and rgb.max() <= 1.01
    assert fitted[0, 0] == lab[0, 0]
    share = fitted[0, 1:].norm() / lab[0, 1:].norm().clamp(min=1e-9)
    assert share <= 1 + 1e-6
    torch.testing.assert_close(fitted[0, 1:], lab[0, 1:] * share, atol=1e-6, rtol=0)


# Roles


@pytest.mark.parametrize(("distribution", "least"), [("sharingan", 0.99), ("source", 0.88)])
def test_roles_of_emblems_are_found(distribution, least):
    emblems = sample_emblems(distribution, range(40, 52))
    truth = render([painted(e, RED, GREEN, BLUE) for e in emblems], 96)
    pure = truth.amax(dim=1) > 0.99
    found = find_roles(render(emblems, 96)).labels
    right = ((found == truth.argmax(dim=1)) & pure).sum(dim=(1, 2)) / pure.sum(dim=(1, 2))
    assert right.min() >= least and right.mean() > 0.97


def test_roles_survive_noise_and_another_place(sharingan):
    emblems, images = sharingan
    truth = render([painted(e, RED, GREEN, BLUE) for e in emblems], 96)
    noise = 0.03 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    images, truth = (images + noise).clamp(0, 1).roll((3, -2), (2, 3)), truth.roll((3, -2), (2, 3))
    pure = truth.amax(dim=1) > 0.99
    found = find_roles(images).labels
    assert ((found == truth.argmax(dim=1)) & pure).sum() / pure.sum() > 0.95


def test_a_picture_of_one_colour_has_one_role():
    found = find_roles(torch.full((1, 3, 24, 24), 0.4))
    assert found.labels.unique().numel() == 1
    assert found.share.sum() == 1


# Recolouring


def test_own_colours_change_nearly_nothing(sharingan):
    images = torch.cat((sharingan[1], render(sample_emblems("source", range(6)), 96)))
    assert psnr(recolor(images, reference=images), images).min() > 50


def test_roles_get_the_colours_asked_for(sharingan):
    emblems, images = sharingan
    wanted = {"iris": (0.1, 0.5, 0.7), "pattern": (0.2, 0.05, 0.3), "sclera": (0.95, 0.9, 0.7)}
    done = recolor(images, wanted)
    truth = render([painted(e, RED, GREEN, BLUE) for e in emblems], 96)
    for channel, color in enumerate(wanted.values()):
        inside = truth[:, channel] > 0.999
        mean = done.permute(0, 2, 3, 1)[inside].mean(dim=0)
        torch.testing.assert_close(mean, torch.tensor(color), atol=0.07, rtol=0)


def test_flat_emblems_come_out_as_if_painted_anew():
    """Anti-aliased edges too: the truth is the same emblem, rendered in the new colours."""
    emblems = sample_emblems("sharingan", range(310, 316))
    before = render([painted(e, (0.8, 0.1, 0.1), (0.05, 0.05, 0.05), (0.95, 0.95, 0.95)) for e in emblems], 128)
    colors = (0.1, 0.55, 0.7), (0.95, 0.9, 0.5), (0.1, 0.1, 0.2)
    after = render([painted(e, *colors) for e in emblems], 128)
    done = recolor(before, colors)
    assert psnr(before, after).max() < 10
    # The rim is painted over the iris: its outer edge pixels hold some iris, which no mixture of two can tell.
    assert psnr(done, after).min() > 26


def test_shading_survives(sharingan):
    emblem = dataclasses.replace(sharingan[0][0], patterns=(), rings=())
    image = render([emblem], 128)
    done = recolor(image, iris="#14b8d4")
    light, dark = ((60, 44), (60, 14))  # near the pupil and near the rim
    before = to_linear(image[0, 0, light[0], light[1]]) / to_linear(image[0, 0, dark[0], dark[1]])
    after = to_linear(done[0, 1, light[0], light[1]]) / to_linear(done[0, 1, dark[0], dark[1]])
    assert before > 1.2
    assert after == pytest.approx(before.item(), rel=0.15)


def test_only_the_roles_named_change(sharingan):
    emblems, images = sharingan
    truth = render([painted(e, RED, GREEN, BLUE) for e in emblems], 96)
    change = (recolor(images, sclera="gold") - images).abs().amax(dim=1)
    # An edge pixel may be a mixture with the sclera two pixels away.
    away = torch.nn.functional.max_pool2d(truth[:, 2:], 5, stride=1, padding=2)[:, 0] == 0
    assert change[away].max() < 0.01
    assert change[truth[:, 2] > 0.99].min() > 0.1


def test_hue_only_keeps_lightness_and_greys(sharingan):
    images = sharingan[1]
    done = recolor(images, "cyan", hue_only=True)
    before, after = (to_oklab(x.permute(0, 2, 3, 1)) for x in (images, done))
    chroma = before[..., 1:].norm(dim=-1)
    assert (before - after)[..., 0].abs().max() < 0.1
    assert (before - after)[chroma < 0.005].abs().max() < 0.02
    iris = chroma > 0.12
    hues = torch.atan2(after[..., 2], after[..., 1])[iris]
    assert iris.float().mean() > 0.2
    turned = torch.atan2(
        torch.sin(hues - hue_of((0.078, 0.722, 0.831))), torch.cos(hues - hue_of((0.078, 0.722, 0.831)))
    )
    assert turned.abs().median() < 0.1


def test_a_reference_gives_its_colours(sharingan):
    emblems, images = sharingan
    colors = (0.1, 0.6, 0.3), (0.15, 0.1, 0.2), (0.9, 0.85, 0.6)
    reference = render([painted(sample_emblems("sharingan", [330])[0], *colors)], 80)
    done = recolor(images, reference=reference[0])
    assert (done - recolor(images, colors)).abs().mean() < 0.01
    own_iris = recolor(images, reference=reference, iris="red")
    assert (own_iris - done).abs().max() > 0.3


@pytest.mark.parametrize("name", PALETTES)
def test_every_palette_shows(name, sharingan):
    done = recolor(sharingan[1][:1], name)
    assert 0 <= done.min() and done.max() <= 1
    assert (done - sharingan[1][:1]).abs().amax() > 0.02


def test_palettes_can_be_written_in_several_ways(sharingan):
    image = sharingan[1][:1]
    same = [
        recolor(image, "VIOLET"),
        recolor(image, PALETTES["violet"]),
        recolor(image, {"iris": "#7d35c9", "pattern": "#10061c"}),
        recolor(image, ["#7d35c9", "#10061c"]),
        recolor(image, "#7d35c9", pattern="#10061c"),
        recolor(image, (0x7D / 255, 0x35 / 255, 0xC9 / 255), pattern="#10061c"),
    ]
    for other in same[1:]:
        torch.testing.assert_close(other, same[0])


# Any picture


def test_each_picture_depends_on_itself_alone(sharingan):
    images = sharingan[1]
    torch.testing.assert_close(recolor(images, "gold")[2:3], recolor(images[2:3], "gold"), atol=1e-4, rtol=0)


def test_strips_and_smaller_role_maps_make_no_seams(monkeypatch):
    room = sys.modules[recolor.__module__]  # the package's attribute of this name is the function
    image = render(sample_emblems("sharingan", [320]), 400)  # above the size at which roles are found
    whole = recolor(image, "gold")
    monkeypatch.setattr(room, "STRIP", 400 * 37)
    torch.testing.assert_close(recolor(image, "gold"), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (5, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_grey_pictures(size, channels):
    image = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))
    done = recolor(image, "crimson", sclera="white")
    assert done.shape == (2, 3, *size) and done.isfinite().all()


def test_dtype_and_empty_batch(sharingan):
    half = recolor(sharingan[1][:1].half(), "cyan")
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), recolor(sharingan[1][:1], "cyan"), atol=0.02, rtol=0)
    assert recolor(torch.empty(0, 3, 8, 8), "cyan").shape == (0, 3, 8, 8)


@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_noise_stays_a_picture(seed):
    image = torch.rand(1, 3, 17, 23, generator=torch.Generator().manual_seed(seed))
    done = recolor(image, "midnight")
    assert done.isfinite().all() and 0 <= done.min() and done.max() <= 1


def test_gradients_reach_the_picture(sharingan):
    image = sharingan[1][:1].clone().requires_grad_()
    recolor(image, "violet").mean().backward()
    assert image.grad.isfinite().all() and image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "nothing to recolor with"),
        ({"palette": "nosuch"}, ValueError, "palette is 'nosuch'; it must be one of crimson, .*, or a colour"),
        (
            {"palette": {"rim": "red"}},
            ValueError,
            "palette has the key 'rim'; its keys must be of iris, pattern, sclera",
        ),
        ({"palette": ["red"] * 4}, ValueError, "palette holds 4 colours; it must hold 1 to 3"),
        ({"palette": 3}, TypeError, "palette is a int"),
        ({"iris": "nosuch"}, ValueError, "iris is 'nosuch'; it must be a colour such as"),
        ({"iris": (0, 0, 2)}, ValueError, "its numbers must be from 0 to 1"),
        ({"iris": (0, 0)}, ValueError, "iris is .* it must be a colour"),
        ({"reference": torch.zeros(2, 3, 4, 4)}, ValueError, "reference holds 2 pictures for 1 images"),
        ({"reference": torch.full((3, 4, 4), torch.nan)}, ValueError, "reference holds NaN"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        recolor(torch.zeros(1, 3, 8, 8), **arguments)


def test_nan_is_refused():
    with pytest.raises(ValueError, match="images holds NaN"):
        recolor(torch.full((1, 3, 4, 4), torch.nan), "red")


@pytest.mark.gpu
def test_the_gpu_gives_the_same(sharingan):
    on_gpu = recolor(sharingan[1].cuda(), "violet").cpu()
    assert psnr(on_gpu, recolor(sharingan[1], "violet")).min() > 35


def rgb(color: str) -> list[float]:
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_colours_that_a_picture_is_painted_with_go_where_its_pixels_go(sharingan):
    """Emblems painted in flat colours: their colours, moved one by one, are those that recolor gives to the pixels."""
    for emblem in sharingan[0]:
        flat = painted(emblem, (0.8, 0.1, 0.1), (0.1, 0.05, 0.05), (0.95, 0.95, 0.95))
        picture = render([flat], 128)
        colors = torch.tensor([flat.iris_inner, flat.rim_color, flat.background_inner])
        moved = recolor_colors(colors, picture, "midnight")
        wanted = torch.tensor([rgb(color) for color in PALETTES["midnight"]])
        assert (moved - wanted).abs().max() < 0.03
        assert torch.equal(recolor_colors(colors, picture, {"iris": "red"})[1:], colors[1:])


def test_a_shaded_colour_is_seen_as_its_role_and_comes_out_as_bright_as_it_was(sharingan):
    """Paint that shading darkens to 70 %: where recolor sees 70 % of it, it must be told apart and moved all the same."""
    flat = painted(sharingan[0][0], (0.56, 0.07, 0.07), (0.1, 0.05, 0.05), (0.95, 0.95, 0.95))
    paint = torch.tensor([[0.8, 0.1, 0.1]])
    moved = recolor_colors(paint, render([flat], 128), {"iris": "#14b8d4"})
    assert (moved * 0.7 - torch.tensor(rgb("#14b8d4"))).abs().max() < 0.2
    assert moved[0, 2] > moved[0, 0] + 0.5
