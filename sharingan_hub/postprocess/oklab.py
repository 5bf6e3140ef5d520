"""OKLab, a colour space in which equal steps look equally large (B. Ottosson, "A perceptual color space for image
processing", 2020), and the way back into what a screen can show.

Colours lie in the last dimension: encoded sRGB in [0, 1], OKLab with L in [0, 1] and a, b in about [-0.35, 0.35].
"""

from __future__ import annotations

import torch
from torch import Tensor

# Ottosson 2020: linear sRGB to cone responses, and their cube roots to Lab.
_TO_CONES = torch.tensor(
    (
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    ),
    dtype=torch.float64,
)
_TO_LAB = torch.tensor(
    (
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    ),
    dtype=torch.float64,
)
_FROM_CONES, _FROM_LAB = torch.linalg.inv(_TO_CONES), torch.linalg.inv(_TO_LAB)
_LEAST = 1e-9  # cube roots below it would have endless slopes


def to_linear(rgb: Tensor) -> Tensor:
    """Encoded sRGB to linear light (IEC 61966-2-1); negative values mirrored."""
    size = rgb.abs()
    curve = ((size.clamp(min=0.04) + 0.055) / 1.055) ** 2.4
    return rgb.sign() * torch.where(size <= 0.04045, size / 12.92, curve)


def to_encoded(linear: Tensor) -> Tensor:
    """The inverse of `to_linear`."""
    size = linear.abs()
    curve = 1.055 * size.clamp(min=0.003) ** (1 / 2.4) - 0.055
    return linear.sign() * torch.where(size <= 0.0031308, size * 12.92, curve)


def to_oklab(rgb: Tensor) -> Tensor:
    """Encoded sRGB (..., 3) to OKLab (..., 3); values a little outside [0, 1] come back from `from_oklab` as they were."""
    cones = to_linear(rgb) @ _TO_CONES.T.to(rgb)
    roots = cones.sign() * cones.abs().clamp(min=_LEAST) ** (1 / 3)
    return roots @ _TO_LAB.T.to(rgb)


def from_oklab(lab: Tensor) -> Tensor:
    """OKLab (..., 3) to encoded sRGB (..., 3), outside [0, 1] for colours that no screen shows."""
    return to_encoded(_linear(lab))


def _linear(lab: Tensor) -> Tensor:
    return (lab @ _FROM_LAB.T.to(lab)) ** 3 @ _FROM_CONES.T.to(lab)


def fit_to_screen(lab: Tensor, steps: int = 12) -> Tensor:
    """Colours (P, 3) moved into sRGB: lightness cut to [0, 1], hue kept, and chroma lowered as far as needed.

    Colours that a screen shows come back unchanged. The largest chroma that fits is found by halving (2**-steps of it).
    """
    light = lab[:, :1].clamp(0, 1)
    lab = torch.cat((light, lab[:, 1:]), dim=1)
    with torch.no_grad():
        outside = ~_shown(lab)
        colors = lab[outside]
        low, high = torch.zeros_like(colors[:, :1]), torch.ones_like(colors[:, :1])
        for _ in range(steps):
            middle = (low + high) / 2
            fits = _shown(torch.cat((colors[:, :1], colors[:, 1:] * middle), dim=1))[:, None]
            low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
        share = torch.ones_like(light)
        share[outside] = low
    return torch.cat((light, lab[:, 1:] * share), dim=1)


def _shown(lab: Tensor, tolerance: float = 1e-3) -> Tensor:
    linear = _linear(lab)
    return ((linear >= -tolerance) & (linear <= 1 + tolerance)).all(dim=1)
