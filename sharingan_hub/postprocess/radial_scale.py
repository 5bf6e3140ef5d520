"""s(theta, r), the factor by which circles are pulled out of shape, and the warp that undoes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .polar import image_center, to_grid

TABLE = 2048  # angles at which s is tabulated for the warp; linear between them, to 1e-5 of the radius for 48 harmonics
STRIP = 2**16  # pixels warped at once: bounds the memory, and the intermediate results stay in the cache
LUMA = (0.299, 0.587, 0.114)


def bernstein(x: Tensor, count: int) -> Tensor:
    """The `count` Bernstein polynomials of degree count - 1 at x (...), clamped to [0, 1] -> (count, ...).

    They are smooth, positive and sum to 1.
    """
    x, degree = x.clamp(0, 1), count - 1
    return torch.stack([math.comb(degree, j) * x**j * (1 - x) ** (degree - j) for j in range(count)])


def waves(theta: Tensor, harmonics: int) -> Tensor:
    """cos k theta and sin k theta for k = 1 to `harmonics`: (...) -> (2, harmonics, ...)."""
    angles = torch.arange(1, harmonics + 1, device=theta.device, dtype=theta.dtype).view(-1, *[1] * theta.ndim) * theta
    return torch.stack([angles.cos(), angles.sin()])


@dataclass
class RadialScale:
    """s(theta, r): what should lie at radius r and angle theta, lies at radius r s(theta, r).

    log s(theta, r) = sum over j, k of B_j(r / reach) (a_jk cos k theta + b_jk sin k theta), with B_j the Bernstein
    polynomials; there is no term k = 0, so the mean of log s over the angles is 0 and sizes stay as they are.

    Args:
        coefficients: (N, J, 2, K): a and b. J is 1 unless s depends on the radius (then B_0 = 1).
        reach: radius in pixels at which the polynomials end; s is the same beyond.
    """

    coefficients: Tensor
    reach: float = 1.0

    def __call__(self, theta: Tensor, r: Tensor | float | None = None) -> Tensor:
        """s at angles theta (any shape, radians counter-clockwise) and radii r (pixels, broadcast with theta).

        Returns:
            (N, *shape). Differentiable.

        Raises:
            ValueError: s depends on the radius and no r was given.
        """
        return self.log(theta, r).exp()

    def log(self, theta: Tensor, r: Tensor | float | None = None) -> Tensor:
        """log s, as `__call__` takes and gives it."""
        count, rings, _, harmonics = self.coefficients.shape
        theta = theta.to(self.coefficients)
        if r is None:
            if rings > 1:
                raise ValueError("r is None; this scale depends on the radius, so r must be given in pixels")
            r = theta.new_zeros(())
        theta, radius = torch.broadcast_tensors(theta, torch.as_tensor(r).to(theta))
        wave = waves(theta.flatten(), harmonics).flatten(0, 1)  # (2K, P)
        along = self.coefficients.flatten(2) @ wave  # (N, J, P)
        return (along * bernstein(radius.flatten() / self.reach, rings)).sum(1).view(count, *theta.shape)


def warp(
    images: Tensor,
    scale: RadialScale,
    center: Tensor | None = None,
    method: Literal["warp", "ratio"] = "warp",
) -> Tensor:
    """Undo a distortion: what lies at center + r s(theta, r) comes to lie at radius r from the picture's middle.

    Args:
        images: (N, C, H, W) in [0, 1], float32 or float64.
        scale: of the same N.
        center: (N, 2), the circles' centre in the picture; None is the middle.
        method: "warp" resamples the colours (bicubic); "ratio" resamples the luminance and the ratios of the colours
            to it, and multiplies them.

    Returns:
        (N, C, H, W), clamped to [0, 1]. Differentiable in images, coefficients and center.
    """
    count, channels, height, width = images.shape
    middle = image_center(images)
    if center is None:
        center = images.new_tensor(middle).expand(count, 2)
    if method == "ratio" and channels == 3:
        luma = torch.einsum("nchw,c->nhw", images, images.new_tensor(LUMA))[:, None]
        ratios = images / (luma + 1e-3)
    keep_graph = torch.is_grad_enabled() and (images.requires_grad or scale.coefficients.requires_grad)
    result = None if keep_graph else torch.empty_like(images, memory_format=torch.contiguous_format)
    strips: list[Tensor] = []
    rows = max(1, STRIP // width)
    # The table of log s, or of s if it is the same at all radii, runs once around from -pi, as atan2 does.
    theta = torch.arange(TABLE + 1, device=images.device, dtype=images.dtype) * (2 * math.pi / TABLE) - math.pi
    rings = scale.coefficients.shape[1]
    table = scale.coefficients.flatten(2) @ waves(theta, scale.coefficients.shape[3]).flatten(0, 1)  # (N, J, TABLE + 1)
    table = (table if rings > 1 else table.exp()).flatten(0, 1)[None, :, None]
    x = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5 - middle[0]
    across, down, start = 2 * x / width, 2 / height, to_grid(center, height, width)
    for top in range(0, height, rows):
        y = torch.arange(top, min(top + rows, height), device=images.device, dtype=images.dtype) + 0.5 - middle[1]
        y = y[:, None]
        place = torch.atan2(-y, x) / math.pi
        place = torch.stack([place, torch.zeros_like(place)]).permute(1, 2, 0)[None]
        # Interpolating a table is what this function does, and it does it for all pictures at once.
        s = F.grid_sample(table, place, mode="bilinear", padding_mode="border", align_corners=True)[0]
        s = s.unflatten(0, (count, rings))
        if rings > 1:
            weights = bernstein(torch.hypot(x, y) / scale.reach, rings)
            s = (s * weights).sum(1, keepdim=True).exp()
        row = []
        for i in range(count):
            # x and y in two planes: operations on a last axis of two are slow.
            grid = [torch.addcmul(start[i, 0], s[i, 0], across), torch.addcmul(start[i, 1], s[i, 0], y * down)]
            at = torch.stack(grid).permute(1, 2, 0)[None]
            if method == "ratio" and channels == 3:
                piece = _sample(luma[i : i + 1], at, "bicubic") * _sample(ratios[i : i + 1], at, "bicubic")
            else:
                piece = _sample(images[i : i + 1], at, "bicubic")
            if result is None:
                row.append(piece.clamp(0, 1))
            else:
                torch.clamp(piece, 0, 1, out=result[i : i + 1, :, top : top + len(y)])
        if result is None:
            strips.append(torch.cat(row))
    return torch.cat(strips, 2) if result is None else result


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
