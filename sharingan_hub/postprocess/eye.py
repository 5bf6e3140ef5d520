"""An emblem in the iris of a photographed or drawn eye: the iris is found, lids, lashes and highlights stay."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .outline import outline
from .polar import check_images, image_center, shrink, to_grid

SEARCHED_SIDE = 96  # pixels of the shorter side at which the iris is looked for
SMALLEST, LARGEST = 0.05, 0.5  # radius of an iris, in shorter sides
ARC = math.radians(25)  # to both sides of the horizontal: there the lids leave the edge of an iris free
LEAST_CONFIDENCE = 0.5
CONTRAST = 0.18  # step from iris to sclera that is beyond doubt
SMALLEST_SIDE = 32  # pixels: in smaller pictures no iris is looked for


@dataclass
class Iris:
    """Where the irises are, by `find_iris` or by hand.

    Args:
        center: (N, 2), x and y in pixels; the first pixel's middle is (0.5, 0.5).
        radius: (N,) in pixels.
        confidence: (N,) in [0, 1]: how much of the edge at both sides is one, times how clear it is.
        ok: (N,) bool, whether an iris was found: a confidence of 0.5 and more.
    """

    center: Tensor
    radius: Tensor
    confidence: Tensor
    ok: Tensor


@dataclass
class Placed:
    """What `place_in_eye` returns.

    Args:
        images: (N, 3, H, W), as they came where `iris.ok` is False.
        iris: where the irises are.
    """

    images: Tensor
    iris: Iris


@torch.no_grad()
def find_iris(images: Tensor) -> Iris:
    """Find the iris in pictures of one eye each: a disc that is darker than the white to its left and right.

    The operator of Daugman 1993 ("High confidence visual recognition of persons by a test of statistical independence"),
    the radial derivative of the mean over an arc, at both sides, where lids do not reach; each pixel counts by its darkest
    channel, in which coloured irises and skin are dark, and the white of the eye is not. The best circle is then fitted
    to the edge.

    Args:
        images: (N, 3, H, W) in [0, 1], an eye that fills a good part of it. Grey ones may have one channel.

    Raises:
        TypeError, ValueError: images are no pictures.
    """
    check_images(images)
    found = [_find(image[None].float()) for image in images]
    empty = images.new_zeros(0, dtype=torch.float32)
    center = torch.stack([c for c, _, _ in found]) if found else empty.view(0, 2)
    radius = torch.stack([r for _, r, _ in found]) if found else empty
    confidence = torch.stack([c for _, _, c in found]) if found else empty
    return Iris(center, radius, confidence, confidence >= LEAST_CONFIDENCE)


def _find(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (2,), radius and confidence of one picture (1, C, H, W)."""
    height, width = image.shape[2:]
    nothing = image.new_tensor(image_center(image)), image.new_zeros(()), image.new_zeros(())
    if min(height, width) < SMALLEST_SIDE:
        return nothing
    darkest = image.amin(dim=1, keepdim=True)
    small = F.avg_pool2d(shrink(darkest, SEARCHED_SIDE), 3, 1, 1, count_include_pad=False)
    h, w = small.shape[2:]
    short = min(h, w)
    ys, xs = torch.meshgrid(torch.arange(2, h - 2, 2.0), torch.arange(2, w - 2, 2.0), indexing="ij")
    centers = torch.stack([xs, ys], dim=2).view(-1, 2).to(image.device) + 0.5
    radii = torch.arange(2.0, math.ceil(LARGEST * short) + 4, device=image.device)
    sides = torch.linspace(-ARC, ARC, 9, device=image.device)
    angles = torch.cat([sides, sides + math.pi])
    rays = _on_circles(small, radii, angles, centers)  # (P, R, 18)
    inside = (rays[:, :-3] + rays[:, 1:-2]) / 2
    outside = (rays[:, 2:-1] + rays[:, 3:]) / 2
    step = (outside - inside).unflatten(2, (2, 9)).mean(dim=3)  # (P, R - 3, 2)
    white = outside.unflatten(2, (2, 9)).mean(dim=3).amin(dim=2)
    # The longer of two edges that are as clear counts more: a highlight may be a white to the side of half of an iris.
    score = (step.amin(dim=2) + 0.5 * step.mean(dim=2)) * white.square() * radii[1:-2].sqrt()
    score[:, radii[1:-2] < SMALLEST * short] = -1
    best = int(score.argmax())
    center = centers[best // score.shape[1]] * image.new_tensor([width / w, height / h])
    radius = (radii[1:-2][best % score.shape[1]] + 0.5) * (height / h)
    return _fit(darkest, center, radius)


def _fit(darkest: Tensor, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The circle (centre, radius) fitted to the edge nearby, by Gauss-Newton with Cauchy's weights; and the confidence."""
    scale = max(1.0, float(radius) / 48)  # an iris of 48 pixels is as good as a larger one, and smoother
    small = shrink(darkest, round(min(darkest.shape[2:]) / scale))
    small = F.avg_pool2d(small, 3, 1, 1, count_include_pad=False)
    ratio = small.shape[3] / darkest.shape[3]
    center, radius = center * ratio, radius * ratio
    sides = torch.linspace(-1.4 * ARC, 1.4 * ARC, 25, device=darkest.device)
    angles = torch.cat([sides, sides + math.pi])
    directions = torch.stack([angles.cos(), -angles.sin()], dim=1)
    steps = torch.linspace(0.78, 1.22, 89, device=darkest.device)
    contrast, weight = angles, angles
    for _ in range(6):
        rays = _on_circles(small, steps * radius, angles, center[None])[0]  # (89, 50)
        gap = 8
        rise = rays[gap:] - rays[:-gap]
        at = steps[gap // 2 : -(gap // 2)]
        near = torch.exp(-(((at - 1) / 0.12) ** 2))
        contrast, where = (rise * near[:, None]).max(dim=0)
        off = (at[where] - 1) * radius
        weight = contrast.clamp(min=0) / (1 + (off / (0.05 * radius)) ** 2)
        system = torch.cat([directions, torch.ones_like(directions[:, :1])], dim=1)
        normal = system.T @ (weight[:, None] * system) + 1e-6 * torch.eye(3, device=darkest.device)
        change = torch.linalg.solve(normal, system.T @ (weight * off))
        center, radius = center + change[:2], radius + change[2]
    clear = (contrast / CONTRAST).clamp(0, 1) * (off.abs() < 0.045 * radius).float()
    confidence = (2 * clear.view(2, -1).mean(dim=1).amin() - 1).clamp(
        min=0
    )  # half of a straight edge fits a circle too
    # a disc is dark all over, but for its highlights
    within = _on_circles(small, torch.linspace(0.3, 0.9, 13, device=darkest.device) * radius, angles, center[None])[0]
    edge = _on_circles(small, torch.stack([0.9 * radius, 1.1 * radius]), angles, center[None])[0].mean()
    dark = (within < edge).float().mean()
    return center / ratio, radius / ratio, torch.where(dark > 0.8, confidence, 0.0)


def _on_circles(image: Tensor, radii: Tensor, angles: Tensor, centers: Tensor) -> Tensor:
    """One grey picture (1, 1, H, W) on circles about P centres (P, 2) -> (P, R, A)."""
    height, width = image.shape[2:]
    offsets = radii[:, None, None] * torch.stack([angles.cos(), -angles.sin()], dim=1)
    points = (offsets[None] + centers[:, None, None]).flatten(0, 1)
    grid = to_grid(points, height, width)[None]
    sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, 0].view(len(centers), len(radii), len(angles))


@torch.no_grad()
def place_in_eye(eyes: Tensor, emblems: Tensor, iris: Iris | None = None, emblem_radius: float | None = None) -> Placed:
    """Lay emblems over the irises of eyes, behind lids, lashes and highlights, in the light that falls on each eye.

    Args:
        eyes: (N, 3, H, W) in [0, 1], one eye each.
        emblems: (N, 3, S, S) in [0, 1], or (1, 3, S, S) for all.
        iris: where the irises are; None asks `find_iris`.
        emblem_radius: of the emblem's circle, in halves of its picture; None measures it.

    Returns:
        A Placed. Where no iris was found the picture is returned as it came. Lids and all else outside of the iris,
        and the middle of highlights, stay bit for bit.

    Raises:
        TypeError, ValueError: eyes or emblems are no pictures, do not fit one another, a radius is out of range, or an iris lies
            outside of its picture.
    """
    check_images(eyes, "eyes")
    check_images(emblems, "emblems")
    for name, pictures in (("eyes", eyes), ("emblems", emblems)):
        if pictures.shape[1] != 3:
            raise ValueError(f"{name} has {pictures.shape[1]} channel; it must have 3")
    if len(emblems) not in (1, len(eyes)):
        raise ValueError(f"emblems holds {len(emblems)} pictures for {len(eyes)} eyes; give one, or one for each")
    if emblem_radius is not None and not 0.1 <= emblem_radius <= 1.5:
        raise ValueError(f"emblem_radius is {emblem_radius}; it must be from 0.1 to 1.5 halves of the picture")
    iris = find_iris(eyes) if iris is None else iris
    out = eyes.clone()
    for i, found in enumerate(iris.ok.tolist()):
        if found:
            (x, y), r = iris.center[i].tolist(), iris.radius[i].item()
            if not (0 <= x <= eyes.shape[3] and 0 <= y <= eyes.shape[2] and 1 <= r <= max(eyes.shape[2:])):
                raise ValueError(f"iris {i} is at ({x:g}, {y:g}) with radius {r:g}; it must lie in its picture")
            emblem = emblems[i % len(emblems)][None].float()
            out[i] = _place(eyes[i][None].float(), emblem, iris.center[i], iris.radius[i], emblem_radius)[0].to(out)
    return Placed(out, iris)


# --------------------------------------------------------------------------------- in the plane where the iris has radius 1

REACH, GRID = 2.4, 192  # the plane's half width in radii of the iris, and its samples
PUPIL = 0.45  # radius of what may be pupil
SOFT = 0.05  # width of the soft edges
MARGIN = 0.03  # from a lid's edge to the emblem


def _place(eye: Tensor, emblem: Tensor, center: Tensor, radius: Tensor, emblem_radius: float | None) -> Tensor:
    """One eye (1, 3, H, W) with its emblem."""
    height, width = eye.shape[2:]
    axis = torch.linspace(-REACH, REACH, GRID, device=eye.device)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    plane = torch.stack([u, v], dim=2)
    smaller = shrink(eye, max(1, round(min(height, width) * GRID / (2 * REACH) / float(radius))))
    grid = to_grid(plane * radius + center, height, width)[None]
    patch = F.grid_sample(smaller, grid, padding_mode="border", align_corners=False)[0]
    sclera, white = _sclera(patch, u, v)
    columns = axis * radius + center[0]
    upper, lower = _lids(patch, sclera, (columns > 0) & (columns < width), axis)

    # from here on in the eye's own pixels, those around the iris
    left, top = (max(0, math.floor(float(c - 1.2 * radius))) for c in center)
    right, bottom = (math.ceil(float(c + 1.2 * radius)) for c in center)
    part = eye[:, :, top:bottom, left:right]
    ys, xs = (torch.arange(n, device=eye.device) + 0.5 for n in part.shape[2:])
    x = ((xs + left - center[0]) / radius)[None, :]
    y = ((ys + top - center[1]) / radius)[:, None]
    r = torch.hypot(x, y)
    pixel = max(SOFT, 1.5 / float(radius))
    inside = torch.minimum(y - _curve(upper, x), _curve(lower, x) - y)
    open_ = torch.maximum(_rise(MARGIN, MARGIN + pixel, inside), _tinted(part[0], r, inside))
    alpha = _rise(1 + pixel / 2, 1 - pixel / 2, r) * open_

    light, grain = _light(patch, u, v, upper, lower, white)
    shading = torch.stack([light, grain])[None]
    at = torch.stack([x.expand_as(r), y.expand_as(r)], dim=2) / REACH
    light, grain = F.grid_sample(shading, at[None], padding_mode="border", align_corners=True)[0]
    colors = _on_disc(emblem, x, y, emblem_radius, radius)
    limbus = 1 - 0.35 * _rise(0.8, 1.02, r)
    colors = (colors * (light * limbus) + grain).clamp(0, 1)
    darkest = part[0].amin(dim=0)
    level = darkest[(alpha > 0.5) & (r > PUPIL)].median().nan_to_num(0.5)
    low = (level + 0.2).clamp(0.55, 0.85)
    alpha = alpha * (1 - _rise(low, low + 0.12, darkest))
    mixed = torch.where(alpha > 0, torch.lerp(part[0], colors, alpha), part[0])
    out = eye.clone()
    out[0, :, top:bottom, left:right] = mixed
    return out


def _tinted(part: Tensor, r: Tensor, inside: Tensor) -> Tensor:
    """Close to the lids' edges, how surely points of (3, h, w) belong to an iris of another hue than the lids have.

    What is left of it there would shine out beside the emblem.
    """
    luma = _luma(part).clamp(min=1e-3)
    ring = (r > PUPIL) & (r < 0.85) & (inside > MARGIN)
    lids = inside < -4 * MARGIN
    if not (ring.any() and lids.any()):
        return torch.zeros_like(r)
    tint, lid_tint = ((part[:, where] / luma[where]).median(dim=1).values for where in (ring, lids))
    off = (part / luma - tint[:, None, None]).abs().amax(dim=0)
    sure = (1 - _rise(0.12, 0.24, off)) * (luma > 0.4 * luma[ring].median())
    return sure * (inside > -2 * MARGIN) * _rise(0.3, 0.45, (tint - lid_tint).abs().amax())


def _rise(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """0 below `low`, 1 beyond `high`, smooth between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _luma(x: Tensor) -> Tensor:
    """(3, ...) -> (...)."""
    return (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, *[1] * (x.ndim - 1))).sum(dim=0)


def _sclera(patch: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Which points of the patch (3, G, G) have the colour of the white beside the iris, and how light that white is."""
    r = torch.hypot(u, v)
    beside = (r > 1.12) & (r < 1.4) & (v.abs() < 0.4 * u.abs())
    values = patch[:, beside]
    luma = _luma(values)
    values = values[:, luma >= luma.median()]
    white = values.median(dim=1).values
    level = _luma(white)
    patch = F.avg_pool2d(patch[None], 3, 1, 1, count_include_pad=False)[0]
    luma = _luma(patch).clamp(min=1e-3)
    padded = F.pad(luma[None], (0, 0, 2, 2), mode="replicate")[0]
    line = luma < 0.88 * torch.maximum(padded[4:], padded[:-4])  # a lid may be as light, but its edge is not
    tint = (patch / luma - (white / level.clamp(min=1e-3))[:, None, None]).abs().amax(dim=0)
    return (luma > 0.5 * level) & (tint < 0.1) & ~line, level


def _lids(patch: Tensor, sclera: Tensor, inside: Tensor, axis: Tensor) -> tuple[Tensor, Tensor]:
    """Parabolas v = a + b u + c u^2 (3,) along the upper and the lower lid.

    First through the ends of the white beside the iris; then also through the innermost edges near that curve above and
    below the iris. Where the white has no end, the parabola lies beyond the patch.

    Args:
        patch: (3, G, G).
        sclera: (G, G) bool.
        inside: (G,) bool, which columns lie inside of the picture.
        axis: (G,), u and v of the points.
    """
    middle = len(axis) // 2
    edges = torch.zeros_like(patch[0])
    edges[1:-1] = (patch[:, 2:] - patch[:, :-2]).abs().amax(dim=0)
    beside = torch.nonzero(inside & (axis.abs() > 1.08) & (axis.abs() < 1.9)).flatten().tolist()
    over = torch.nonzero(axis.abs() < 0.9).flatten().tolist()
    curves = []
    for sign in (-1, 1):
        white, edge = (x.flip(0)[middle:] if sign < 0 else x[middle:] for x in (sclera, edges))  # outwards
        heights = axis[middle:]
        points = []
        for column in beside:
            line = white[:, column]
            if line[0] and not line.all():
                points.append((axis[column], heights[int((~line).int().argmax())]))
        if len(points) < 8:
            curves.append(axis.new_tensor([sign * 2 * REACH, 0.0, 0.0]))
            continue
        fit = _parabola(points)
        for column in over:
            near = (heights - _curve(fit, axis[column])).abs() < 0.12
            line = edge[:, column] * near
            if line.amax() > 0.1:
                points.append((axis[column], heights[int((line > 0.5 * line.amax()).int().argmax())]))
        curves.append(sign * _parabola(points))
    return curves[0], curves[1]


def _parabola(points: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Coefficients (3,) of the parabola through most of the points, with Cauchy's weights."""
    x, y = torch.tensor(points, device=points[0][0].device).unbind(1)
    system = torch.stack([torch.ones_like(x), x, x * x], dim=1)
    weight = torch.ones_like(x)
    for _ in range(10):
        normal = system.T @ (weight[:, None] * system) + 1e-4 * torch.eye(3, device=x.device)
        fit = torch.linalg.solve(normal, system.T @ (weight * y))
        weight = 1 / (1 + ((system @ fit - y) / 0.04) ** 2)
    return fit


def _curve(lid: Tensor, x: Tensor) -> Tensor:
    return lid[0] + lid[1] * x + lid[2] * x * x


def _light(patch: Tensor, u: Tensor, v: Tensor, upper: Tensor, lower: Tensor, white: Tensor) -> tuple[Tensor, Tensor]:
    """How light falls on the iris, about 1, and its fine structure, about 0, each (G, G)."""
    r = torch.hypot(u, v)
    luma = _luma(patch)
    seen = (r < 0.85) & (r > PUPIL) & (v > _curve(upper, u) + 0.05) & (v < _curve(lower, u) - 0.05)
    seen &= luma < luma[seen].median() + 0.2 if seen.any() else seen
    weight = seen.float()
    smooth = _blur(luma * weight, 0.3) / _blur(weight, 0.3).clamp(min=1e-4)
    level = luma[seen].median() if seen.any() else luma.new_tensor(1.0)
    light = (smooth / level.clamp(min=0.02)).clamp(0.6, 1.25).sqrt()
    light = torch.where(_blur(weight, 0.3) > 1e-3, light, 1.0)
    shadow = 1 - 0.4 * (1 - _rise(0.0, 0.55, v - _curve(upper, u)))
    grain = (luma - _blur(luma, 0.05)).clamp(-0.05, 0.05) * _blur(weight, 0.03) * 0.6
    return light * shadow * (white / 0.9).clamp(0.4, 1.05), grain


def _blur(x: Tensor, width: float) -> Tensor:
    """Gaussian of standard deviation `width` (in radii of the iris) over a patch (G, G)."""
    sigma = width / (2 * REACH) * GRID
    half = math.ceil(3 * sigma)
    taps = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=x.device) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(x[None, None], (half, half, half, half), mode="replicate")
    return F.conv2d(F.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[0, 0]


def _on_disc(emblem: Tensor, x: Tensor, y: Tensor, emblem_radius: float | None, radius: Tensor) -> Tensor:
    """Colours (3, h, w) of the emblem (1, 3, S, S), whose circle comes to lie on the circle of radius 1."""
    height, width = emblem.shape[2:]
    half = min(height, width) / 2
    center, measured = (found[0] for found in outline(emblem))
    if emblem_radius is not None or not 0.3 * half < measured < 1.1 * half:
        center, measured = center.new_tensor([width / 2, height / 2]), center.new_tensor((emblem_radius or 0.95) * half)
    small = shrink(emblem, max(1, round(min(height, width) * float(radius / measured))))
    points = torch.stack([x.expand(len(y), -1), y.expand(-1, x.shape[1])], dim=2) * measured + center
    return F.grid_sample(
        small, to_grid(points, height, width)[None], mode="bicubic", padding_mode="border", align_corners=False
    )[0].clamp(0, 1)
