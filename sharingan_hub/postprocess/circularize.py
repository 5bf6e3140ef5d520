"""circularize: pictures whose rings are out of round come back round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .polar import check_images, image_center
from .radial_fit import REACH, Fit, find, refine
from .radial_scale import RadialScale, warp

__all__ = ["CircularizeResult", "RadialScale", "circularize"]

SMALLEST = 16  # pixels of the shorter side: below it no ring is fitted
LEAST_CONFIDENCE = 0.5
# A fit beyond these found something else than a distorted circle: RMS of log s, RMS of its derivative (how steeply the
# outline runs against the circle: up to about 0.5 for distortions of 10 %, 0.8 and more where unrelated edges were strung
# together), and shift in halves of the picture.
LARGEST_RMS, LARGEST_SLOPE, LARGEST_SHIFT = 0.2, 0.65, 0.5
PER_RING = 4  # Bernstein polynomials in the radius: a cubic
FIT_AT_ONCE = 8  # pictures


@dataclass
class CircularizeResult:
    """What `circularize` returns.

    Args:
        images: (N, C, H, W), as they came where `ok` is False.
        scale: the fitted s(theta, r); 1 where `ok` is False.
        center: (N, 2), x and y in pixels of the point that came to lie in the middle; the first pixel's middle is
            (0.5, 0.5). The middle itself where `ok` is False.
        confidence: (N,) in [0, 1]: how coherent the circles' radial edges are after the repair; 0 for a fit that no
            distortion explains. Fits of 0.5 and more are `ok`.
        ok: (N,) bool, whether a fit was found.
    """

    images: Tensor
    scale: RadialScale
    center: Tensor
    confidence: Tensor
    ok: Tensor


def circularize(
    images: Tensor,
    harmonics: int | None = None,
    center: Literal["auto", "image"] | Sequence[float] = "auto",
    per_ring: bool = False,
    method: Literal["warp", "ratio"] = "warp",
) -> CircularizeResult:
    """Find by how much each picture's circles are out of round, and warp it back; the circles' centre comes to the middle.

    Based on Gascooke, Gibson, Lawrance, J. Chem. Phys. 147, 013924 (2017): the radius is scaled by a trigonometric series
    in the angle. Needs neither a radial band nor a particular background, and is differentiable in the pictures,
    through the fit too. Each picture is on its own, whatever the batch.

    Args:
        images: (N, 1, H, W) or (N, 3, H, W) in [0, 1], any floating dtype and device; float16 and bfloat16 are computed
            in float32. Values may lie beyond [0, 1] by up to 1e-3, as rounding carries them; a repaired picture's do not.
        harmonics: the series' length, 1 to 64; None takes those harmonics that the picture asks for, up to 48.
        center: "auto" finds it; "image" is the middle; (x, y) in pixels of all pictures.
        per_ring: let s change with the radius too, smoothly.
        method: "warp" resamples the colours, bicubic; "ratio" circularises the luminance and carries the ratios of the
            colours to it along.

    Returns:
        A CircularizeResult. Where nothing can be fitted (blank, noise, a street) the picture is returned as it came.

    Raises:
        TypeError, ValueError: an argument of another type or outside its range; NaN or infinite values.
    """
    check_images(images)
    if harmonics is not None and (isinstance(harmonics, bool) or not isinstance(harmonics, int)):
        raise TypeError(f"harmonics is a {type(harmonics).__name__}; it must be None or a whole number from 1 to 64")
    if harmonics is not None and not 1 <= harmonics <= 64:
        raise ValueError(f"harmonics is {harmonics}; it must be None or a whole number from 1 to 64")
    if method not in ("warp", "ratio"):
        raise ValueError(f"method is {method!r}; it must be 'warp' or 'ratio'")
    height, width = images.shape[-2:]
    half = min(height, width) / 2
    middle = image_center(images)
    start = (0.0, 0.0)
    if not isinstance(center, str):
        start = tuple((c - m) / half for c, m in zip(point(center), middle))  # type: ignore[assignment]
    elif center not in ("auto", "image"):
        raise ValueError(f"center is {center!r}; it must be 'auto', 'image' or a point (x, y) in pixels")
    dtype = torch.promote_types(images.dtype, torch.float32)
    rings = PER_RING if per_ring else 1
    parts = []
    for some in images.split(FIT_AT_ONCE):
        x = some.to(dtype)
        fit = Fit(x.new_zeros(len(x), rings, 2, harmonics or 1), x.new_zeros(len(x), 2))
        confidence = x.new_zeros(len(x))
        ok = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if len(x) and min(height, width) >= SMALLEST:
            begin = x.new_tensor(start).expand(len(x), 2)
            with torch.no_grad():
                found = find(x, harmonics, rings, begin, center == "auto")
            fit, confidence = found.fit, found.confidence
            confidence = confidence * sensible(fit, begin)
            ok = confidence >= LEAST_CONFIDENCE
            if torch.is_grad_enabled() and x.requires_grad:
                fit = refine(x, found, rings, center == "auto")
        # Not a product with ok: a failed fit may hold anything.
        coefficients = torch.where(ok[:, None, None, None], fit.coefficients, 0.0)
        place = x.new_tensor(middle) + half * torch.where(ok[:, None], fit.center, 0.0)
        scale = RadialScale(coefficients, REACH * half)
        repaired = some
        if ok.any():
            repaired = warp(x, scale, place, method).to(images.dtype)
            if not ok.all():
                repaired = torch.where(ok[:, None, None, None], repaired, some)
        parts.append(CircularizeResult(repaired, scale, place, confidence, ok))
    if len(parts) == 1:
        return parts[0]
    return CircularizeResult(
        torch.cat([part.images for part in parts]),
        RadialScale(torch.cat([part.scale.coefficients for part in parts]), REACH * half),
        torch.cat([part.center for part in parts]),
        torch.cat([part.confidence for part in parts]),
        torch.cat([part.ok for part in parts]),
    )


def sensible(fit: Fit, begin: Tensor) -> Tensor:
    """Which fits (N,) may be distorted circles at all."""
    power = fit.coefficients.square().sum(2) / 2  # of each harmonic, averaged over the angles: Parseval
    order = torch.arange(1, power.shape[2] + 1, device=power.device, dtype=power.dtype)
    rms, slope = power.sum(2).amax(1).sqrt(), (power * order.square()).sum(2).amax(1).sqrt()
    shift = (fit.center - begin).norm(dim=1)
    return (rms < LARGEST_RMS) & (slope < LARGEST_SLOPE) & (shift < LARGEST_SHIFT)


def point(center: Sequence[float]) -> tuple[float, float]:
    """The argument `center` as two finite numbers."""
    allowed = "'auto', 'image' or a point (x, y) in pixels"
    try:
        x, y = (float(value) for value in center)
    except (TypeError, ValueError) as error:
        raise ValueError(f"center is {center!r:.80}; it must be {allowed}") from error
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"center is ({x}, {y}); it must be {allowed}")
    return x, y
