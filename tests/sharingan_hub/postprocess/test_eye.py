"""The iris of drawn eyes, whose place is known, and what is left alone when an emblem is laid over it."""

import math

import pytest
import torch

from sharingan_hub.postprocess import Iris, find_iris, place_in_eye
from sharingan_hub.postprocess.outline import outline
from tests.eyes import Eye, draw_eye
from training.emblems import render, sample_emblems

EYES = {
    "brown": {},
    "dark skin": {"skin": (0.35, 0.22, 0.15), "iris": (0.12, 0.08, 0.06), "opening": 1.3},
    "pale skin": {"skin": (0.97, 0.86, 0.8), "iris": (0.3, 0.4, 0.25)},
    "half open": {"iris": (0.45, 0.6, 0.75), "opening": 0.7, "at": (0.45, 0.55)},
    "wide open, pale": {"iris": (0.6, 0.65, 0.68), "opening": 1.6},
    "near": {"radius": 0.3, "opening": 1.1},
    "far": {"radius": 0.09, "at": (0.3, 0.6)},
    "grainy": {"noise": 0.05},
    "anime": {"anime": True, "iris": (0.3, 0.4, 0.8)},
    "anime, red": {"anime": True, "iris": (0.7, 0.1, 0.1), "opening": 1.4, "skin": (0.98, 0.87, 0.8)},
}


@pytest.fixture(scope="module")
def eyes() -> dict[str, Eye]:
    return {name: draw_eye(256, **arguments) for name, arguments in EYES.items()}


@pytest.fixture(scope="module")
def emblem() -> torch.Tensor:
    return render(sample_emblems("sharingan", [3]), 256)


@pytest.fixture(scope="module")
def closed() -> torch.Tensor:
    skins = [(0.87, 0.68, 0.56), (0.35, 0.22, 0.15)]
    drawn = [draw_eye(256, opening=0, skin=skin, anime=anime).picture for skin in skins for anime in (False, True)]
    return torch.cat(drawn)


