"""The plain residual discriminator of R3GAN.

Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN".
"""

from collections import OrderedDict

from diffusers.configuration_utils import register_to_config
from torch import nn

from sharingan_hub.modeling_r3gan import ResidualBlock, linear_conv, stage_widths
from training.discriminators.base import Discriminator


class R3GANDiscriminator(Discriminator):
    """The generator the other way round: residual blocks at each size, 2x2 means between them, no normalisation.

    At the last size, 4 to 7 pixels, each channel is weighed by a small picture of its own, and their sum is the logit.

    Args:
        resolution: side of the pictures, from 16; odd ones lose a row as they are halved.
        channels: at the picture's size; half the size has twice as many ...
        channel_max: ... and never more than this.
        blocks: residual blocks at each size.

    Raises:
        ValueError: a size is too small.
    """

    @register_to_config
    def __init__(self, resolution: int = 64, channels: int = 32, channel_max: int = 128, blocks: int = 2) -> None:
        super().__init__()
        if resolution < 16:
            raise ValueError(f"resolution must be at least 16, got {resolution}.")
        for name, value in (("channels", channels), ("channel_max", channel_max), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        widths = stage_widths(resolution, channels, channel_max)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, width in enumerate(widths):
            steps: OrderedDict[str, nn.Module] = OrderedDict()
            if i == 0:
                steps["fromrgb"] = linear_conv(3, width, bias=True)
            for j in range(blocks):
                steps[f"block{j}"] = ResidualBlock(width, blocks * len(widths))
            if i < len(widths) - 1:
                steps["down"] = nn.AvgPool2d(2)
                if widths[i + 1] != width:
                    steps["width"] = linear_conv(width, widths[i + 1])
            layers[f"stage{i}"] = nn.Sequential(steps)
        side = resolution >> (len(widths) - 1)
        weigh = nn.Conv2d(widths[-1], widths[-1], side, groups=widths[-1], bias=False)
        nn.init.normal_(weigh.weight, std=1 / side)
        out = linear_conv(widths[-1], 1, bias=True)
        layers["end"] = nn.Sequential(OrderedDict(weigh=weigh, out=out, flatten=nn.Flatten()))
        self.layers = nn.Sequential(layers)
