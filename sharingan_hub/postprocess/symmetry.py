"""How symmetric a picture is under rotation about its middle, of which order, and making it so.

With c_m(r) the Fourier coefficients over the angle on the circle of radius r, E_m = sum_r r |c_m(r)|^2 / sum_r r is the
energy of the m-th harmonic. A picture of order n has energy in multiples of n alone, so

    S_n = sum of E_m over m = n, 2n, 3n ...  /  sum of E_m over m = 1, 2, 3 ...

is 1 for it. A picture without symmetry has about S_n = 1/n; (n S_n - 1) / (n - 1) puts that at 0 (and keeps 1).
Only the disc that fits into the picture counts.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .polar import check_images, image_center, to_grid, to_polar

Method = Literal["auto", "average", "wedge"]
MAX_ORDER = 8  # the highest that is looked for
LARGEST_ORDER = 360  # the highest that may be asked for
RINGS, ANGLES, HARMONICS = 96, 360, 48
MEASURED_SIDE = 512  # larger pictures are measured at this size
EMPTY = 1e-7  # energy below which a picture has no harmonics but rounding


def harmonics(images: Tensor) -> Tensor:
    """E_1 to E_48 of pictures (N, C, H, W), any C: (N, 48), differentiable."""
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    if len(images) == 0:  # the Fourier transform refuses it
        return images.new_empty(0, HARMONICS)
    height, width = images.shape[-2:]
    if max(height, width) > MEASURED_SIDE:
        scale = MEASURED_SIDE / max(height, width)
        images = F.interpolate(images, (max(1, round(height * scale)), max(1, round(width * scale))), mode="area")
    half = min(images.shape[-2:]) / 2
    count = min(RINGS, max(1, math.ceil(half)))
    radii = (torch.arange(count, device=images.device, dtype=images.dtype) + 0.5) * (half / count)
    angles = torch.arange(ANGLES, device=images.device, dtype=images.dtype) * (2 * math.pi / ANGLES)
    polar = to_polar(images, radii, angles)
    spectrum = torch.fft.rfft(polar, dim=3, norm="forward")[..., 1 : HARMONICS + 1]
    energy = (spectrum.real.square() + spectrum.imag.square()).sum(dim=1)
    return (energy * radii[:, None]).sum(dim=1) / radii.sum()


def symmetry_score(images: Tensor, order: int | Sequence[int] | None = None) -> Tensor:
    """How symmetric pictures are: (n S_n - 1) / (n - 1), 1 for perfect symmetry of order n, about 0 for none.

    Args:
        images: (N, C, H, W) in [0, 1], C of 1 or 3.
        order: n, 1 or more; one for all pictures or one for each. None is each of 1 to 8.

    Returns:
        (N,), or (N, 8) for order None; differentiable. At order 1, and for pictures of one colour, the score is 1. It
        may be a little below 0 (-1 for order 2).

    Raises:
        TypeError, ValueError: images are no pictures, or order is none.
    """
    check_images(images)
    if order is None:
        energy = harmonics(images)
        return torch.stack([_score(energy, [n] * len(images)) for n in range(1, MAX_ORDER + 1)], dim=1).to(images.dtype)
    return _score(harmonics(images), _orders(order, len(images))).to(images.dtype)


def symmetry_loss(images: Tensor, order: int | Sequence[int]) -> Tensor:
    """1 - S_n of pictures (N, C, H, W) -> (N,) in [0, 1]: the share of energy that symmetry of order n forbids.

    Differentiable, for training. 0 for order 1 and for pictures of one colour. Raises as `symmetry_score`.
    """
    check_images(images)
    return (1 - _share(harmonics(images), _orders(order, len(images)))).to(images.dtype)


@torch.no_grad()
def estimate_order(images: Tensor) -> Tensor:
    """The order of each picture's symmetry, 1 to 8: (N, C, H, W) in [0, 1] -> (N,) int64.

    The largest order whose score is within 0.1 of the best (a picture of order 6 is also one of order 3 and 2), if the
    best is at least 0.3; else 1. Distorted pictures have nearly no score: circularize them first.

    Raises:
        TypeError, ValueError: images are no pictures.
    """
    scores = symmetry_score(images).double()
    energy = harmonics(images).sum(dim=1)
    best = scores[:, 1:].amax(dim=1)
    orders = torch.arange(1, MAX_ORDER + 1, device=images.device)
    near = torch.where(scores >= best[:, None] - 0.1, orders, 1).amax(dim=1)
    return torch.where((best >= 0.3) & (energy > EMPTY), near, 1)


def symmetrize(
    images: Tensor, order: int | Sequence[int] | Literal["auto"] | None = None, method: Method = "auto"
) -> Tensor:
    """Make pictures symmetric about their middle.

    Args:
        images: (N, C, H, W) in [0, 1], C of 1 or 3.
        order: 1 or more, one for all pictures or one for each; None or "auto" takes `estimate_order`.
        method: "average" takes the mean of all rotations: smooths flaws, but blurs, and ghosts where the parts differ.
            "wedge" copies the one wedge that is most like the others and joins them softly. "auto" leaves pictures
            alone that are symmetric already, averages good ones, and takes the wedge for poor ones.

    Returns:
        (N, C, H, W) of the dtype that came, differentiable. In the corners, which a rotation carries out of the picture,
        only what is inside counts.

    Raises:
        TypeError, ValueError: images are no pictures, or order or method is none.
    """
    check_images(images)
    return carry_out(plan(images, order, method), images)


Plan = list[
    tuple[str, int, float]
]  # for each picture what to do ("keep", "average", "wedge"), its order, the wedge's start


@torch.no_grad()
def plan(images: Tensor, order: int | Sequence[int] | str | None, method: str) -> Plan:
    """What `symmetrize` does to each picture; `carry_out` does it, also to further channels such as alpha."""
    if method not in get_args(Method):
        raise ValueError(f"method is {str(method)[:80]!r}; it must be one of {', '.join(get_args(Method))}")
    if order is None or (isinstance(order, str) and order == "auto"):
        orders = estimate_order(images).tolist()
    else:
        orders = _orders(order, len(images))
    energy = harmonics(images)
    scores = _score(energy, orders).tolist()
    forbidden = ((1 - _share(energy, orders)) * energy.sum(dim=1) * (2 / images.shape[1])).sqrt().tolist()
    # Square pixels alone take about this much (RMS) from a perfect circle's symmetry.
    unseen = 2 / min(*images.shape[-2:], MEASURED_SIDE)
    plans: Plan = []
    for image, n, score, flaw in zip(images, orders, scores, forbidden, strict=True):
        choice = method
        if method == "auto":
            choice = "keep" if score >= 0.99 or flaw < unseen else "average" if score >= 0.96 else "wedge"
        if n == 1:
            choice = "keep"
        plans.append((choice, n, _best_wedge(image, n) if choice == "wedge" else 0.0))
    return plans


def carry_out(plans: Plan, images: Tensor) -> Tensor:
    """Pictures (N, C, H, W), any C, made symmetric as planned."""
    work = images.to(torch.promote_types(images.dtype, torch.float32))
    out = []
    for i, (choice, order, start) in enumerate(plans):
        if choice == "keep":
            out.append(images[i])
            continue
        build = _average if choice == "average" else _wedge
        strips = [build(work[i], order, start, *strip) for strip in _strips(work)]
        out.append(torch.cat(strips, dim=1).clamp(0, 1).to(images.dtype))
    return torch.stack(out) if out else images


def _strips(images: Tensor) -> list[tuple[Tensor, Tensor, int]]:
    """Radius and angle of the pixels, some rows at a time, and their first row: bounds the memory for large pictures."""
    height, width = images.shape[-2:]
    rows = max(1, 2**20 // width)
    middle_x, middle_y = image_center(images)
    strips = []
    for top in range(0, height, rows):
        y = middle_y - 0.5 - torch.arange(top, min(top + rows, height), device=images.device, dtype=images.dtype)
        x = torch.arange(width, device=images.device, dtype=images.dtype) + 0.5 - middle_x
        strips.append((torch.hypot(y[:, None], x[None, :]), torch.atan2(y[:, None], x[None, :]), top))
    return strips


def _sample(image: Tensor, radius: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Values (C, h, w) of a picture (C, H, W) at polar points, and where those are inside of it."""
    height, width = image.shape[-2:]
    middle_x, middle_y = image_center(image)
    points = torch.stack((middle_x + radius * angle.cos(), middle_y - radius * angle.sin()), dim=-1)
    grid = to_grid(points, height, width)
    inside = (grid.abs() <= 1 + 1e-4).all(dim=-1)
    values = F.grid_sample(image[None], grid[None], mode="bicubic", padding_mode="border", align_corners=False)
    return values[0], inside.to(image.dtype)


