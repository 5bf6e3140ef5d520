"""Cross-domain correspondence against a plain loop, its recording of activations, and its anchors."""

import math

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax

from sharingan_hub import RadialGenerator, StyleGAN2Generator
from training.correspondence import (
    correspondence_loss,
    draw_layers,
    draw_near_anchors,
    likeness,
    recorded,
    style_layers,
)
from training.sampling import draw_latents, generate


def radial():
    torch.manual_seed(0)
    return RadialGenerator(z_dim=8, w_dim=8, channels=(8, 8), base_radius=4, base_angle=8)


def stylegan2():
    torch.manual_seed(0)
    return StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, channel_base=128, channel_max=16)


def looped(adapted, source, layer):
    """As the paper writes it, one sample and one pair at a time."""
    losses = []
    for i in range(len(layer)):
        first = i - i % 4
        shares = []
        for outputs in (adapted, source):
            x = outputs[layer[i]].detach().double().numpy().reshape(len(layer), -1)
            pairs = [j for j in range(first, first + 4) if j != i]
            cosines = [x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]) for j in pairs]
            shares.append(softmax(cosines))
        losses.append(rel_entr(*shares).sum() / 3)
    return losses


def test_the_loss_is_the_papers():
    torch.manual_seed(1)
    shapes = [(8, 3, 4, 4), (8, 5, 8, 8), (8, 6)]
    adapted, source = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    layer = torch.tensor([0, 1, 2, 0, 1, 1, 2, 0])
    actual = correspondence_loss(adapted, source, layer)
    np.testing.assert_allclose(actual.numpy(), looped(adapted, source, layer), rtol=1e-4, atol=1e-6)
    assert (actual > 0).all()
    assert correspondence_loss(source, source, layer).abs().max() < 1e-7
    other_way = correspondence_loss(source, adapted, layer)
    assert not torch.allclose(actual, other_way, rtol=1e-2)  # KL(adapted || source), not the reverse


def test_a_loss_depends_on_its_own_group_and_layer_alone():
    torch.manual_seed(1)
    source = [torch.randn(8, 5) for _ in range(2)]
    adapted = [torch.randn(8, 5, requires_grad=True) for _ in range(2)]
    correspondence_loss(adapted, source, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))[:4].sum().backward()
    assert (adapted[0].grad[:4] != 0).any(dim=1).all() and (adapted[0].grad[4:] == 0).all()
    assert adapted[1].grad is None or (adapted[1].grad == 0).all()


def test_descending_restores_correspondence():
    torch.manual_seed(1)
    source = [torch.randn(8, 5)]
    adapted = torch.randn(8, 5, requires_grad=True)
    layer, optimizer = torch.zeros(8, dtype=torch.int64), torch.optim.Adam([adapted], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        correspondence_loss([adapted], source, layer).sum().backward()
        optimizer.step()
    torch.testing.assert_close(likeness(adapted).softmax(1), likeness(source[0]).softmax(1), atol=0.01, rtol=0)


def test_lengths_do_not_count():
    features = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(likeness(features), likeness(features * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1)))


@pytest.mark.parametrize(
    ("make", "count"),
    [(radial, 4 + 2 + 2), (stylegan2, 5)],
    ids=["radial: convolutions and heads", "stylegan2: no torgb"],
)
def test_every_modulated_layer_is_recorded_once_and_in_order(make, count):
    generator = make()
    layers = style_layers(generator)
    assert len(layers) == count
    latents = draw_latents(generator, 4, 0, 0)
    with torch.no_grad():
        with recorded(layers) as outputs:
            picture = generate(generator, latents, 16)
        with recorded(layers) as smaller:
            generate(generator, latents, 1)
        assert torch.equal(generate(generator, latents, 16), picture)
    assert len(outputs) == count and not any(layer._forward_hooks for layer in layers)
    assert all(torch.equal(a, b) for a, b in zip(outputs, smaller))  # they do not depend on the picture's size
    shapes = [output.shape[2] for output in outputs]
    assert shapes == sorted(shapes)


def test_a_generator_without_modulation_is_refused():
    with pytest.raises(ValueError, match="correspondence_weight must be 0 with Linear"):
        style_layers(torch.nn.Linear(2, 2))


def test_each_layer_has_its_turn():
    drawn = torch.cat([draw_layers(8, 5, 0, step) for step in range(200)])
    assert torch.bincount(drawn, minlength=5).min() > 250
    assert torch.equal(draw_layers(8, 5, 0, 3), draw_layers(8, 5, 0, 3))


@pytest.mark.parametrize("make", [radial, stylegan2])
def test_latents_lie_about_the_same_few_anchors(make):
    generator = make()
    batches = [draw_near_anchors(generator, 3, 64, 0, step) for step in range(0, 400, 4)]
    z = torch.cat([latents.z for latents in batches])
    # One latent of each anchor found: everything else lies about one of the three.
    centers = [z[0]]
    for one in z:
        if min((one - center).norm() for center in centers) > 1.5:
            centers.append(one)
    assert len(centers) == 3
    which = torch.cdist(z, torch.stack(centers)).argmin(dim=1)
    for index in range(3):
        own = z[which == index]
        assert len(own) > len(z) / 4
        assert (own.std(dim=0).mean() - 0.1).abs() < 0.005
        if "order" in generator.conditions:
            orders = torch.cat([latents.conditions["order"] for latents in batches])[which == index]
            assert (orders == orders[0]).all()
    if "phase" in generator.conditions:
        phase = torch.cat([latents.conditions["phase"] for latents in batches])
        assert torch.histc(phase, 8, 0, 2 * math.pi).min() > len(z) / 10
