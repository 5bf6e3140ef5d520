"""Drawings traced from pixels: few flat colours, each with one path."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor

from sharingan_hub.media.curves import area, fit, outlines
from sharingan_hub.media.pictures import on_white
from sharingan_hub.media.vector import SIDE, color_text, document, number, path_data

GRID = 1024  # cells on the longer side of the grid on which colours are outlined
FLAT = 24 / 255  # a pixel that differs from its neighbours by less lies in an area, others on an edge
EDGE = 2.5  # pixels from an edge to the areas on both sides at most
MIXED = 40 / 255  # how far from a mix of their colours a cell may be to count as one
SAME = 6  # levels of 255 by which two colours may differ and still be one
SMOOTH = 17  # cells over which areas are smoothed, so that bands of a gradient have quiet borders
OVERLAP = 16  # cells by which a layer reaches under those above
BLUR = 1.5  # standard deviation in cells by which borders are smoothed
TOLERANCE = 0.5  # of the curves, in units of the drawing
SPECK = 8.0  # square units; smaller areas are left out


@torch.no_grad()
def trace_svg(image: Image.Image, colors: int = 16, size: int = SIDE) -> str:
    """Trace a picture.

    Args:
        image: the picture; a transparent one is shown on white.
        colors: how many the drawing has at most, 2 to 64. Gradients become bands of them.
        size: the longer side at which the drawing is shown, in pixels.

    Returns:
        The text of an SVG file, the same for the same picture. The colour of the largest areas lies at the back, and
        each layer reaches a little under those above it, so that no gap shows.

    Raises:
        ValueError: colors or size are out of range.
    """
    if not 2 <= colors <= 64:
        raise ValueError(f"colors is {colors}; it must be from 2 to 64")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel")
    image = on_white(image)
    width, height = (max(1, round(side * GRID / max(image.size))) for side in image.size)
    if max(image.size) > GRID:
        image = image.resize((width, height), Image.Resampling.BOX)
    labels, palette = _labels(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255, (height, width), colors)
    unit = SIDE / GRID
    lines = [f'<rect width="{number(width * unit)}" height="{number(height * unit)}" fill="{color_text(palette[0])}"/>']
    for layer in range(1, len(palette)):
        # Cells of the field are the pixels, and a margin that lets curves end outside the picture.
        field = np.pad(_layer(labels, layer), OVERLAP, mode="edge")
        polygons = [polygon + (0.5 - OVERLAP) * (1 + 1j) for polygon in outlines(field)]
        polygons = [polygon for polygon in polygons if abs(area(polygon)) * unit**2 > SPECK]
        if polygons:
            data = path_data(curve * unit for curve in fit(polygons, TOLERANCE / unit))
            lines.append(f'<path fill="{color_text(palette[layer])}" d="{data}"/>')
    shown = (max(1, round(width * size / GRID)), max(1, round(height * size / GRID)))
    return document(width * unit, height * unit, 0, 0, shown, lines)


def _labels(pixels: Tensor, grid: tuple[int, int], count: int) -> tuple[Tensor, np.ndarray]:
    """The colour of each cell of a grid over the pixels (3, h, w), as a number (H, W), and the colours (K, 3).

    Number 0 is the most frequent.
    """
    even = (_most(pixels, 3) + _most(-pixels, 3)).amax(dim=0) < FLAT
    # The middle of a thin line, and what ends at an edge, is brighter or darker than all around it.
    light = pixels.mean(dim=0, keepdim=True)
    inside = even | ((_most(light, 3) - light).minimum(_most(-light, 3) + light)[0] < SAME / 255 / 2)
    palette = _palette(pixels[:, inside].T, count)
    # Without ringing, here and above, which would look like more colours.
    cells = F.interpolate(pixels[None], size=grid, mode="bilinear")[0]
    edge = F.interpolate((~even).float()[None, None], size=grid, mode="bilinear")[0] > 0
    calm = _most(edge.float(), SMOOTH) == 0
    labels = _nearest(torch.where(calm, _mean(cells, SMOOTH), cells), palette)
    edge = edge[0]
    if edge.any():
        found = _nearest(pixels, palette)
        areas = torch.stack([(found == k) & inside for k in range(len(palette))]).float()
        reach = round(EDGE * max(grid) / max(inside.shape))
        near = _most(F.interpolate(areas[None], size=grid, mode="nearest")[0], 2 * reach + 1)[:, edge] > 0
        labels[edge] = _unmixed(cells[:, edge], labels[edge], near, palette)
    frequent = torch.bincount(labels.flatten(), minlength=len(palette)).argsort(descending=True, stable=True)
    rank = torch.empty_like(frequent)
    rank[frequent] = torch.arange(len(frequent))
    return rank[labels], palette[frequent].numpy()


def _palette(colors: Tensor, count: int) -> Tensor:
    """At most `count` colours that stand for (M, 3)."""
    sample = colors[:: max(1, len(colors) // 2**15)].mul(255).round().byte().numpy()
    row = Image.fromarray(sample[None])
    found = row.quantize(count, Image.Quantize.MEDIANCUT, kmeans=4, dither=Image.Dither.NONE).convert("RGB")
    kept: list[np.ndarray] = []
    for color in np.unique(np.asarray(found)[0], axis=0).astype(int):
        if all(np.abs(color - other).max() > SAME for other in kept):
            kept.append(color)
    return torch.from_numpy(np.stack(kept)).float() / 255


def _nearest(pixels: Tensor, palette: Tensor) -> Tensor:
    distance = torch.stack([(pixels - color[:, None, None]).square().sum(dim=0) for color in palette])
    return distance.argmin(dim=0)


def _unmixed(cells: Tensor, labels: Tensor, near: Tensor, palette: Tensor) -> Tensor:
    """Labels (P,) of cells (3, P) of edges, of which those that mix two colours of areas near them get that of the larger part.

    Otherwise an edge between two colours would be lined with all the colours that lie between them. near: (K, P).
    """
    labels = labels.clone()
    best = torch.full(labels.shape, MIXED**2)
    for a, b in combinations(range(len(palette)), 2):
        at = (near[a] & near[b]).nonzero()[:, 0]
        way = palette[b] - palette[a]
        from_a = cells[:, at].T - palette[a]
        share = ((from_a @ way) / way.square().sum()).clamp(0, 1)
        off = (from_a - share[:, None] * way).square().sum(dim=1)
        better = off < best[at]
        best[at[better]] = off[better]
        labels[at[better]] = torch.where(share[better] > 0.5, b, a)
    return labels


def _layer(labels: Tensor, layer: int) -> np.ndarray:
    """A field (H, W), positive where a layer is painted: where it is seen, and a little under the layers above."""
    seen = labels == layer
    under = (_most(seen.float()[None], 2 * OVERLAP + 1)[0] > 0) & (labels > layer)
    painted = Image.fromarray((seen | under).byte().mul(255).numpy())
    return np.asarray(painted.filter(ImageFilter.GaussianBlur(BLUR)), dtype=np.float64) / 255 - 0.5


def _most(x: Tensor, side: int) -> Tensor:
    """The largest value within squares of odd `side` about each place of (C, H, W)."""
    x = F.max_pool2d(x[None], (1, side), stride=1, padding=(0, side // 2))
    return F.max_pool2d(x, (side, 1), stride=1, padding=(side // 2, 0))[0]


def _mean(x: Tensor, side: int) -> Tensor:
    """The mean within squares of odd `side` about each place of (C, H, W)."""
    x = F.avg_pool2d(x[None], (1, side), stride=1, padding=(0, side // 2), count_include_pad=False)
    return F.avg_pool2d(x, (side, 1), stride=1, padding=(side // 2, 0), count_include_pad=False)[0]
