"""Regularisers against closed forms."""

import math

import pytest
import torch
from torch import nn

from training.objectives import OBJECTIVES
from training.regularizers import (
    clip,
    distance,
    estimate_spectrum,
    gradient_penalty,
    normalize_spectrum,
    path_lengths,
    r1,
)


def linear(images, weight):
    return (images * weight).sum(dim=(1, 2, 3))[:, None]


def pictures(count=5, side=4):
    return torch.randn(count, 3, side, side, dtype=torch.float64, requires_grad=True)


def test_linear_discriminator_has_its_squared_weight():
    """At reals (R1) and at fakes (R2) alike: its gradient is the same everywhere."""
    weight = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    for images in (pictures(), 100 + 7 * pictures().detach().requires_grad_()):
        images = images.detach().requires_grad_()
        penalty = r1(images, linear(images, weight))
        torch.testing.assert_close(penalty, weight.square().sum().expand(5))
        weight.grad = None
        penalty.sum().backward()
        torch.testing.assert_close(weight.grad, 10 * weight)  # d/dw of 5 |w|^2


def test_each_picture_has_its_own_gradient():
    images = pictures(4, 2)
    penalty = r1(images, images.square().sum(dim=(1, 2, 3))[:, None])
    torch.testing.assert_close(penalty, 4 * images.square().sum(dim=(1, 2, 3)))


def test_gradient_penalty_is_the_squared_excess_of_the_slope():
    direction = torch.randn(3, 4, 4, dtype=torch.float64)
    direction /= direction.norm()
    slope = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    images = pictures()
    penalty = gradient_penalty(images, linear(images, slope * direction))
    torch.testing.assert_close(penalty, torch.full((5,), 0.25, dtype=torch.float64))
    penalty.mean().backward()
    assert slope.grad.item() == pytest.approx(1.0)  # d/ds of (s - 1)^2


def test_clipping_moves_only_what_is_outside():
    weights = [torch.tensor([-3.0, -0.01, 0.004]), torch.tensor([[0.02]])]
    clip(weights, 0.01)
    assert [w.flatten().tolist() for w in weights] == [pytest.approx([-0.01, -0.01, 0.004]), pytest.approx([0.01])]


def test_distance_sums_over_a_picture():
    reals = torch.zeros(2, 3, 4, 4)
    fakes = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -2.0)])
    assert distance(fakes, reals).tolist() == [12.0, 192.0]


def test_path_length_of_a_linear_generator():
    """Images A w have J = A: |A^T y| for each y; of an orthogonal one times s, s |y|."""
    matrix = torch.randn(48, 6, dtype=torch.float64, requires_grad=True)
    ws = torch.randn(5, 1, 6, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(5, 3, 4, 4, dtype=torch.float64)
    lengths = path_lengths(ws, (ws[:, 0] @ matrix.T).view(5, 3, 4, 4), noise)
    torch.testing.assert_close(lengths, (noise.flatten(1) / 4 @ matrix).norm(dim=1))
    lengths.sum().backward()
    assert matrix.grad.abs().min() > 0
    square = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64)).Q
    wide = torch.randn(5, 1, 48, dtype=torch.float64, requires_grad=True)
    lengths = path_lengths(wide, 3 * (wide[:, 0] @ square.T).view(5, 3, 4, 4), noise)
    torch.testing.assert_close(lengths, 3 * noise.flatten(1).norm(dim=1) / 4)


def test_path_length_of_several_rows_is_the_root_of_their_mean_square():
    ws = torch.randn(2, 4, 1, dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    images = (ws[:, :, 0] * slopes).sum(dim=1).view(2, 1, 1, 1)
    lengths = path_lengths(ws, images, torch.ones(2, 1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(lengths, torch.full((2,), math.sqrt(30 / 4), dtype=torch.float64))


# Spectral norm.


def spectrum(layer):
    weight = layer.weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return torch.linalg.matrix_norm(weight.flatten(1), 2).item()


def test_the_largest_singular_value_becomes_1():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 4), nn.ConvTranspose2d(8, 5, 3), nn.Linear(6, 4), nn.BatchNorm2d(4))
    with torch.no_grad():
        network[2].weight.copy_(torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0, 0])[:4]) @ torch.eye(4, 6))
    layers = normalize_spectrum(network)
    for _ in range(200):
        estimate_spectrum(layers)
    assert [spectrum(layer) for layer in layers] == pytest.approx([1, 1, 1], rel=1e-3) and len(layers) == 3
    torch.testing.assert_close(network[2].weight.detach().diag(), torch.tensor([1, 0.6, 0.4, 0.2]), rtol=1e-3, atol=0)


def test_the_estimate_stands_still_between_steps_and_follows_the_weight():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    layers = normalize_spectrum(network)
    images = torch.randn(2, 3, 8, 8)
    first = [network(images) for _ in range(3)]
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])
    with torch.no_grad():
        network[0].parametrizations.weight.original.add_(torch.randn(4, 3, 3, 3))
    assert abs(spectrum(network[0]) - 1) > 0.05
    for _ in range(100):
        estimate_spectrum(layers)
    assert spectrum(network[0]) == pytest.approx(1, rel=1e-3)


def test_a_network_without_torchs_layers_is_refused():
    with pytest.raises(ValueError, match="spectral_norm needs torch's own layers, and ReLU has none"):
        normalize_spectrum(nn.ReLU())


# What critics say of the distance of N(0,1) and N(shift,1), which is the shift.


def fit(critic, shift, constrain, steps=500):
    """Train a Wasserstein critic; the distance that it claims, on pairs that differ by the shift alone."""
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.9))
    wasserstein, rng = OBJECTIVES["wasserstein"], torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / steps)
        real, fake = torch.randn(2, 256, 1, 1, 1, generator=rng)
        real = real + shift
        loss = wasserstein.discriminator(critic(real), critic(fake)).mean()
        if constrain == "penalty":
            between = fake.lerp(real, torch.rand(256, 1, 1, 1, generator=rng)).requires_grad_()
            loss = loss + 10 * gradient_penalty(between, critic(between)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if constrain == "clipping":
            clip(critic.parameters(), 0.1)
    points = torch.randn(4096, 1, 1, 1, generator=rng)
    with torch.no_grad():
        return (critic(points + shift) - critic(points)).mean().item()


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(1, 32), nn.LeakyReLU(0.2), nn.Linear(32, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)
    )


def test_a_critic_under_the_penalty_knows_the_distance_within_5_percent():
    """A linear one has a slope of 1 + shift / (2 lambda): s shift - 10 (s - 1)^2 is greatest there."""
    straight = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
    nn.init.constant_(straight[1].weight, 0.1)  # the penalty would keep a negative slope near -1
    assert fit(straight, 0.5, "penalty") == pytest.approx(0.5 * (1 + 0.5 / 20), rel=0.01)
    assert fit(mlp(), 0.5, "penalty") == pytest.approx(0.5, rel=0.05)


def test_a_critic_under_clipping_knows_it_only_up_to_a_factor():
    """Its slope is what the clipped weights allow: here about 0.6, whatever the distance."""
    near, far = fit(mlp(), 0.5, "clipping"), fit(mlp(), 1.0, "clipping")
    assert 0.5 < near / 0.5 < 0.75 and 0.5 < far < 0.75
    assert far / near == pytest.approx(2, rel=0.15)
