"""A head that judges patches instead of whole pictures.

Ojha et al. 2021, "Few-shot Image Generation via Cross-domain Correspondence", section 3.2: a convolution to one channel
on a discriminator's features. Here its kernel may have any shape, strips of 1 x k and k x 1 too, at any level: the fewer
pixels a patch sees, the less of a training picture can be copied, and the more may a design differ.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchHead(nn.Module):
    """Features of a discriminator to one logit for each patch. Patches lie within the picture: nothing is padded.

    Args:
        discriminator: whose features are read.
        level: side of those features.
        size: height and width of a patch, in features.
        rng: draws the weights.

    Raises:
        ValueError: the discriminator has no such level, or the patch does not fit into it.
    """

    def __init__(self, discriminator: Any, level: int, size: Sequence[int], rng: torch.Generator) -> None:
        levels = getattr(discriminator, "levels", {})
        if level not in levels:
            known = f"one of {', '.join(map(str, levels))}, the levels of this" if levels else "left out with this"
            raise ValueError(f"patch_level must be {known} {type(discriminator).__name__}, got {level}.")
        if max(size) > level:
            raise ValueError(f"patch_size must be at most patch_level, {level}, either way; got {list(size)}.")
        super().__init__()
        self.level = level
        self.weight = nn.Parameter(torch.randn(1, levels[level], *size, generator=rng))
        self.bias = nn.Parameter(torch.zeros(1))
        self.scale = 1 / math.sqrt(self.weight.numel())  # equalised learning rate (Karras et al. 2018, section 4.1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N,C,level,level) to logits (N,M) of the M patches, row by row."""
        return F.conv2d(features, self.weight * self.scale, self.bias).flatten(1)