def _average(image: Tensor, order: int, _: float, radius: Tensor, angle: Tensor, top: int) -> Tensor:
    total = image[:, top : top + len(radius)].clone()
    count = torch.ones_like(radius)
    for k in range(1, order):
        values, inside = _sample(image, radius, angle + 2 * math.pi * k / order)
        total, count = total + values * inside, count + inside
    return total / count


def _wedge(image: Tensor, order: int, start: float, radius: Tensor, angle: Tensor, top: int) -> Tensor:
    own = image[:, top : top + len(radius)]
    width = 2 * math.pi / order
    past = torch.remainder(angle - start, width)
    first, inside = _sample(image, radius, start + past)
    # Over the first tenth of a wedge the one before it fades out, so that no seam shows.
    follows, also_inside = _sample(image, radius, start + past + width)
    fade = (past / (0.1 * width)).clamp(max=1)
    return torch.where((inside * also_inside).bool(), fade * first + (1 - fade) * follows, own)


def _best_wedge(image: Tensor, order: int) -> float:
    """Angle at which the wedge begins that is most like the others and joins its own copy best."""
    image = image[None].to(torch.promote_types(image.dtype, torch.float32))
    half = min(image.shape[-2:]) / 2
    count = min(RINGS, max(1, math.ceil(half)))
    steps = max(8, round(720 / order))
    radii = (torch.arange(count, device=image.device, dtype=image.dtype) + 0.5) * (half / count)
    angles = torch.arange(steps * order, device=image.device, dtype=image.dtype) * (2 * math.pi / (steps * order))
    polar = to_polar(image, radii, angles)[0] * radii[:, None].sqrt()
    differs = [(polar - polar.roll(-k * steps, dims=2)).square().sum(dim=(0, 1)) for k in range(1, order)]
    unlike, seam = torch.stack(differs).sum(dim=0), differs[0]

    def windows(values: Tensor, size: int) -> Tensor:
        sums = torch.cat((values, values)).cumsum(dim=0)
        return (sums[size : size + len(values)] - sums[: len(values)]) / size

    cost = windows(unlike, steps) + windows(seam, max(1, steps // 10))
    return float(angles[cost.argmin()]) + math.pi / (steps * order)


def _share(energy: Tensor, orders: Sequence[int]) -> Tensor:
    """S_n of pictures with energies (N, 48) -> (N,)."""
    m = torch.arange(1, energy.shape[1] + 1, device=energy.device)
    own = m[None] % torch.tensor(orders, device=energy.device)[:, None] == 0
    total = energy.sum(dim=1)
    share = (energy * own).sum(dim=1) / total.clamp(min=EMPTY)
    return torch.where(total > EMPTY, share, 1.0)


def _score(energy: Tensor, orders: Sequence[int]) -> Tensor:
    n = torch.tensor(orders, device=energy.device, dtype=energy.dtype)
    return torch.where(n > 1, (n * _share(energy, orders) - 1) / (n - 1).clamp(min=1), 1.0)


def _orders(order: Any, count: int) -> list[int]:
    one = isinstance(order, str) or not hasattr(order, "__iter__") or getattr(order, "ndim", 1) == 0
    orders = [_whole_order(value) for value in ([order] * count if one else order)]
    if one and count == 0:
        _whole_order(order)
    if len(orders) != count:
        raise ValueError(f"order holds {len(orders)} values for {count} pictures; give one, or one for each")
    return orders


def _whole_order(value: Any) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"order is {str(value)[:80]!r}; it must be a whole number from 1 to {LARGEST_ORDER}") from None
    if not 1 <= number <= LARGEST_ORDER:
        raise ValueError(f"order is {number}; it must be from 1 to {LARGEST_ORDER}")
    return number
