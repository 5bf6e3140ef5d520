"""The circle about an emblem: what differs from the colour of the picture's border, and the smallest circle around that."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .polar import shrink

MEASURED_SIDE = 128  # pixels of the shorter side at which the circle is measured
DIFFERENT = 0.15  # in the channel that differs most


def border_color(images: Tensor) -> Tensor:
    """The median colour of the pixels along the border: (N, C, H, W) -> (N, C, 1, 1)."""
    sides = [images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]]
    return torch.cat(sides, dim=2).median(dim=2).values[:, :, None, None]


def outline(images: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (N, 2), x and y in pixels, and radius (N,) in pixels of the circle about the emblem in pictures (N, C, H, W).

    A picture of one colour has its middle and radius 0.
    """
    small = shrink(images, MEASURED_SIDE)
    differs = ((small - border_color(small)).abs().amax(dim=1) > DIFFERENT).to(small)
    differs = F.avg_pool2d(differs, 3, 1, 1) > 0.4  # single pixels are dirt
    scale = small.new_tensor([images.shape[3] / small.shape[3], images.shape[2] / small.shape[2]])
    centers, radii = [], []
    for shape in differs:
        ys, xs = torch.nonzero(shape, as_tuple=True)
        center, radius = scale.new_tensor([images.shape[3] / 2, images.shape[2] / 2]), scale.new_zeros(())
        if len(xs):
            center, radius = enclosing_circle((torch.stack([xs, ys], dim=1) + 0.5) * scale)
        centers.append(center)
        radii.append(radius)
    return torch.stack(centers), torch.stack(radii)


def enclosing_circle(points: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (2,) and radius () of the smallest circle around points (P, 2), to about 1 % (Badoiu and Clarkson 2003)."""
    center = (points.amin(dim=0) + points.amax(dim=0)) / 2
    for i in range(1, 300):
        center = center + (points[(points - center).norm(dim=1).argmax()] - center) / (i + 1)
    return center, (points - center).norm(dim=1).amax()
