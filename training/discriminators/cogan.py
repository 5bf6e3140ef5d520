"""The two coupled discriminators of CoGAN.

Liu and Tuzel 2016, "Coupled Generative Adversarial Networks", section 3.
"""

from collections import OrderedDict

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from training.discriminators.base import Discriminator
from training.discriminators.dcgan import downward_layers


class CoGANDiscriminator(Discriminator):
    """Two DCGANDiscriminators that share their last layers, each for the pictures of one domain.

    Args:
        resolution, channels, channel_max, normalize, norm_first: of both, as DCGANDiscriminator has them.
        shared_layers: how many layers they share, the last one included; 0 are two discriminators of their own.

    Raises:
        ValueError: a size is outside its range.
    """

    num_channels = 6  # the colours of both domains

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: int = 64,
        channel_max: int = 512,
        normalize: bool = True,
        norm_first: bool = True,
        shared_layers: int = 2,
    ) -> None:
        super().__init__()
        settings = (resolution, channels, channel_max, normalize, norm_first, None)
        layers = [list(downward_layers(*settings).items()) for _ in range(2)]
        most = len(layers[0]) - 1
        if not 0 <= shared_layers <= most:
            raise ValueError(f"shared_layers must be 0 to {most} at this resolution, got {shared_layers}.")
        own = len(layers[0]) - shared_layers
        self.starts = nn.ModuleList(nn.Sequential(OrderedDict(domain[:own])) for domain in layers)
        self.shared = nn.Sequential(OrderedDict(layers[0][own:]))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N,6,resolution,resolution) in [-1,1], both domains' colours, to logits (N,2), one for each domain.

        The two pictures need not belong together. A loss that is the mean over logits is half of the paper's.

        Raises:
            ValueError: the pictures have another shape.
        """
        self.check(images)
        domains = zip(self.starts, images.split(3, dim=1))
        return torch.cat([self.shared(start(own)) for start, own in domains], dim=1)

    @property
    def blocks(self) -> list[nn.Module]:
        """What may be frozen, from the pictures on: layers of both domains, then shared ones; all but the last."""
        pairs = [nn.ModuleList(pair) for pair in zip(*self.starts)]
        return [*pairs, *self.shared][:-1]
