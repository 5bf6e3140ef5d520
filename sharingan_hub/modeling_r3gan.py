"""R3GANGenerator: a plain residual generator, written from the papers.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN": no normalisation, mapping network or noise.
Zhang et al. 2019, "Fixup Initialization: Residual Learning Without Normalization".

Needs torch and diffusers only: the same file is shipped inside every checkpoint as remote code.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

SLOPE = 0.2
EXPANSION = 2  # of the width inside a residual block
GROUP = 16  # channels that a grouped convolution sees together, at most


class ResidualBlock(nn.Module):
    """x plus 1x1 convolution to twice the width, grouped 3x3, 1x1 back, with a leaky ReLU in between.

    At first it is the identity: the last weights are 0, and the others smaller than usual by blocks^(-1/4), so that a
    network of so many blocks does not change faster than one (Fixup).
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.expand = nn.Conv2d(width, inner, 1)
        self.conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // math.gcd(inner, GROUP))
        self.contract = nn.Conv2d(inner, width, 1, bias=False)
        for conv in (self.expand, self.conv):
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
            nn.init.zeros_(conv.get_parameter("bias"))
            conv.weight.data *= blocks**-0.25
        nn.init.zeros_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y = F.leaky_relu(self.expand(x), SLOPE)
        y = F.leaky_relu(self.conv(y), SLOPE)
        return x + self.contract(y)


def linear_conv(in_channels: int, out_channels: int, bias: bool = False) -> nn.Conv2d:
    """A 1x1 convolution that keeps the size of signals: between widths, to RGB and from it."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    nn.init.normal_(conv.weight, std=in_channels**-0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def stage_widths(resolution: int, channels: int, channel_max: int) -> list[int]:
    """Channels at each side, from the picture's down to 4 to 7 pixels: `channels`, then twice as many each time."""
    return [min(channels * 2**i, channel_max) for i in range((resolution // 4).bit_length())]


class Basis(nn.Module):
    """z -> first features: each channel is a learned small picture, times a number that is linear in z."""

    def __init__(self, z_dim: int, width: int, side: int) -> None:
        super().__init__()
        self.pictures = nn.Parameter(torch.randn(width, side, side))
        self.weight = nn.Parameter(torch.randn(width, z_dim) / math.sqrt(z_dim))

    def forward(self, z: Tensor) -> Tensor:
        """(N, z_dim) -> (N, C, side, side)."""
        return F.linear(z, self.weight)[:, :, None, None] * self.pictures


class R3GANGenerator(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the mixins' own config_name
    """z -> picture: residual blocks at each side from 4 to 8 pixels on, and bilinear doubling between them.

    28 px are 7, doubled twice; a size like 30 px, which no such doubling reaches, is the middle of 32. z is the style
    itself, in a single row: there are no layers to mix.

    Args:
        z_dim: size of the latent z, and of w, which is the same.
        resolution: picture size in pixels, 16 to 1024.
        channels: at the picture's size; half the size has twice as many ...
        channel_max: ... and never more than this.
        blocks: residual blocks at each size.

    Raises:
        ValueError: a size is outside its range.
    """

    conditions: tuple[str, ...] = ()

    @register_to_config
    def __init__(
        self, z_dim: int = 64, resolution: int = 64, channels: int = 32, channel_max: int = 128, blocks: int = 2
    ) -> None:
        super().__init__()
        if not 16 <= resolution <= 1024:
            raise ValueError(f"resolution is {resolution}; it must be from 16 to 1024")
        limits = {"z_dim": (z_dim, 8192), "channels": (channels, 8192), "channel_max": (channel_max, 8192)}
        for name, (value, most) in {**limits, "blocks": (blocks, 16)}.items():
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}; it must be from 1 to {most}")
        self.z_dim = self.w_dim = z_dim
        self.num_ws = self.style_ws = 1
        self.resolution = resolution
        widths = stage_widths(resolution, channels, channel_max)[::-1]
        first = -(-resolution // 2 ** (len(widths) - 1))
        self.basis = Basis(z_dim, widths[0], first)
        self.stages = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            if i:
                if width != before:
                    steps["width"] = linear_conv(
                        before, width
                    )  # before the doubling: the same sums, at a quarter's cost
                steps["up"] = nn.Upsample(scale_factor=2, mode="bilinear")
            for j in range(blocks):
                steps[f"block{j}"] = ResidualBlock(width, blocks * len(widths))
            self.stages.append(nn.Sequential(steps))
            before = width
        self.torgb = linear_conv(before, 3, bias=True)
        self.register_buffer("w_avg", torch.zeros(z_dim))

    def mapping(self, z: Tensor) -> Tensor:
        """z (N, z_dim) -> w (N, w_dim), which is z."""
        return z

    def broadcast(self, w: Tensor) -> Tensor:
        """w (N, w_dim) -> ws (N, 1, w_dim)."""
        return w[:, None]

    def latent_weights(self) -> Tensor:
        """By what the latent enters the first features, (outputs, w_dim), all places of a channel in one row."""
        return self.basis.weight * self.basis.pictures.flatten(1).norm(dim=1, keepdim=True)

    def synthesis(self, ws: Tensor) -> Tensor:
        """ws (N, 1, w_dim) -> pictures (N, 3, R, R), about [-1, 1], float32.

        Raises:
            ValueError: `ws` has another shape.
        """
        if ws.ndim != 3 or ws.shape[1:] != (1, self.w_dim):
            raise ValueError(f"ws has shape {tuple(ws.shape)}; it must be (N, 1, {self.w_dim})")
        x = self.basis(ws[:, 0].to(self.w_avg.dtype))
        for stage in self.stages:
            x = stage(x)
        x = self.torgb(x)
        left = (x.shape[3] - self.resolution) // 2
        inside = slice(left, left + self.resolution)
        return x[:, :, inside, inside].float()

    def forward(self, z: Tensor) -> Tensor:
        """z (N, z_dim) -> pictures (N, 3, R, R), about [-1, 1]."""
        return self.synthesis(self.broadcast(self.mapping(z)))
