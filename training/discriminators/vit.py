"""A vision transformer that judges, with or without convolutions in front.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale".
Xiao et al. 2021, "Early Convolutions Help Transformers See Better": the convolutional stem.
"""

from collections import OrderedDict
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.discriminators.base import Discriminator

DEVIATION = 0.02  # of first weights and positions, as in BERT and the transformers after it


class PatchEmbedding(nn.Module):
    """Pictures to one token for each patch, with what is learned of its place added.

    Args:
        resolution: side of the pictures.
        patch_size: side of a patch, which divides it.
        width: numbers in a token.
        stem_layers: 3x3 convolutions of stride 2 before the patches, which are so much smaller then.
    """

    def __init__(self, resolution: int, patch_size: int, width: int, stem_layers: int) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        channels = 3
        for i in range(stem_layers):
            out = max(1, width >> (stem_layers - i))
            steps += [nn.Conv2d(channels, out, 3, 2, 1), nn.LeakyReLU(0.2)]
            channels = out
        side = patch_size >> stem_layers
        self.convs = nn.Sequential(*steps, nn.Conv2d(channels, width, side, side))
        count = (resolution // patch_size) ** 2
        self.positions = nn.Parameter(DEVIATION * torch.randn(1, count, width))

    def forward(self, images: Tensor) -> Tensor:
        """(N,3,S,S) to tokens (N,T,width), row by row."""
        return self.convs(images).flatten(2).transpose(1, 2) + self.positions


class TokenHead(nn.Module):
    """Tokens (N,T,width) to logits (N,1): averaged and weighed.

    Not normalised, as a classifier's are: twice as large a picture would be the same to the judge, and nothing would bring a
    generator back that has gone beyond [-1,1].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(tokens.mean(dim=1))


class ViTDiscriminator(Discriminator):
    """Patches as tokens, through torch's own transformer layers (normalised before each part), to the logit of their mean.

    Its logits change little with each single pixel, so R1 needs a gamma of about 100 to hold it, 10 for the hybrid, where 1 will
    do for convolutions alone.

    Args:
        resolution: side of the pictures, a multiple of patch_size.
        patch_size: side of a patch in pixels.
        width: numbers in a token, a multiple of heads.
        num_layers: transformer layers.
        heads: of the attention in each.
        stem_layers: convolutions that halve the picture before the transformer sees it; 0 is a plain vision transformer,
            more is the hybrid. patch_size is a multiple of 2^stem_layers.

    Raises:
        ValueError: sizes do not fit one another.
    """

    @register_to_config
    def __init__(
        self,
        resolution: int = 64,
        patch_size: int = 8,
        width: int = 128,
        num_layers: int = 4,
        heads: int = 4,
        stem_layers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("patch_size", patch_size), ("width", width), ("num_layers", num_layers), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if resolution < patch_size or resolution % patch_size:
            raise ValueError(f"resolution must be a multiple of patch_size, {patch_size}, got {resolution}.")
        if stem_layers < 0 or patch_size % 2**stem_layers:
            raise ValueError(f"patch_size must be a multiple of 2^stem_layers, 2^{stem_layers}, got {patch_size}.")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}, got {width}.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["embedding"] = PatchEmbedding(resolution, patch_size, width, stem_layers)
        for i in range(num_layers):
            layers[f"layer{i}"] = nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
        layers["head"] = TokenHead(width)
        self.layers = nn.Sequential(layers)
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=DEVIATION)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N,3,resolution,resolution) in [-1,1] to logits (N,1): above 0 means real.

        Raises:
            ValueError: the pictures have another shape.
        """
        # R1 differentiates twice, and so must the attention's backward pass: only the plain one does.
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(images)

    def at_resolution(self, resolution: int) -> Self:
        """This one, or one for another resolution that begins with its weights, and its positions stretched to the new grid.

        Raises:
            ValueError: see the class.
        """
        other = super().at_resolution(resolution)
        if other is not self:
            positions: list[Any] = [network.get_parameter("layers.embedding.positions") for network in (self, other)]
            before, after = (round(values.shape[1] ** 0.5) for values in positions)
            grid = positions[0].detach().transpose(1, 2).unflatten(2, (before, before))
            grid = F.interpolate(grid, size=(after, after), mode="bicubic", antialias=after < before)
            with torch.no_grad():
                positions[1].copy_(grid.flatten(2).transpose(1, 2))
        return other
