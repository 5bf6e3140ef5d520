"""The domain feature network: how like one another two emblems are, and which training picture is nearest.

Trained to read an emblem's attributes (order, families, radii, colours ...) and its flaws (blur, noise, deformation) off
the picture (training/train_features.py); distances of what it knows just before its answers are distances of design. It
looks at the picture in polar coordinates, periodic in angle, and averages over the angle at the end: so a picture and the
same picture turned have nearly the same features.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

EMBEDDED = Path(__file__).parent / "embedded" / "features"
SIDE = 64  # pixels: every picture is looked at at this size
RADII, ANGLES, REACH = 40, 96, 1.25  # of the polar grid; radius 1 is the middle of an edge
BATCH = 256  # pictures at once


@lru_cache(maxsize=4)
def polar_grid(device: torch.device) -> Tensor:
    """Where the polar grid's points lie in the picture, (RADII, ANGLES, 2), x and y in [-1.25, 1.25]."""
    with torch.inference_mode(False):  # cached: a tensor made in inference mode could not be used in training
        radius = (torch.arange(RADII, device=device) + 0.5) * (REACH / RADII)
        angle = torch.arange(ANGLES, device=device) * (2 * math.pi / ANGLES)
        return torch.stack([radius[:, None] * angle.cos(), -radius[:, None] * angle.sin()], dim=2)


class PolarConv(nn.Module):
    """3x3 convolution over radius and angle, periodic in angle; batch norm (Ioffe & Szegedy 2015) and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, R, A) -> (N, out, R', A')."""
        x = torch.cat([x[..., -1:], x, x[..., :1]], dim=3)
        return F.relu_(self.norm(self.conv(x)))


class FeatureNetwork(ModelMixin, ConfigMixin):  # type: ignore[misc]  # the mixins' own config_name
    """Pictures -> features whose Euclidean distances say how different the designs are.

    Args:
        channels: width of the four levels; the last three halve the angle's resolution again, and two of them the radius'.
        num_features: length of the feature vector.
    """

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (16, 32, 96, 160), num_features: int = 128) -> None:
        super().__init__()
        self.num_features = num_features  # the name that torchmetrics looks for
        strides = [(2, 2), (1, 2), (2, 2), (2, 2)]
        layers: list[nn.Module] = []
        width = 3
        for out, stride in zip(channels, strides):
            layers += [PolarConv(width, out, stride), PolarConv(out, out)]
            width = out
        self.layers = nn.Sequential(*layers)
        self.project = nn.Linear(width * math.ceil(RADII / 8) * 2, num_features)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, num_features), 0 or more.

        Raises:
            ValueError: images have another shape.
        """
        x = self.layers(self._polar(images))
        deviation = (x.var(dim=3, correction=0) + 1e-4).sqrt()
        return F.relu(self.project(torch.cat([x.mean(dim=3), deviation], dim=1).flatten(1)))

    def details(self, images: Tensor) -> Tensor:
        """What the first level sees: (N, 3, H, W) in [0, 1] -> (N, channels[0], 20, 48), over radius and angle.

        Raises:
            ValueError: images have another shape.
        """
        return self.layers[1](self.layers[0](self._polar(images)))

    def _polar(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N,3,H,W), got {tuple(images.shape)}.")
        if images.shape[2:] != (SIDE, SIDE):
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        grid = polar_grid(images.device).to(images.dtype).expand(len(images), -1, -1, -1)
        x = F.grid_sample(images * 2 - 1, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return x.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def feature_network(folder: Path = EMBEDDED) -> FeatureNetwork:
    """The feature network of a folder, that of the package where none is given, on the CPU, ready for use.

    Raises:
        CheckpointError: the folder holds none.
    """
    from sharingan_hub import hub

    settings = hub.read_json(folder / "config.json")
    network = FeatureNetwork(**{name: value for name, value in settings.items() if not name.startswith("_")})
    expected = {name: value for name, value in network.state_dict().items() if value.is_floating_point()}
    network.load_state_dict(hub.read_weights(folder / hub.WEIGHTS, expected), strict=False)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


@torch.no_grad()
def features_of(images: Tensor, network: nn.Module | None = None) -> Tensor:
    """Features (N, D) of pictures (N, 3, H, W) in [0, 1], on the network's device, a batch at a time."""
    network = network or feature_network()
    device = next(network.parameters()).device
    return torch.cat([network(some.to(device)) for some in images.split(BATCH)])


def nearest(features: Tensor, references: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Distances and indices, (N, count) each, of the nearest of references (M, D) to features (N, D), nearest first."""
    return tuple(torch.cdist(features, references).topk(min(count, len(references)), largest=False))  # type: ignore[return-value]
