"""The auto-encoder that judges in BEGAN.

Berthelot et al. 2017, "BEGAN: Boundary Equilibrium Generative Adversarial Networks", section 3.5 and figure 1.
"""

from collections import OrderedDict

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from training.discriminators.base import Discriminator


def two_convs(in_channels: int, out_channels: int) -> list[tuple[str, nn.Module]]:
    """Two 3x3 convolutions, each with its ELU."""
    return [
        ("conv0", nn.Conv2d(in_channels, out_channels, 3, padding=1)),
        ("elu0", nn.ELU()),
        ("conv1", nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        ("elu1", nn.ELU()),
    ]


class AutoencoderDiscriminator(Discriminator):
    """Pictures to a short code and back; what it answers is by how much it misses them.

    Encoder and decoder have two 3x3 convolutions at each size from the picture's down to 8 to 15 pixels. Channels grow by
    `channels` from one size to the next in the encoder and stay `channels` in the decoder, which doubles by repeating.

    Args:
        resolution: side of the pictures, from 16.
        channels: of the first layer.
        code_dim: numbers in a code.

    Raises:
        ValueError: a size is too small.
    """

    @register_to_config
    def __init__(self, resolution: int = 64, channels: int = 32, code_dim: int = 64) -> None:
        super().__init__()
        if resolution < 16:
            raise ValueError(f"resolution must be at least 16, got {resolution}.")
        for name, value in (("channels", channels), ("code_dim", code_dim)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        halvings = (resolution // 8).bit_length() - 1
        sides = [resolution >> i for i in range(halvings + 1)]
        layers: OrderedDict[str, nn.Module] = OrderedDict(fromrgb=nn.Conv2d(3, channels, 3, padding=1))
        for i, side in enumerate(sides):
            width = channels * (i + 1)
            steps = two_convs(channels * max(i, 1), width)
            if i < halvings:
                steps.append(("down", nn.AvgPool2d(2)))
            layers[f"encoder{side}"] = nn.Sequential(OrderedDict(steps))
        area = sides[-1] ** 2
        layers["encode"] = nn.Sequential(nn.Flatten(), nn.Linear(width * area, code_dim))
        decode = (nn.Linear(code_dim, channels * area), nn.Unflatten(1, (channels, sides[-1], sides[-1])))
        layers["decode"] = nn.Sequential(*decode)
        for i, side in enumerate(sides[::-1]):
            up: list[tuple[str, nn.Module]] = [("up", nn.Upsample(size=(side, side), mode="nearest"))] if i else []
            layers[f"decoder{side}"] = nn.Sequential(OrderedDict([*up, *two_convs(channels, channels)]))
        layers["torgb"] = nn.Conv2d(channels, 3, 3, padding=1)
        self.layers = nn.Sequential(layers)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Pictures (N,3,resolution,resolution) in [-1,1] as the code remembers them, of the same shape.

        Raises:
            ValueError: the pictures have another shape.
        """
        self.check(images)
        return self.layers(images)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N,3,resolution,resolution) in [-1,1] to errors (N,1): the mean distance of a value from its own.

        Raises:
            ValueError: the pictures have another shape.
        """
        return (images - self.reconstruct(images)).abs().mean(dim=(1, 2, 3))[:, None]
