"""R3GANGenerator: sizes, first weights, its blocks against their definition, and its basis."""

import math

import pytest
import torch
import torch.nn.functional as F

from sharingan_hub import R3GANGenerator, SharinganPipeline
from sharingan_hub.modeling_r3gan import ResidualBlock, stage_widths


def tiny(**changes) -> R3GANGenerator:
    """A small generator in which every block does something."""
    torch.manual_seed(0)
    model = R3GANGenerator(**{"z_dim": 6, "resolution": 16, "channels": 4, "channel_max": 8} | changes).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("contract.weight", "bias")):
                value.normal_(std=0.3)
    return model


@pytest.mark.parametrize(("side", "first", "stages"), [(16, 4, 3), (28, 7, 3), (30, 8, 3), (32, 4, 4), (64, 4, 5)])
def test_sizes(side, first, stages):
    model = tiny(resolution=side)
    images = model(torch.randn(2, 6))
    assert images.shape == (2, 3, side, side) and images.dtype == torch.float32 and images.std() > 0.1
    assert model.basis.pictures.shape[1:] == (first, first) and len(model.stages) == stages


def test_widths_double_towards_small_sides():
    assert stage_widths(64, 32, 128) == [32, 64, 128, 128, 128]
    assert stage_widths(28, 4, 100) == [4, 8, 16]


def test_a_block_begins_as_the_identity_and_then_is_its_definition():
    torch.manual_seed(0)
    block = ResidualBlock(24, 8).double()
    x = torch.randn(2, 24, 5, 6, dtype=torch.float64)
    assert torch.equal(block(x), x)
    assert block.conv.groups == 3 and block.conv.weight.shape == (48, 16, 3, 3)
    with torch.no_grad():
        for value in (block.contract.weight, block.expand.bias, block.conv.bias):
            value.normal_()
    y = F.leaky_relu(
        torch.einsum("oi,nihw->nohw", block.expand.weight[:, :, 0, 0], x) + block.expand.bias[:, None, None], 0.2
    )
    kernel = torch.zeros(48, 48, 3, 3, dtype=torch.float64)  # without groups: zeros between them
    for group in range(3):
        own = slice(16 * group, 16 * group + 16)
        kernel[own, own] = block.conv.weight[own]
    y = F.leaky_relu(F.conv2d(y, kernel, block.conv.bias, padding=1), 0.2)
    expected = x + torch.einsum("oi,nihw->nohw", block.contract.weight[:, :, 0, 0], y)
    torch.testing.assert_close(block(x), expected)


def test_first_weights_shrink_with_the_number_of_blocks():
    """He et al. 2015's deviation for leaky ReLU, times L^(-1 / (2m - 2)) for m = 3 layers in a block (Fixup)."""
    torch.manual_seed(0)
    for blocks in (1, 16):
        block = ResidualBlock(64, blocks)
        for conv, fan in ((block.expand, 64), (block.conv, 16 * 9)):
            expected = math.sqrt(2 / (1 + 0.2**2) / fan) * blocks ** (-1 / 4)
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.03)
            assert not conv.bias.any()


def test_a_new_generator_is_linear_in_z_and_its_signals_are_of_ordinary_size():
    torch.manual_seed(0)
    model = R3GANGenerator()
    z = torch.randn(32, 64)
    images = model(z)
    torch.testing.assert_close(model(2 * z), 2 * images)
    assert 0.2 < images.std() < 2


def test_the_basis_weighs_its_pictures_by_z():
    basis = tiny().basis
    z = torch.eye(6)[:2]
    features = basis(z)
    expected = basis.weight[:, :2].t()[:, :, None, None] * basis.pictures[None]
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("resolution", [16, 30])
def test_a_seed_gives_its_picture_whatever_the_batch(resolution):
    pipe = SharinganPipeline(tiny(resolution=resolution))
    together = pipe(seeds=[3, 7, 8], output_type="pt").images
    assert together.std() > 0.05
    for i, seed in enumerate([3, 7, 8]):
        torch.testing.assert_close(pipe(seeds=seed, output_type="pt").images[0], together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resolution", "z_dim", "channels", "channel_max", "blocks"])
def test_wrong_settings_are_named(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be from"):
        R3GANGenerator(**{name: 0})


def test_wrong_shape_of_latents():
    with pytest.raises(ValueError, match=r"ws has shape \(1, 2, 6\); it must be \(N, 1, 6\)"):
        tiny().synthesis(torch.zeros(1, 2, 6))
