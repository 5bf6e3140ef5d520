"""Randomness without state: what a step sees depends on the seed and the step alone."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub import RadialGenerator, StyleGAN2Generator
from tests.training.runs import RADIAL, STYLEGAN2
from training.sampling import draw_latents, generate, real_indices, turn


@given(length=st.integers(1, 50), batch=st.integers(1, 20), seed=st.integers(0, 2**62))
@settings(max_examples=30, deadline=None)
def test_each_picture_comes_once_in_every_round(length, batch, seed):
    seen = [index for step in range(3 * length) for index in real_indices(seed, step, batch, length)]
    for start in range(0, len(seen) - length + 1, length):
        assert sorted(seen[start : start + length]) == list(range(length))


def test_an_endless_set_is_drawn_without_repeats():
    seen = [index for step in range(100) for index in real_indices(0, step, 16, 2**31)]
    assert len(set(seen)) > 1590 and max(seen) > 2**30


@given(quarters=st.lists(st.integers(0, 3), min_size=1, max_size=6), data=st.data())
@settings(max_examples=30, deadline=None)
def test_turns_and_flips_are_exact(quarters, data):
    flips = data.draw(st.lists(st.booleans(), min_size=len(quarters), max_size=len(quarters)))
    images = torch.randn(len(quarters), 3, 5, 5)
    turned = turn(images, torch.tensor(quarters), torch.tensor(flips))
    for image, quarter, flip, result in zip(images.numpy(), quarters, flips, turned.numpy()):
        expected = np.rot90(image, quarter, (1, 2))
        np.testing.assert_array_equal(result, expected[:, :, ::-1] if flip else expected)


def test_orders_follow_the_generators_mix_and_phases_fill_the_circle():
    mix = [0.5, 0.25, 0.25, 0, 0, 0, 0, 0]
    generator = RadialGenerator(**{k: v for k, v in RADIAL.items() if k != "class_name"}, order_probs=mix)
    latents = draw_latents(generator, 20_000, 0, 0)
    shares = torch.bincount(latents.conditions["order"], minlength=9)[1:] / 20_000
    assert (shares - torch.tensor(mix)).abs().max() < 0.015
    phase = latents.conditions["phase"]
    assert phase.min() >= 0 and phase.max() < 2 * math.pi and torch.histc(phase, 8).min() > 2200
    again, other = draw_latents(generator, 20_000, 0, 0), draw_latents(generator, 20_000, 0, 1)
    assert torch.equal(latents.z, again.z) and not torch.equal(latents.z, other.z)


def test_style_mixing_takes_the_later_rows_from_the_second_style():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(resolution=16, **{k: v for k, v in STYLEGAN2.items() if k != "class_name"})
    latents = draw_latents(generator, 4, 0, 0, style_mixing=1.0)
    second, row = latents.mixing
    assert ((row >= 1) & (row < generator.style_ws)).all()
    ws = generator.broadcast(generator.mapping(latents.z)).clone()
    other = generator.broadcast(generator.mapping(second))
    for i in range(4):
        ws[i, row[i] :] = other[i, row[i] :]
    torch.testing.assert_close(generate(generator, latents, 16), generator.synthesis(ws, noise_mode="const"))
