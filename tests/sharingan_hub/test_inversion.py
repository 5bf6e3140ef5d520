"""Inversion against pictures whose latents, phase and colours are known, and drawings made here."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import sharingan_hub.inversion as inversion
from sharingan_hub import SharinganPipeline, inversion_steps, invert
from sharingan_hub.inversion_target import cut_out, is_drawing, make_round, prepare_target, resize
from tests.sharingan_hub.conftest import tiny_pipeline
from training.emblems import render, sample_emblems


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer seeds and steps than a user gets."""
    for name, value in {"SEEDS": 32, "CANDIDATES": 2, "TRIAL": 10, "PRIOR_SEEDS": 512}.items():
        monkeypatch.setattr(inversion, name, value)


def picture(pipe: SharinganPipeline, **arguments) -> torch.Tensor:
    return pipe(output_type="pt", output_size=128, **arguments).images


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).square().mean().sqrt().item()


def sketch(size: int = 240) -> Image.Image:
    """A circle, a pupil and four bars, in ink on paper."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    middle, unit = size / 2, size / 2 * 0.93
    draw.circle((middle, middle), unit, outline="black", width=round(unit * 0.07))
    draw.circle((middle, middle), unit * 0.15, fill="black")
    for k in range(4):
        angle = 0.2 + k * math.pi / 2
        ends = [(middle + r * unit * math.cos(angle), middle - r * unit * math.sin(angle)) for r in (0.3, 0.75)]
        draw.line(ends, fill="black", width=round(unit * 0.15))
    return image


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3) / 255


@pytest.mark.parametrize("order, turn", [(2, 0.9), (3, 0.5), (5, 1.1)])
def test_search_knows_the_seed_the_turn_and_the_colours(pipe, order, turn):
    seeds = list(range(60, 76))
    palette = torch.rand(7, 3, generator=torch.Generator().manual_seed(order))
    ws = pipe.prepare_latents(seeds, 1.0, order)
    own = pipe.generator_model.palette(ws[5:6])
    for colors, tolerance in ((None, 0.05), (0.7 * own + 0.3 * palette, 0.25)):
        target = picture(pipe, latents=ws[5:6], phase=turn, palette=colors)
        inverter = inversion._Inverter(pipe, prepare_target(pipe, target, order, drawing=False))
        losses, turned, found = inverter.look_at(ws)
        assert losses.argmin() == 5
        assert losses.min() < 0.5 * losses[losses.argsort()[1]]
        period = 2 * math.pi / order
        assert abs(math.remainder(turned[5, -1, 1].item() - turn, period)) <= math.pi / inversion.ANGLES + 1e-3
        wanted = own if colors is None else colors
        seen = pipe.generator_model.masks(ws[5:6], output_size=64).mean(dim=(0, 2, 3)) > 0.02
        assert (found[5] - wanted[0])[seen].abs().max() < tolerance
        assert torch.equal(turned[:, :-1], ws[:, :-1])


def test_own_picture_comes_back(pipe, quick):
    target = picture(pipe, seeds=[1001], order=3, phase=0.5)
    reports = list(inversion_steps(pipe, target, steps=40))
    last = reports[-1]
    assert (last.order, len(last.latents)) == (3, 1)
    assert last.distance < 0.045  # of two seeds' pictures about 0.2
    assert last.distance < 0.6 * reports[0].distance
    assert 0 <= last.phase < 2 * math.pi / 3
    # what is reported is what a pipeline makes of the latents
    again = pipe(latents=last.latents).images[0]
    assert again.tobytes() == last.image.tobytes()
    shown = resize(torch.from_numpy(np.asarray(last.target) / 255).permute(2, 0, 1)[None].float(), 128)
    assert rms(picture(pipe, latents=last.latents), shown) == pytest.approx(last.distance, abs=2e-3)
    assert last.latents[0, -1, :2].tolist() == pytest.approx([3, last.phase])


def test_reports_get_better_and_may_be_left(pipe, quick):
    target = picture(pipe, seeds=[7], order=4)
    steps = inversion_steps(pipe, target, steps=10)
    with torch.no_grad():  # as in a page's call
        some = [next(steps) for _ in range(4)]
        assert not torch.is_grad_enabled()
    steps.close()
    full = list(inversion_steps(pipe, target, steps=10))
    for a, b in zip(some, full):
        assert torch.equal(a.latents, b.latents)  # the same arguments, the same latents
    distances = [report.distance for report in full]
    assert distances == sorted(distances, reverse=True)
    progress = [report.progress for report in full]
    assert progress == sorted(set(progress)) and progress[-1] == 1
    assert all(0 < value <= 1 for value in progress)
    other = next(inversion_steps(pipe, target, steps=10, seed=1))
    assert not torch.equal(other.latents, full[0].latents)
    assert all(p.grad is None for p in pipe.generator_model.parameters())


def test_drawing_gives_shapes_and_the_model_gives_colours(pipe, quick):
    result = invert(pipe, sketch(), steps=20)
    assert result.order == 4
    target, image = pixels(result.target), pixels(result.image)
    assert (target.amax(dim=2) - target.amin(dim=2)).max() == 0
    assert (image.amax(dim=2) - image.amin(dim=2)).mean() > 0.3  # red, of a model of red emblems
    assert result.distance < 0.2
    # dark where there is ink
    ink, iris = target[..., 0] < 0.05, target[..., 0] > 0.95
    axis = (torch.arange(256) + 0.5) / 128 - 1
    iris &= torch.hypot(axis, axis[:, None]) < 0.8
    assert image[ink].mean() < 0.5 * image[iris].mean()


def test_what_is_a_drawing():
    gray = Image.new("RGB", (200, 200), (196, 192, 186))  # a photograph of paper
    gray.paste(sketch(200).convert("L").point(lambda v: 30 + v * 0.6).convert("RGB"), (0, 0))
    for image in (sketch(), gray):
        assert is_drawing(pixels(image).permute(2, 0, 1)[None])
    emblems = render(sample_emblems("sharingan", range(4)) + sample_emblems("source", range(4)), 96)
    assert not any(is_drawing(one[None]) for one in emblems)


def test_orders_are_found(pipe):
    emblems = sample_emblems("sharingan", range(30, 38))
    found = [prepare_target(pipe, one).order for one in render(emblems, 128)]
    assert found == [emblem.order for emblem in emblems]
    assert prepare_target(pipe, render(emblems[:1], 128), order=5).order == 5
    assert prepare_target(pipe, sketch()).order == 4


def test_shifted_and_small_emblems_are_cut_out():
    emblem = render(sample_emblems("sharingan", [6]), 256)
    paper = emblem[..., :1, :1]
    canvas = paper.expand(1, 3, 300, 420).clone()
    canvas[..., 110:238, 250:378] = resize(emblem, 128)
    assert torch.equal(cut_out(emblem), emblem)
    whole = cut_out(emblem * 0.999)  # the same square again, up to the circle's usual size
    assert rms(resize(cut_out(canvas), 64), resize(whole, 64)) < 0.1
    assert rms(resize(canvas, 64), resize(whole, 64)) > 0.3


def test_squeezed_emblems_are_made_round():
    emblem = render(sample_emblems("sharingan", [6]), 200)
    squeezed = F.interpolate(emblem, (200, 176), mode="bilinear", antialias=True)
    assert torch.equal(make_round(emblem), emblem)
    upright = F.pad(squeezed, (12, 12, 0, 0), mode="replicate")
    before, after = (rms(resize(x, 96), resize(emblem, 96)) for x in (upright, make_round(cut_out(squeezed))))
    assert after < 0.6 * before


def test_styles_of_seeds_have_variance_one(pipe):
    prior = inversion._Prior(pipe, 3)
    w = pipe.prepare_latents(range(inversion.PRIOR_SEEDS), 1.0, 3)[:, 0]
    v = prior.to_v(w)
    assert (v.T.cov(correction=0) - torch.eye(v.shape[1])).abs().max() < 1e-2
    assert v.mean(dim=0).abs().max() < 1e-3
    assert rms(prior.to_w(v), w) < 0.02 * w.std()


def test_stylegan2(quick):
    pipe = tiny_pipeline(3)
    target = pipe(seeds=[1234], output_type="pt").images
    reports = list(inversion_steps(pipe, target, steps=40))
    last = reports[-1]
    assert (last.order, last.phase) == (None, None)
    assert last.latents.shape == (1, pipe.generator_model.num_ws, 8)
    assert last.distance < 0.7 * reports[0].distance
    with pytest.raises(ValueError, match="StyleGAN2Generator has no palette"):
        invert(pipe, target, drawing=True)
    with pytest.raises(ValueError, match="order was given"):
        invert(pipe, target, order=3)


@pytest.mark.parametrize(
    "image, arguments, error, sentence",
    [
        (torch.full((3, 64, 64), 0.4), {}, ValueError, "image is all of one colour"),
        (Image.new("RGB", (64, 64), "red"), {}, ValueError, "image is all of one colour"),
        ("sketch.png", {}, TypeError, "image is a str"),
        (torch.rand(2, 3, 32, 32), {}, ValueError, "image holds 2 pictures"),
        (torch.rand(32, 32), {}, ValueError, "image has shape"),
        (torch.rand(3, 32, 32) * 255, {}, ValueError, "image holds values"),
        (sketch(), {"order": 9}, ValueError, "order is 9"),
        (sketch(), {"steps": 0}, ValueError, "steps is 0"),
        (sketch(), {"seed": -1}, ValueError, "seed is -1"),
    ],
)
def test_bad_input_is_refused_at_once(pipe, image, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        inversion_steps(pipe, image, **arguments)  # nothing is asked of it


def test_other_kinds_of_pictures(pipe):
    drawn = sketch(64)
    transparent = Image.new("RGBA", (64, 64))
    transparent.putalpha(drawn.convert("L").point(lambda v: 255 - v))
    for image in (drawn.convert("L"), transparent, drawn.convert("1"), sketch(3000)):
        target = prepare_target(pipe, image)
        assert target.order == 4
        assert target.picture.shape == (1, 3, 256, 256)
        assert rms(target.picture, prepare_target(pipe, drawn).picture) < 0.25
    noise = torch.rand(1, 3, 90, 70, generator=torch.Generator().manual_seed(0))
    assert prepare_target(pipe, noise).picture.shape == (1, 3, 256, 256)


@pytest.mark.slow
def test_own_picture_comes_back_with_the_usual_settings(pipe):
    target = picture(pipe, seeds=[1004], phase=0.3)
    assert invert(pipe, target).distance < 0.03
