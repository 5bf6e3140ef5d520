"""The patch head against a plain loop, and the discriminator in two halves."""

import numpy as np
import pytest
import torch

from training.discriminators import StyleGAN2Discriminator
from training.discriminators.patch import PatchHead


@pytest.fixture
def discriminator():
    torch.manual_seed(0)
    return StyleGAN2Discriminator(resolution=16, channel_base=128, channel_max=12, mbstd_group_size=2)


def head(discriminator, level, size):
    return PatchHead(discriminator, level, size, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(3, 3), (1, 5), (4, 1), (8, 8)])
def test_a_patch_is_a_weighted_sum_within_the_picture(discriminator, size):
    patches = head(discriminator, 8, size)
    with torch.no_grad():
        patches.bias.fill_(0.3)
    features = torch.randn(2, 12, 8, 8)
    weight = patches.weight[0].detach().numpy() / np.sqrt(12 * size[0] * size[1])
    expected = [
        [
            0.3 + (one[:, y : y + size[0], x : x + size[1]] * weight).sum()
            for y in range(8 - size[0] + 1)
            for x in range(8 - size[1] + 1)
        ]
        for one in features.numpy()
    ]
    np.testing.assert_allclose(patches(features).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_patch_sees_no_farther_than_its_size(discriminator):
    """At the picture's own side the features are pixels: a change elsewhere moves no logit of the patch."""
    strips = head(discriminator, 16, (1, 4))
    images = torch.randn(1, 3, 16, 16)
    changed = images.clone()
    changed[:, :, 5, 10] += 1
    with torch.no_grad():
        before, after = (strips(discriminator.features(x, 16)).view(16, 13) for x in (images, changed))
    moved = {tuple(where) for where in (before != after).nonzero().tolist()}
    assert moved == {(5, x) for x in range(7, 11)}


@pytest.mark.parametrize("level", [16, 8, 4])
def test_the_two_halves_are_the_whole(discriminator, level):
    images = torch.randn(4, 3, 16, 16)
    features = discriminator.features(images, level)
    assert features.shape == (4, discriminator.levels[level], level, level)
    assert torch.equal(discriminator.logits(features), discriminator(images))


def test_weights_are_drawn_for_the_seed_alone(discriminator):
    first = head(discriminator, 8, (3, 3))
    torch.rand(1)
    assert torch.equal(first.weight, head(discriminator, 8, (3, 3)).weight)


@pytest.mark.parametrize("level", [32, 2, 12])
def test_a_level_that_is_none_is_refused(discriminator, level):
    """The public code falls back to whole pictures here, silently."""
    with pytest.raises(ValueError, match=f"patch_level must be one of 16, 8, 4, .*got {level}"):
        head(discriminator, level, (1, 1))


@pytest.mark.parametrize("size", [(1, 9), (9, 1)])
def test_a_patch_larger_than_the_features_is_refused(discriminator, size):
    with pytest.raises(ValueError, match="patch_size must be at most patch_level, 8"):
        head(discriminator, 8, size)


def test_a_discriminator_without_levels_is_refused():
    with pytest.raises(ValueError, match="patch_level must be left out with this Linear"):
        head(torch.nn.Linear(2, 2), 8, (1, 1))