def no_eyes(size: int = 128) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    stripes = (torch.arange(size) // 8 % 2).float().expand(3, size, size)
    ramp = torch.linspace(0, 1, size).expand(3, size, size)
    return torch.stack([torch.rand(3, size, size, generator=generator), torch.full_like(ramp, 0.5), ramp, stripes])


@pytest.mark.parametrize("name", EYES)
def test_iris_is_found(eyes, name):
    eye = eyes[name]
    found = find_iris(eye.picture)
    assert found.ok.item()
    assert math.dist(found.center[0].tolist(), eye.center) < 0.03 * eye.radius
    assert found.radius.item() == pytest.approx(eye.radius, rel=0.02)


@pytest.mark.parametrize("size", [96, 160, 512])
def test_sizes(size):
    for arguments in ({}, {"anime": True, "iris": (0.2, 0.5, 0.3), "at": (0.55, 0.48)}):
        eye = draw_eye(size, **arguments)
        found = find_iris(eye.picture)
        assert found.ok.item()
        assert math.dist(found.center[0].tolist(), eye.center) < 0.5
        assert found.radius.item() == pytest.approx(eye.radius, abs=0.6)


def test_pictures_need_not_be_square():
    eye = draw_eye(256)
    wide = eye.picture[:, :, 60:200]
    found = find_iris(wide)
    assert found.ok.item()
    assert math.dist(found.center[0].tolist(), (eye.center[0], eye.center[1] - 60)) < 1
    assert find_iris(eye.picture.mT).center.shape == (1, 2)  # lying on its side it may be found or not


def test_without_an_eye_nothing_changes(closed, emblem):
    for pictures in (closed, no_eyes(), torch.rand(1, 3, 20, 20), torch.rand(0, 3, 64, 64)):
        placed = place_in_eye(pictures, emblem)
        assert not placed.iris.ok.any()
        assert torch.equal(placed.images, pictures)


@pytest.mark.parametrize("name", EYES)
def test_lids_and_highlights_stay(eyes, emblem, name):
    eye = eyes[name]
    images = place_in_eye(eye.picture, emblem).images
    assert 0 <= images.min() and images.max() <= 1
    changed = (images != eye.picture).any(dim=1)[0]
    assert not (changed & eye.lids).any()  # bit for bit
    axes = torch.arange(256) + 0.5
    away = torch.hypot(axes - eye.center[0], axes[:, None] - eye.center[1])
    assert not changed[away > 1.06 * eye.radius].any()
    assert not (changed & eye.highlights).any()
    covered = eye.iris & ~eye.highlights & (away < 0.95 * eye.radius)
    assert (changed & covered).sum() > 0.93 * covered.sum()


def test_emblem_lies_on_the_iris(eyes):
    """A quarter of a disc comes to lie on that quarter of the iris, whatever the size of the disc in its picture."""
    axis = (torch.arange(200) + 0.5) / 100 - 1
    x, y = axis[None, :], -axis[:, None]
    for radius in (0.9, 0.6):
        disc = torch.hypot(x, y) < radius
        red = torch.tensor([0.9, 0.0, 0.0])[:, None, None]
        blue = torch.tensor([0.0, 0.0, 0.9])[:, None, None]
        emblem = torch.where((x > 0) & (y < 0), blue, red)
        emblem = torch.where(disc, emblem, torch.ones(3, 1, 1))[None]
        eye = eyes["wide open, pale"]
        image = place_in_eye(eye.picture, emblem).images[0]
        axes = torch.arange(256) + 0.5
        u, v = (axes - eye.center[0])[None, :] / eye.radius, (axes - eye.center[1])[:, None] / eye.radius
        away = torch.hypot(u, v)
        inside = eye.iris & ~eye.highlights & (away > 0.3) & (away < 0.92) & (u.abs() > 0.08) & (v.abs() > 0.08)
        bluish = image[2] > image[0]
        quarter = (u > 0) & (v > 0)
        right = torch.where(quarter, bluish, ~bluish)
        bright = image.amin(dim=0) > 0.4  # near highlights
        assert right[inside & ~bright].float().mean() > 0.99


def test_light_of_the_eye_falls_on_the_emblem(emblem):
    light = draw_eye(256)
    eye = light.picture
    dark = eye * 0.45
    white = torch.full_like(emblem, 0.8)
    bright, dim = (place_in_eye(x, white, emblem_radius=1.0).images[0].mean(dim=0) for x in (eye, dark))
    inside = light.iris & ~light.highlights
    assert dim[inside].mean() < 0.7 * bright[inside].mean()
    rows = torch.arange(256) + 0.5
    top = inside & (rows < light.center[1] - 0.4 * light.radius)[:, None]
    middle = inside & ((rows - light.center[1]).abs() < 0.3 * light.radius)[:, None]
    assert bright[top].mean() < 0.9 * bright[middle].mean()  # the upper lid's shadow


def test_batches_circles_by_hand_and_dtypes(eyes, emblem, closed):
    pictures = torch.cat([eyes["brown"].picture, closed[:1], eyes["anime"].picture])
    together = place_in_eye(pictures, emblem)
    assert together.iris.ok.tolist() == [True, False, True]
    for i in range(3):
        assert torch.equal(together.images[i : i + 1], place_in_eye(pictures[i : i + 1], emblem).images)
    eye = eyes["brown"]
    one = torch.ones(1)
    by_hand = Iris(torch.tensor([eye.center]), eye.radius * one, one, one.bool())
    placed = place_in_eye(eye.picture, emblem, by_hand).images
    assert (placed - together.images[:1]).abs().mean() < 0.01
    half = place_in_eye(eye.picture.half(), emblem)
    assert half.images.dtype == torch.float16
    assert (half.images.float() - together.images[:1]).abs().mean() < 2e-3
    edge = Iris(torch.tensor([[250.0, 4.0]]), 40 * one, one, one.bool())  # partly outside of the picture
    assert place_in_eye(eye.picture, emblem, edge).images.shape == eye.picture.shape


def test_bad_input(eyes, emblem):
    eye = eyes["brown"].picture
    one = torch.ones(1)
    outside = Iris(torch.tensor([[-5.0, 9.0]]), one * 9, one, one.bool())
    for arguments, error, sentence in (
        ((eye * 255, emblem), ValueError, "eyes holds values"),
        ((eye, emblem.numpy()), TypeError, "emblems is a ndarray"),
        ((eye[:, :1], emblem), ValueError, "eyes has 1 channel"),
        ((eye, emblem.expand(2, -1, -1, -1)), ValueError, "emblems holds 2 pictures for 1 eyes"),
        ((eye, emblem, None, 0.0), ValueError, "emblem_radius is 0.0"),
        ((eye, emblem, outside), ValueError, "iris 0 is at"),
    ):
        with pytest.raises(error, match=sentence):
            place_in_eye(*arguments)


@pytest.mark.parametrize("center, radius", [((60, 80), 40), ((100.5, 70.25), 20)])
def test_outline_of_a_disc(center, radius):
    axes = torch.arange(200) + 0.5
    away = torch.hypot(axes[None, :] - center[0], axes[:160, None] - center[1])
    image = torch.where(away < radius, 0.2, 0.9).expand(1, 3, -1, -1)
    found, size = outline(image)
    assert math.dist(found[0].tolist(), center) < 1
    assert size.item() == pytest.approx(radius, abs=2)
    assert outline(torch.full((1, 3, 50, 70), 0.3))[1].item() == 0
