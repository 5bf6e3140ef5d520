"""Pictures as the post-processing steps take them, and their samples on circles around a centre.

Points are (x, y) in pixels from the picture's left upper corner, so that the first pixel's middle is (0.5, 0.5) and the
middle of a picture is (width / 2, height / 2). Angles are radians, counter-clockwise from the x axis as one sees it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 1e-3  # how far beyond [0, 1] rounding may carry a picture's values


def check_images(images: Tensor, name: str = "images") -> None:
    """Refuse what is no batch of pictures: floating (N, 1, H, W) or (N, 3, H, W), finite, in [0, 1] to within 1e-3.

    Raises:
        TypeError: not a tensor, or not a floating one.
        ValueError: another shape, no pixels, NaN or infinite values, or values outside the range.
    """
    allowed = "a floating tensor (N, 1, H, W) or (N, 3, H, W) in [0, 1]"
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} is a {type(images).__name__}; it must be {allowed}")
    if not images.is_floating_point():
        raise TypeError(f"{name} is a tensor of {images.dtype}; it must be {allowed}")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2] == 0 or images.shape[3] == 0:
        raise ValueError(f"{name} has shape {tuple(images.shape)}; it must be {allowed}")
    if len(images) == 0:
        return
    low, high = (value.item() for value in images.detach().aminmax())
    if not (low > float("-inf") and high < float("inf")):  # NaN comes through aminmax, and fails both
        raise ValueError(f"{name} holds NaN or infinite values; it must be {allowed}")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(
            f"{name} holds values from {low:.4g} to {high:.4g}; it must be {allowed} (beyond it at most {TOLERANCE})"
        )


def image_center(images: Tensor) -> tuple[float, float]:
    """The middle (x, y) of pictures (..., H, W), in pixels."""
    return images.shape[-1] / 2, images.shape[-2] / 2


def to_grid(points: Tensor, height: int, width: int) -> Tensor:
    """Points (..., 2) in pixels -> coordinates of `torch.nn.functional.grid_sample` with align_corners=False."""
    return points * points.new_tensor([2 / width, 2 / height]) - 1


def to_polar(
    images: Tensor,
    radii: Tensor,
    angles: Tensor,
    center: Tensor | None = None,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Tensor:
    """Sample pictures on circles: pixel (i, j) of the result lies at radius radii[i] and angle angles[j].

    Args:
        images: (N, C, H, W), any values, any floating dtype (float16 and bfloat16 are computed in float32).
        radii: (R,) in pixels.
        angles: (A,) in radians, counter-clockwise from the x axis.
        center: (N, 2), x and y of each picture's centre in pixels, or (2,) for all; None is the middle.
        mode: how to interpolate between pixels.

    Returns:
        (N, C, R, A), differentiable in images, radii, angles and center. Points outside the picture have the value
        of the edge's nearest pixel.
    """
    height, width = images.shape[-2:]
    dtype = torch.promote_types(images.dtype, torch.float32)
    radii, angles = radii.to(images.device, dtype), angles.to(images.device, dtype)
    directions = torch.stack([angles.cos(), -angles.sin()], -1)
    offsets = radii[:, None, None] * directions
    if center is None:
        center = offsets.new_tensor(image_center(images))
    center = center.to(images.device, dtype).expand(len(images), 2)
    grid = to_grid(offsets + center[:, None, None], height, width)
    # A picture of one pixel has no neighbours to interpolate bicubically; grid_sample knows that with "border".
    sampled = F.grid_sample(images.to(dtype), grid, mode=mode, padding_mode="border", align_corners=False)
    return sampled.to(images.dtype)


def shrink(images: Tensor, size: int) -> Tensor:
    """Pictures with the shorter side at most `size`. Not by area averages, whose cells are uneven for odd factors."""
    factor = min(images.shape[-2:]) / size
    while factor >= 2 and factor % 2 == 0 and images.shape[-2] % 2 == 0 and images.shape[-1] % 2 == 0:
        images = images[..., ::2, :] + images[..., 1::2, :]  # some times faster than avg_pool2d
        images, factor = (images[..., ::2] + images[..., 1::2]) * 0.25, factor / 2
    if factor <= 1:
        return images
    height, width = images.shape[-2:]
    if factor == round(factor) and height % factor == 0 and width % factor == 0:
        return F.avg_pool2d(images, round(factor))
    return F.interpolate(images, size=(round(height / factor), round(width / factor)), mode="bilinear", antialias=True)


def blur(images: Tensor) -> Tensor:
    """Binomial [1 2 1] / 4 along both axes: bilinear samples of an edge then do not depend on where the pixels lie."""
    x = F.pad(images, (1, 1, 1, 1), mode="replicate")
    x = (x[..., :-2, :] + x[..., 2:, :]) * 0.25 + x[..., 1:-1, :] * 0.5
    return (x[..., :-2] + x[..., 2:]) * 0.25 + x[..., 1:-1] * 0.5


def mix(images: Tensor, mixture: Tensor) -> Tensor:
    """(N, C, h, w) and (N, C) -> the mixtures of the channels, (N, 1, h, w)."""
    return (mixture[:, None] @ images.flatten(2)).view(len(images), 1, *images.shape[2:])
