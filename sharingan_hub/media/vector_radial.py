"""Drawings from a RadialGenerator's masks: exact circles, and the pattern's outlines where one mask takes over."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sharingan_hub.media.curves import area, fit, outlines
from sharingan_hub.media.vector import SIDE, color_text, document, number, path_data

HALF = SIDE / 2  # units of the drawing to a radius of 1, which is the middle of an edge
CORNER = 1.42  # radius of the corners
GRID = 1024  # cells on a side of the square on which the pattern is outlined
RADII = 8192  # at which round masks are compared
TOLERANCE = 0.5  # of the pattern's curves, in units; cells of the wedge leave waves of about that height
SPECK = 5.0  # square units; smaller outlines are left out
OVERLAP = 8.0  # how far a layer reaches under the one above, in units
SHADE = 1 / 255  # how far a gradient may be off between its stops
EMPTY = 1e-30  # masks below this, all together, have no winner


@dataclass(frozen=True)
class Band:
    """Radii from `inner` to `outer`, where one round mask is the strongest."""

    mask: int
    inner: float
    outer: float

    @property
    def overlap(self) -> float:
        """How far its neighbours reach under it."""
        return min(OVERLAP / HALF, (self.outer - self.inner) / 2)


@dataclass(frozen=True)
class Shape:
    """An element, with {} for its colour, which is that of one mask from radius `inner` to `outer`."""

    mask: int
    inner: float
    outer: float
    element: str


@torch.no_grad()
def radial_svg(generator: Any, latents: Tensor, palette: Tensor | None = None, size: int = SIDE) -> str:
    """Draw one picture of a RadialGenerator, in layers as it paints them: ground, pattern, frame.

    A layer reaches a little under the one above, so that no gap shows at any size.

    Args:
        generator: the generator.
        latents: (1, num_ws, w_dim); its order may be a fraction.
        palette: colours (K, 3) in [0, 1] in place of the generator's own; the shading stays.
        size: width and height at which the drawing is shown, in pixels.

    Returns:
        The text of an SVG file.
    """
    config = generator.config
    bands = _bands(generator, latents)
    outermost = bands[-1]
    square = f'<rect x="{number(-HALF)}" y="{number(-HALF)}" width="{SIDE}" height="{SIDE}" fill="{{}}"/>'
    shapes = [Shape(outermost.mask, outermost.inner, CORNER, square)]
    shapes += _ground([band for band in bands if band.mask >= config.num_frame_masks], bands)
    shapes += _pattern(generator, latents, bands)
    # The frame's rings, from the outside in, each reaching under the next.
    for below, band in reversed(list(zip([None, *bands], bands[:-1]))):
        if band.mask < config.num_frame_masks:
            above_it = below is not None and below.mask < config.num_frame_masks
            shapes.append(_ring(band.mask, band.inner - (below.overlap if above_it and below else 0), band.outer))
    gradients, colors = _fill(shapes, *_shading(generator, latents, palette))
    lines = [*gradients, *(shape.element.format(color) for shape, color in zip(shapes, colors))]
    return document(SIDE, SIDE, -HALF, -HALF, (size, size), lines)


def _bands(generator: Any, latents: Tensor) -> list[Band]:
    """The round masks that are seen, from the middle to the corners."""
    logits = generator.logits(latents)[0][:, :, :, :1]
    radii = np.linspace(0, CORNER, RADII)
    rows = torch.from_numpy(radii * (2 / generator.extent) - 1).to(logits)
    places = torch.stack([torch.zeros_like(rows), rows], dim=1)[None, None]
    found = F.grid_sample(logits, places, mode="bicubic", padding_mode="border", align_corners=False)
    values = found[0, :, 0].double().cpu().numpy()
    best = values.argmax(axis=0)
    bands, inner = [], 0.0
    for i in np.flatnonzero(np.diff(best)):
        lead, behind = values[best[i], i : i + 2] - values[best[i + 1], i : i + 2]
        outer = float(radii[i] + (radii[i + 1] - radii[i]) * lead / (lead - behind))
        bands.append(Band(int(best[i]), inner, outer))
        inner = outer
    return [*bands, Band(int(best[-1]), inner, CORNER)]


def _ground(ground: list[Band], bands: list[Band]) -> list[Shape]:
    """A disc of the mask that covers most of the ground, and rings of the others on it."""
    if not ground:
        return []
    covered = {band.mask: 0.0 for band in ground}
    for band in ground:
        covered[band.mask] += band.outer**2 - band.inner**2
    widest = max(covered, key=lambda mask: covered[mask])
    disc = _ring(widest, 0, ground[-1].outer + _overlap_above(ground[-1], bands))
    return [disc, *(_ring(band.mask, band.inner, band.outer) for band in ground if band.mask != widest)]


def _overlap_above(band: Band, bands: list[Band]) -> float:
    """How far `band` and what is on it reach out under the next one; not at all under the outermost, which lies at the back."""
    return next((other.overlap for other in bands[:-1] if other.inner == band.outer), 0.0)


def _ring(mask: int, inner: float, outer: float) -> Shape:
    """A ring, or a disc where it has no inside."""
    if inner <= 0:
        return Shape(mask, 0, outer, f'<circle r="{number(outer * HALF)}" fill="{{}}"/>')
    middle, width = number((inner + outer) / 2 * HALF), number((outer - inner) * HALF)
    return Shape(mask, inner, outer, f'<circle r="{middle}" fill="none" stroke="{{}}" stroke-width="{width}"/>')


def _pattern(generator: Any, latents: Tensor, bands: list[Band]) -> list[Shape]:
    """A path for each mask of the pattern that is seen: where it is stronger than the ground and the masks painted before."""
    config = generator.config
    order = float(latents[0, -1, 0])
    ground, masks = generator.masks(latents, output_size=GRID)[0, config.num_frame_masks :].split(
        [config.num_ground_masks, config.num_masks - config.num_frame_masks - config.num_ground_masks]
    )
    strengths = torch.cat([ground.sum(dim=0, keepdim=True), masks]).double().cpu().numpy()
    depth = _depth_in_ground(config.num_frame_masks, bands)
    depth[strengths.sum(axis=0) < EMPTY] = -1
    logs = np.log(np.maximum(strengths, EMPTY**2))
    cell = SIDE / GRID
    shapes = []
    for i in range(1, len(logs)):
        field = np.minimum(logs[i] - logs[:i].max(axis=0), depth)
        polygons = [polygon - (GRID - 1) / 2 * (1 + 1j) for polygon in outlines(field)]
        polygons = [polygon for polygon in polygons if abs(area(polygon)) * cell**2 > SPECK]
        if polygons:
            curves = fit(polygons, TOLERANCE / cell, int(order) if order.is_integer() else 1)
            radii = np.abs(np.concatenate(polygons)) * (cell / HALF)
            element = f'<path fill="{{}}" d="{path_data(curve * cell for curve in curves)}"/>'
            shapes.append(Shape(config.num_masks - len(logs) + i, float(radii.min()), float(radii.max()), element))
    return shapes


def _depth_in_ground(num_frame_masks: int, bands: list[Band]) -> np.ndarray:
    """How far inside the ground, and its overlap under the frame, each cell of the grid lies, in cells; negative outside."""
    axis = (np.arange(GRID) + 0.5) * (2 / GRID) - 1
    radius = np.hypot(axis[:, None], axis)
    depth = np.full_like(radius, -1.0)
    for is_ground, stretch in groupby(bands, lambda band: band.mask >= num_frame_masks):
        if is_ground:
            first, *_, last = [*stretch] * 2
            under = next((band.overlap for band in bands if band.outer == first.inner), 1.0)
            outer = last.outer + _overlap_above(last, bands)
            depth = np.maximum(depth, np.minimum(radius - first.inner + under, outer - radius))
    return depth * (GRID / 2)


def _shading(generator: Any, latents: Tensor, palette: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Radii (M,) and the colour of each mask there, (K, M, 3) in [0, 1]."""
    count, side = generator.config.num_masks, 256
    alone = torch.eye(count, device=latents.device)[:, :, None, None].expand(count, count, side, side)
    painted = generator.paint(alone, latents.expand(count, -1, -1), palette) * 0.5 + 0.5
    ray = painted.diagonal(dim1=2, dim2=3)[:, :, side // 2 :].transpose(1, 2)
    radii = (np.arange(side // 2) + 0.5) * (2 * 2**0.5 / side)
    return radii, ray.double().clamp(0, 1).cpu().numpy()


def _fill(shapes: list[Shape], radii: np.ndarray, colors: np.ndarray) -> tuple[list[str], list[str]]:
    """The gradients of the masks whose colour changes with the radius, and each shape's fill."""
    gradients, fills = [], {}
    for mask in dict.fromkeys(shape.mask for shape in shapes):
        inner = min(shape.inner for shape in shapes if shape.mask == mask)
        outer = max(shape.outer for shape in shapes if shape.mask == mask)
        places = np.linspace(inner, outer, 65)
        along = np.stack([np.interp(places, radii, channel) for channel in colors[mask].T], axis=1)
        if np.abs(along - along.mean(axis=0)).max() < SHADE:
            fills[mask] = color_text(along.mean(axis=0))
            continue
        stops = "".join(
            f'<stop offset="{number(100 * places[i] / outer)}%" stop-color="{color_text(along[i])}"/>'
            for i in _stops(along)
        )
        area = f'gradientUnits="userSpaceOnUse" cx="0" cy="0" r="{number(outer * HALF)}"'
        gradients.append(f'<radialGradient id="ID-{mask}" {area}>{stops}</radialGradient>')
        fills[mask] = f"url(#ID-{mask})"
    return gradients, [fills[shape.mask] for shape in shapes]


def _stops(colors: np.ndarray) -> list[int]:
    """Which of evenly spaced colours (M, 3) to keep: straight lines between them stay within SHADE of the others."""
    stops = [0]
    while (start := stops[-1]) < len(colors) - 1:
        stop = start + 1
        for end in range(start + 2, len(colors)):
            share = np.linspace(0, 1, end - start + 1)[:, None]
            if np.abs(colors[start] * (1 - share) + colors[end] * share - colors[start : end + 1]).max() > SHADE:
                break
            stop = end
        stops.append(stop)
    return stops
