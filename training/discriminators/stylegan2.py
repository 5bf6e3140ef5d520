"""The residual discriminator of StyleGAN2.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", appendix B and figure 7.

Plain torch operations. Memory-bound steps are folded away: the activation gain sqrt(2) and the residual 1/sqrt(2) are
multiplied into the weights (leaky ReLU is positively homogeneous), and the [1,3,3,1] filter is one depthwise
convolution, on the CPU in channels-last memory 5 to 20 times faster than three 2x2 average pools or shifted sums.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from training.discriminators.base import Discriminator

SLOPE = 0.2
GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU, as in StyleGAN2


def blur(x: Tensor, stride: int, padding: int) -> Tensor:
    """Low-pass filter with the outer product of [1,3,3,1]/8 with itself, keeping every stride-th sample.

    x: (N,C,H,W). Returns (N,C,(H + 2 padding - 4) // stride + 1, likewise W).
    """
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype, device=x.device) / 8
    channels = x.shape[1]
    kernel = torch.outer(taps, taps).expand(channels, 1, 4, 4).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def clamped(x: Tensor, limit: float | None) -> Tensor:
    """x between -limit and limit; None is no limit."""
    return x if limit is None else x.clamp(-limit, limit)


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate (Karras et al. 2018, section 4.1).

    Weights are N(0,1) and scaled by gain/sqrt(fan in) as they are used; the gain of what follows is folded in.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel * kernel)

    def forward(self, x: Tensor, gain: float = 1.0, stride: int = 1, padding: int = 0) -> Tensor:
        bias = None if self.bias is None else self.bias * gain
        return F.conv2d(x, self.weight * (self.scale * gain), bias, stride=stride, padding=padding)


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = 1 / math.sqrt(in_features)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return F.linear(x, self.weight * (self.scale * gain), self.bias * gain)


class DownBlock(nn.Module):
    """Residual block that halves the side: (N,in,S,S) to (N,out,S/2,S/2)."""

    def __init__(self, in_channels: int, out_channels: int, clamp: float | None) -> None:
        super().__init__()
        self.clamp = clamp
        self.conv0 = EqualConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualConv2d(in_channels, out_channels, 3)
        self.skip = EqualConv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Both branches carry the residual's 1/sqrt(2), which in the main one cancels the activation's sqrt(2).
        skip = self.skip(blur(x, stride=2, padding=1), gain=math.sqrt(0.5))
        main = clamped(F.leaky_relu_(self.conv0(x, gain=GAIN, padding=1), SLOPE), self.clamp)
        main = F.leaky_relu_(self.conv1(blur(main, stride=1, padding=2), gain=1.0, stride=2), SLOPE)
        return clamped(main, self.clamp and self.clamp * math.sqrt(0.5)) + skip


def minibatch_stddev(x: Tensor, group_size: int) -> Tensor:
    """Append one channel: the standard deviation over groups of consecutive samples, averaged over all features.

    Karras et al. 2018, section 3. Groups are consecutive, so that a batch split between processes at a multiple of the
    group size gives the same values. The group shrinks to the largest divisor of the batch where it does not divide it.

    x: (N,C,H,W). Returns (N,C+1,H,W).
    """
    batch, _, height, width = x.shape
    group = max(size for size in range(1, min(group_size, batch) + 1) if batch % size == 0)
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(batch // group, group, -1)
    deviation = (groups.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=1)
    channel = deviation.repeat_interleave(group).view(batch, 1, 1, 1).expand(batch, 1, height, width)
    return torch.cat([x, channel.to(x.dtype)], dim=1)


class Epilogue(nn.Module):
    """The 4x4 end: minibatch standard deviation, convolution, two linear layers; (N,C,4,4) to (N,1)."""

    def __init__(self, channels: int, group_size: int, clamp: float | None) -> None:
        super().__init__()
        self.group_size, self.clamp = group_size, clamp
        self.conv = EqualConv2d(channels + (group_size > 1), channels, 3)
        self.fc = EqualLinear(channels * 16, channels)
        self.out = EqualLinear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.group_size > 1:
            x = minibatch_stddev(x, self.group_size)
        x = clamped(F.leaky_relu_(self.conv(x, gain=GAIN, padding=1), SLOPE), self.clamp)
        x = F.leaky_relu_(self.fc(x.flatten(1), gain=GAIN), SLOPE)
        return self.out(x)


class StyleGAN2Discriminator(Discriminator):
    """Residual discriminator with [1,3,3,1]-filtered down-sampling and minibatch standard deviation.

    Blocks are named by the side they read (b64, b32, ... b8, and b4 for the end), so the weights of a discriminator for
    a lower resolution fit the lower blocks of one for a higher resolution.

    Args:
        resolution: side of the pictures, a power of two from 8.
        channel_base: a block at side r has channel_base / r channels ...
        channel_max: ... and never more than this.
        mbstd_group_size: consecutive samples compared with one another; 1 turns minibatch statistics off.
        num_channels: colour channels of the pictures.
        conv_clamp: limit of the convolutions' answers, as checkpoints trained in float16 have it; None is no limit.

    Raises:
        ValueError: resolution is not a power of two from 8, or a size is below 1.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channel_base: int = 2048,
        channel_max: int = 128,
        mbstd_group_size: int = 4,
        num_channels: int = 3,
        conv_clamp: float | None = None,
    ) -> None:
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"resolution must be a power of two from 8, got {resolution}.")
        for name, value in (
            ("channel_base", channel_base // resolution),
            ("channel_max", channel_max),
            ("mbstd_group_size", mbstd_group_size),
            ("num_channels", num_channels),
        ):
            if value < 1:
                raise ValueError(
                    f"{name} is too small for resolution {resolution}: it leaves {value}, at least 1 needed."
                )

        def width(side: int) -> int:
            return min(channel_base // side, channel_max)

        self.num_channels = num_channels
        self.fromrgb = EqualConv2d(num_channels, width(resolution), 1)
        self.sides = [resolution >> i for i in range(resolution.bit_length() - 3)]  # resolution, ..., 16, 8
        for side in self.sides:
            setattr(self, f"b{side}", DownBlock(width(side), width(side // 2), conv_clamp))
        self.b4 = Epilogue(width(4), mbstd_group_size, conv_clamp)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N,num_channels,resolution,resolution) in [-1,1] to logits (N,1): above 0 means real.

        Raises:
            ValueError: the pictures have another shape.
        """
        return self.logits(self.features(images, 4))

    @property
    def levels(self) -> dict[int, int]:
        """Channels of the features at each side, from the picture's own down to 4."""
        blocks = {side: getattr(self, f"b{side}").conv0.weight.shape[1] for side in self.sides}
        return blocks | {4: self.b4.conv.weight.shape[0]}

    def features(self, images: Tensor, side: int) -> Tensor:
        """Pictures to the features (N,C,side,side) that block b{side} reads.

        Raises:
            ValueError: the pictures have another shape.
        """
        self.check(images)
        x = images.contiguous(memory_format=torch.channels_last)
        x = clamped(F.leaky_relu_(self.fromrgb(x, gain=GAIN), SLOPE), self.config["conv_clamp"])
        for block_side in self.sides:
            if block_side > side:
                x = getattr(self, f"b{block_side}")(x)
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Features of any of the levels to logits (N,1): the rest of the way."""
        for block_side in self.sides:
            if block_side <= features.shape[2]:
                features = getattr(self, f"b{block_side}")(features)
        return self.b4(features)

    @property
    def blocks(self) -> list[nn.Module]:
        """What may be frozen, from the picture on: fromrgb goes with the first block."""
        first, *rest = (getattr(self, f"b{side}") for side in self.sides)
        return [nn.ModuleList([self.fromrgb, first]), *rest]

    def at_resolution(self, resolution: int) -> "StyleGAN2Discriminator":
        """A discriminator for another resolution that keeps every block of this one that it has a place for.

        One for a higher resolution starts as the same function: it gives the logits that this one gives for the picture
        filtered by [1,3,3,1] and halved. So a generator that goes on at twice the resolution does not meet an untrained
        judge. (Net2Net, Chen et al. 2016, is the same idea for other changes of shape.) Where a new block has fewer than
        two channels for each colour, and below this one's resolution, what is new is random.

        Raises:
            ValueError: see the class.
        """
        base = self
        while base.config["resolution"] < resolution:
            grown = base._resized(base.config["resolution"] * 2)
            grown._imitate(base.fromrgb)
            base = grown
        return base if base.config["resolution"] == resolution else base._resized(resolution)

    def _resized(self, resolution: int) -> "StyleGAN2Discriminator":
        settings = {name: value for name, value in self.config.items() if not name.startswith("_")}
        resized = StyleGAN2Discriminator(**settings | {"resolution": resolution})
        for name, block in self.named_children():
            if name != "fromrgb" and hasattr(resized, name):
                getattr(resized, name).load_state_dict(block.state_dict())
        return resized

    @torch.no_grad()
    def _imitate(self, fromrgb: EqualConv2d) -> None:
        """Make fromrgb and the first block, together, equal to another fromrgb after halving the picture.

        A colour x passes through a leaky ReLU unharmed as a pair of channels: f(x) - f(-x) = (1 + slope) x.
        """
        block: DownBlock = getattr(self, f"b{self.sides[0]}")
        colors = fromrgb.weight.shape[1]
        pairs = [(2 * color, 2 * color + 1) for color in range(colors)]
        if self.fromrgb.weight.shape[0] < 2 * colors:
            return
        # What a unit weight does in each of the three layers, and the common weight that makes their product right.
        gains = (self.fromrgb.scale * GAIN, block.conv0.scale * GAIN * (1 + SLOPE), block.conv1.scale * (1 + SLOPE))
        weight = (fromrgb.scale * GAIN / math.prod(gains)) ** (1 / 3)
        self.fromrgb.weight[: 2 * colors] = 0
        block.conv0.weight[: 2 * colors] = 0
        block.conv1.weight.zero_()
        block.skip.weight.zero_()
        for color, (up, down) in enumerate(pairs):
            self.fromrgb.weight[up, color], self.fromrgb.weight[down, color] = weight, -weight
            for out, sign in ((up, weight), (down, -weight)):
                block.conv0.weight[out, up, 1, 1], block.conv0.weight[out, down, 1, 1] = sign, -sign
            block.conv1.weight[:, up, 1, 1] = fromrgb.weight[:, color, 0, 0] * weight
            block.conv1.weight[:, down, 1, 1] = -fromrgb.weight[:, color, 0, 0] * weight
        assert block.conv1.bias is not None and fromrgb.bias is not None
        block.conv1.bias.copy_(fromrgb.bias * GAIN)
