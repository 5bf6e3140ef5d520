"""The discriminator of DCGAN.

Radford et al. 2016, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks".
"""

from collections import OrderedDict

from diffusers.configuration_utils import register_to_config
from torch import nn

from sharingan_hub.modeling_dcgan import BatchNorm, SelfAttention, count_doublings, initialize
from training.discriminators.base import Discriminator


def downward_layers(
    resolution: int, channels: int, channel_max: int, normalize: bool, norm_first: bool, attention: int | None
) -> OrderedDict[str, nn.Module]:
    """Layers from (N,3,resolution,resolution) to logits (N,1), numbered from the picture on.

    Raises:
        ValueError: a size is too small, or no layer has the side `attention`.
    """
    if resolution < 16:
        raise ValueError(f"resolution must be at least 16, got {resolution}.")
    if min(channels, channel_max) < 1:
        raise ValueError(f"channels and channel_max must be at least 1, got {channels} and {channel_max}.")
    halvings = count_doublings(resolution)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = 3
    for i in range(halvings):
        out, side = min(channels * 2**i, channel_max), resolution >> (i + 1)
        # Without biases and norms alike, twice the picture would always get twice the answer.
        conv = nn.Conv2d(width, out, 4, 2, 1, bias=not normalize)
        steps: list[tuple[str, nn.Module]] = [("relu", nn.LeakyReLU(0.2))]
        if normalize and i:
            steps.insert(0 if norm_first else 1, ("norm", BatchNorm(out)))
        layers[f"layer{i}"] = nn.Sequential(OrderedDict([("conv", conv), *steps]))
        if side == attention:
            layers["attention"] = SelfAttention(out)
        width = out
    if attention is not None and "attention" not in layers:
        sides = ", ".join(str(resolution >> (i + 1)) for i in range(halvings))
        raise ValueError(f"attention must be one of {sides}, the sides of the layers, or left out; got {attention}.")
    end = nn.Conv2d(width, 1, resolution >> halvings, bias=not normalize)
    layers["end"] = nn.Sequential(OrderedDict(conv=end, flatten=nn.Flatten()))
    for layer in layers.values():
        layer.apply(initialize)
    return layers


class DCGANDiscriminator(Discriminator):
    """4x4 convolutions of stride 2 with leaky ReLU, down to 4 to 7 pixels; one more of that size gives the logit.

    With batch norm a logit depends on the batch, real pictures and fakes each being a batch of their own, and nothing has
    a bias. A gradient penalty speaks of single pictures: it needs `normalize` False.

    Args:
        resolution: side of the pictures, from 16; odd ones lose a row as they are halved.
        channels: of the first layer; each one has twice as many as the one before ...
        channel_max: ... and never more than this.
        normalize: batch norm in all layers but the first and the last.
        norm_first: batch norm, then leaky ReLU, as in the paper; False is the other way round.
        attention: side of the layer after which self-attention comes; none where not given.

    Raises:
        ValueError: a size is outside its range.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        channels: int = 64,
        channel_max: int = 512,
        normalize: bool = True,
        norm_first: bool = True,
        attention: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            downward_layers(resolution, channels, channel_max, normalize, norm_first, attention)
        )
