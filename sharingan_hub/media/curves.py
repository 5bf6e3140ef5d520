"""The outlines of a field as closed curves of few cubic Bézier segments. Points of the plane are complex numbers x + iy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# All of these count points of an outline, which are about one cell apart.
CORNER_REACH = 4  # how far to both sides a corner is looked for
CORNER = math.radians(40)  # the least turn over that stretch that makes one
CORNER_TANGENT = 4  # from how far the direction at a corner is taken,
TANGENT = 8  # and, to both sides, everywhere else: further than outlines waver
SHORTEST = 2  # a segment this short is kept whatever it misses
FIRST_TRY = 16
SAMPLES = 64  # points of a stretch that are looked at
ROUNDS = 4  # of fitting a segment and moving the points' parameters along it


def outlines(field: np.ndarray) -> list[np.ndarray]:
    """Where a field changes sign, as closed polygons.

    Args:
        field: (H, W), finite; it counts as negative outside.

    Returns:
        Polygons (M,), of evenly spaced points in cells, 0 being the middle of the first cell; the last point is not the
        first again. The positive side is always on the same hand, so holes run the other way round.
    """
    from contourpy import contour_generator

    lines: Any = contour_generator(z=np.pad(field, 1, constant_values=-1)).lines(0.0)
    return [evenly_spaced(line[:-1] @ [1, 1j] - (1 + 1j)) for line in lines if len(line) > 4]


def evenly_spaced(polygon: np.ndarray, multiple: int = 1) -> np.ndarray:
    """The same closed polygon with points about one cell apart: 16 or more, and a multiple of `multiple`."""
    closed = np.append(polygon, polygon[0])
    length = np.append(0.0, np.abs(np.diff(closed)).cumsum())
    count = multiple * math.ceil(max(16, length[-1]) / multiple)
    return np.interp(np.arange(count) * (length[-1] / count), length, closed)


def area(polygon: np.ndarray) -> float:
    """Signed area of a closed polygon (M,)."""
    return float(np.sum(polygon.conj() * np.roll(polygon, -1)).imag) / 2


def fit(polygons: list[np.ndarray], tolerance: float, order: int = 1) -> list[np.ndarray]:
    """Curves along closed polygons.

    Args:
        polygons: as outlines gives them. For an order above 1 they stand about 0, and all together are symmetric under
            turns of 1/order.
        tolerance: how far the curves may stay from the points; at corners up to a cell more.
        order: one part of the whole is fitted and the others are exact copies of it, turned: of a polygon around the
            middle one stretch, of the others one in `order`.

    Returns:
        For each polygon its cubic segments (B, 4), each beginning where the one before ends; the largest first.
    """
    rest = sorted(polygons, key=lambda polygon: -abs(area(polygon)))
    turns = np.exp(2j * math.pi * np.arange(order) / order)
    curves = []
    while rest:
        first = rest.pop(0)
        if order > 1 and _winds_around_middle(first):
            curves.append(_fit_closed(evenly_spaced(first, order), tolerance, order))
        else:
            curve = _fit_closed(first, tolerance)
            copies = _take_copies(first, rest, turns[1:])
            curves += [curve * turn for turn in turns[: copies + 1]]
    return curves


def _winds_around_middle(polygon: np.ndarray) -> bool:
    return abs(np.angle(np.roll(polygon, -1) * polygon.conj()).sum()) > math.pi


def _take_copies(first: np.ndarray, rest: list[np.ndarray], turns: np.ndarray) -> int:
    """Take the turned copies of a polygon out of `rest` -> how many; none where one is missing."""
    size, center = area(first), first.mean()
    found: list[int] = []
    for turn in turns:
        for i, other in enumerate(rest):
            alike = abs(area(other) - size) < 4 + 0.05 * abs(size) and abs(other.mean() - center * turn) < 2
            if alike and i not in found:
                found.append(i)
                break
        else:
            return 0
    for i in sorted(found, reverse=True):
        rest.pop(i)
    return len(found)


def _fit_closed(polygon: np.ndarray, tolerance: float, order: int = 1) -> np.ndarray:
    """Segments (B, 4) along the first 1/order of a polygon, and turned copies of them for the rest."""
    period = len(polygon) // order
    bend = _bend(polygon)
    start = int(bend[:period].argmax())  # if there is any corner it is here, and a corner needs a node
    polygon, bend = np.roll(polygon, -start), np.roll(bend, -start)
    arriving, leaving = _directions(polygon, bend >= CORNER)
    turn = np.exp(2j * math.pi / order * np.sign(area(polygon)))
    knots = [0, *_corners(bend[:period])]
    points = polygon[:period].copy()
    for i in knots:
        if bend[i] >= CORNER:
            points[i] = _tip(polygon, i, arriving[i], leaving[i])
    points, arriving = np.append(points, points[0] * turn), np.append(arriving[:period], arriving[0] * turn)
    knots.append(period)
    segments: list[np.ndarray] = []
    for i, j in zip(knots, knots[1:]):
        segments += _fit_open(points[i : j + 1], leaving[i], arriving[j], tolerance)
    return (np.stack(segments) * (turn ** np.arange(order))[:, None, None]).reshape(-1, 4)


def _bend(polygon: np.ndarray) -> np.ndarray:
    """By how much a polygon turns at each point, in radians."""
    reach = min(CORNER_REACH, len(polygon) // 16)
    step = np.roll(polygon, -reach) - polygon
    return np.abs(np.angle(step * np.roll(step, reach).conj()))


def _corners(bend: np.ndarray) -> list[int]:
    """The sharpest point of each bend, but for the one at the start."""
    corners: list[int] = []
    for i in np.argsort(-bend, kind="stable"):
        if bend[i] < CORNER:
            break
        if min([i, len(bend) - i, *(abs(i - j) for j in corners)]) > 2 * CORNER_REACH:
            corners.append(int(i))
    return sorted(corners)


def _directions(polygon: np.ndarray, sharp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unit vectors along which a polygon comes to each point and leaves it; the same but at corners."""
    reach = min(TANGENT, len(polygon) // 8)
    along = np.roll(polygon, -reach) - np.roll(polygon, reach)
    reach = min(CORNER_TANGENT, len(polygon) // 8)
    step = np.roll(polygon, -reach) - polygon
    # The points next to a corner are left out: they cut it.
    arriving, leaving = np.roll(step, reach + 1), np.roll(step, -1)
    return _unit(np.where(sharp, arriving, along)), _unit(np.where(sharp, leaving, along))


def _tip(polygon: np.ndarray, i: int, arriving: complex, leaving: complex) -> complex:
    """Where the two sides of a corner would meet, at most one cell away from where the polygon cuts it."""
    before, after = polygon[i - 2], polygon[(i + 2) % len(polygon)]
    across = (arriving.conjugate() * leaving).imag
    tip = before + arriving * ((after - before).conjugate() * leaving).imag / (
        across if abs(across) > 0.1 else math.inf
    )
    away = tip - polygon[i]
    return polygon[i] + away / max(1.0, abs(away))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.abs(vectors), 1e-12)


def _fit_open(points: np.ndarray, first: complex, last: complex, tolerance: float) -> list[np.ndarray]:
    """Segments (4,) along open points, each as long as it can be; first, last: unit vectors along which it starts and ends."""
    segments = []
    while len(points) > 1:
        stop, segment, first = _longest(points, first, last, tolerance)
        segments.append(segment)
        points = points[stop:]
    return segments


def _longest(points: np.ndarray, first: complex, last: complex, tolerance: float) -> tuple[int, np.ndarray, complex]:
    """The longest segment that fits, from the first point on -> the point at which it ends, itself, its direction there."""
    end = len(points) - 1
    fits, too_long, stop = min(SHORTEST, end), end + 1, min(FIRST_TRY, end)
    best = None
    while too_long - fits > 1:
        segment, direction, distance = _attempt(points, stop, first, last)
        if distance <= tolerance:
            fits, best = stop, (stop, segment, direction)
        else:
            too_long = stop
        stop = min(2 * fits, end) if too_long > end else (fits + too_long) // 2
    return best or (fits, *_attempt(points, fits, first, last)[:2])


def _attempt(points: np.ndarray, stop: int, first: complex, last: complex) -> tuple[np.ndarray, complex, float]:
    """A segment up to the point `stop`, its direction there, and by how much it misses the points."""
    reach = min(TANGENT, stop, len(points) - 1 - stop)
    direction = complex(_unit(points[stop + reach] - points[stop - reach])) if reach else last
    segment, distance = _fit_segment(points[: stop + 1], first, direction)
    return segment, direction, distance


def _fit_segment(points: np.ndarray, first: complex, last: complex) -> tuple[np.ndarray, float]:
    """The cubic (4,) of these end points and directions that is nearest to the points, and the largest distance of one
    (Schneider 1990, "An algorithm for automatically fitting digitized curves")."""
    start, end = points[0], points[-1]
    if len(points) > SAMPLES:
        points = points[np.linspace(0, len(points) - 1, SAMPLES).round().astype(int)]
    length = np.append(0.0, np.abs(np.diff(points)).cumsum())
    t = length / length[-1]
    for _ in range(ROUNDS):
        s = 1 - t
        near_start, near_end = 3 * s * s * t, 3 * s * t * t
        # Least squares for how far the two inner control points lie out along their directions.
        rest = points - start * (s**3 + near_start) - end * (t**3 + near_end)
        a, c = near_start @ near_start, near_end @ near_end
        b = -(near_start @ near_end) * (first.conjugate() * last).real
        x, y = near_start @ (first.conjugate() * rest).real, -near_end @ (last.conjugate() * rest).real
        determinant = a * c - b * b
        if determinant > 1e-9:
            reach = np.array([c * x - b * y, a * y - b * x]) / determinant
            reach = np.clip(reach, 0.01 * length[-1], length[-1])
        else:
            reach = np.full(2, length[-1] / 3)  # the points do not say
        segment = np.array([start, start + first * reach[0], end - last * reach[1], end])
        offset = start * s**3 + segment[1] * near_start + segment[2] * near_end + end * t**3 - points
        # One of Newton's steps towards the parameters of the nearest places.
        d1, d2 = 3 * np.diff(segment), 6 * np.diff(segment, n=2)
        slope = d1[0] * s * s + 2 * d1[1] * s * t + d1[2] * t * t
        change = np.abs(slope) ** 2 + (offset.conj() * (d2[0] * s + d2[1] * t)).real
        t = np.clip(t - (offset.conj() * slope).real / np.where(change > 1e-9, change, np.inf), 0, 1)
    return segment, float(np.abs(offset).max())
