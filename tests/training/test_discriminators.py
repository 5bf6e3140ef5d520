"""The StyleGAN2 discriminator against an unfolded reference, its statistics, its growth and its freezing."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.discriminators import StyleGAN2Discriminator
from training.discriminators.stylegan2 import blur, minibatch_stddev

TINY = {"resolution": 16, "channel_base": 128, "channel_max": 12}


def tiny(**changes):
    torch.manual_seed(0)
    network = StyleGAN2Discriminator(**TINY | changes)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    return network


@pytest.mark.parametrize(("stride", "padding"), [(1, 2), (2, 1)])
def test_blur_is_the_direct_filter(stride, padding):
    images = np.random.default_rng(0).normal(size=(2, 3, 9, 12))
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(2, 3))
    expected = (windows * taps).sum(axis=(4, 5))[:, :, ::stride, ::stride]
    actual = blur(torch.from_numpy(images), stride, padding)
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-12)


def test_minibatch_stddev_is_numpy_std_over_consecutive_groups():
    x = torch.randn(8, 5, 4, 4, dtype=torch.float64)
    appended = minibatch_stddev(x, 4)[:, -1]
    for start in (0, 4):
        expected = np.sqrt(x[start : start + 4].numpy().var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(appended[start : start + 4].numpy(), expected)
    assert torch.equal(minibatch_stddev(x, 4)[4:], minibatch_stddev(x[4:], 4))  # a slice is a whole batch of its own
    assert minibatch_stddev(x[:3], 4).shape == (3, 6, 4, 4)  # no group of 4: one of 3


def unfolded(network, images):
    """The same network as the paper writes it: gains after activations, 1/sqrt(2) after the residual sum."""

    def conv(layer, x, **options):
        bias = None if layer.bias is None else layer.bias
        return F.conv2d(x, layer.weight / math.sqrt(layer.weight[0].numel()), bias, **options)

    def linear(layer, x):
        return F.linear(x, layer.weight / math.sqrt(layer.weight.shape[1]), layer.bias)

    def activate(x):
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    x = activate(conv(network.fromrgb, images))
    for name in ("b16", "b8"):
        block = getattr(network, name)
        main = activate(conv(block.conv0, x, padding=1))
        main = activate(conv(block.conv1, blur(main, 1, 2), stride=2))
        x = (main + conv(block.skip, blur(x, 2, 1))) / math.sqrt(2)
    x = activate(conv(network.b4.conv, minibatch_stddev(x, 4), padding=1))
    return linear(network.b4.out, activate(linear(network.b4.fc, x.flatten(1))))


def test_forward_equals_the_unfolded_network():
    network = tiny().double()
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(network(images), unfolded(network, images))
    channels_last = tiny().double().to(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(images), unfolded(network, images))


def test_second_derivatives_are_right():
    """R1 needs them, through in-place activations."""
    network = tiny(resolution=8, channel_base=16, channel_max=3).double()
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(network, (images,), fast_mode=True)


def test_signals_keep_their_size_at_the_start():
    torch.manual_seed(0)
    flat = torch.randn(64, 3, 1, 1).expand(-1, -1, 32, 32)  # which no low-pass filter weakens
    logits = StyleGAN2Discriminator(resolution=32, mbstd_group_size=1)(flat)
    assert 0.3 < logits.square().mean().sqrt() < 3


@pytest.mark.parametrize("resolution", [32, 64])
def test_growing_keeps_the_function(resolution):
    base = tiny(channel_base=512)
    images = torch.rand(4, 3, resolution, resolution) * 2 - 1
    halved = images
    while halved.shape[-1] > 16:
        halved = blur(halved, 2, 1)
    grown = base.at_resolution(resolution)
    torch.testing.assert_close(grown(images), base(halved), rtol=1e-3, atol=1e-4)
    grown(images).sum().backward()  # and nothing new is dead: all of it learns
    for side in [side for side in grown.sides if side > 16]:
        assert all(p.grad.abs().max() > 0 for p in getattr(grown, f"b{side}").parameters())


def test_growing_narrow_and_shrinking_keep_the_blocks_that_fit():
    base = tiny(channel_base=64)  # 4 channels at 16 px, 2 at 32: too few to pass colours on
    for resolution in (8, 32):
        other = base.at_resolution(resolution)
        assert torch.equal(other.b8.conv0.weight, base.b8.conv0.weight)
        assert torch.equal(other.b4.out.weight, base.b4.out.weight)
        assert other(torch.zeros(4, 3, resolution, resolution)).shape == (4, 1)


def test_freeze_takes_the_first_blocks():
    network = tiny()
    network.freeze(1)
    frozen = {name.split(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"fromrgb", "b16"}
    with pytest.raises(ValueError, match="freeze_discriminator"):
        network.freeze(3)


def test_saves_and_loads(tmp_path):
    network = tiny()
    network.save_pretrained(tmp_path)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(StyleGAN2Discriminator.from_pretrained(tmp_path)(images), network(images))
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"resolution": 24}, "resolution"), ({"resolution": 4}, "resolution"), ({"channel_base": 8}, "channel_base")],
)
def test_wrong_sizes_are_named(changes, name):
    with pytest.raises(ValueError, match=name):
        tiny(**changes)


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(N,3,16,16\), got \(4, 3, 32, 32\)"):
        tiny()(torch.zeros(4, 3, 32, 32))
