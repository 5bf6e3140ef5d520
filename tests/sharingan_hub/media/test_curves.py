import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharingan_hub.media.curves import area, evenly_spaced, fit, outlines

SIDE = 128
MIDDLE = (SIDE - 1) / 2 * (1 + 1j)
X, Y = np.meshgrid(np.arange(SIDE) - MIDDLE.real, np.arange(SIDE) - MIDDLE.real)
POLAR = np.abs(X + 1j * Y), np.angle(X + 1j * Y)


def points_on(curve: np.ndarray, each: int = 40) -> np.ndarray:
    """Points along segments (B, 4)."""
    t = np.linspace(0, 1, each)[:, None, None]
    a, b, c, d = curve.T
    return (a * (1 - t) ** 3 + 3 * b * (1 - t) ** 2 * t + 3 * c * (1 - t) * t**2 + d * t**3)[:, 0].T.ravel()


def distances(points: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Of each of the points to a curve."""
    line = points_on(curve)
    start, way = line[:-1], np.diff(line)
    way = np.where(way == 0, 1e-9, way)
    return np.array([np.abs(start + way * np.clip(((p - start) / way).real, 0, 1) - p).min() for p in points])


def assert_closed(curve: np.ndarray) -> None:
    assert np.allclose(curve[:, 3], np.roll(curve[:, 0], -1), atol=1e-9)


def smooth_field(seed: int, waves: int = 3) -> np.ndarray:
    draw = np.random.RandomState(seed)
    field = np.zeros((SIDE, SIDE))
    for _ in range(8):
        u, v = draw.uniform(-waves, waves, 2) * 2 * math.pi / SIDE
        field += draw.randn() * np.cos(u * X + v * Y + draw.uniform(0, 7))
    return field


@given(seed=st.integers(0, 2**32 - 1), tolerance=st.sampled_from([0.3, 0.6, 1.0]))
@settings(max_examples=40, deadline=None)
def test_curves_are_closed_and_stay_within_the_tolerance(seed, tolerance):
    polygons = outlines(smooth_field(seed))
    curves = fit(polygons, tolerance)
    assert len(curves) == len(polygons)
    for polygon, curve in zip(sorted(polygons, key=lambda p: -abs(area(p))), curves):
        assert_closed(curve)
        away = distances(polygon, curve)
        assert np.quantile(away, 0.95) < tolerance + 0.2 and away.max() < tolerance + 1  # a cell more at corners


@given(x=st.floats(-10, 10), y=st.floats(-10, 10), radius=st.floats(3, 50))
@settings(max_examples=40, deadline=None)
def test_a_circle_is_a_few_segments_at_its_place(x, y, radius):
    (polygon,) = outlines(radius - np.hypot(X - x, Y - y))
    (curve,) = fit([polygon - MIDDLE], 0.2)
    assert_closed(curve)
    assert len(curve) <= 8
    assert np.abs(np.abs(points_on(curve) - (x + 1j * y)) - radius).max() < 0.25
    assert area(points_on(curve)) == pytest.approx(math.copysign(math.pi * radius**2, area(polygon)), rel=0.03)


def test_corners_stay_sharp_and_take_no_more_nodes_than_they_need():
    (polygon,) = outlines(40 - np.maximum(np.abs(X), np.abs(Y)))
    (curve,) = fit([polygon - MIDDLE], 0.3)
    corners = 40 * np.array([1 + 1j, 1 - 1j, -1 + 1j, -1 - 1j])
    assert len(curve) == 4
    assert max(np.abs(curve[:, 0] - corner).min() for corner in corners) < 0.1
    assert distances(corners, curve).max() < 0.1


def test_holes_run_the_other_way_round():
    ring = outlines(10 - np.abs(POLAR[0] - 30))
    outer, inner = sorted(map(area, ring), key=abs, reverse=True)
    assert outer * inner < 0
    assert [abs(outer), abs(inner)] == pytest.approx([math.pi * 40**2, math.pi * 20**2], rel=0.01)


def test_what_touches_the_border_is_closed_along_it():
    (polygon,) = outlines(np.ones((20, 30)))
    assert abs(area(polygon)) == pytest.approx(20 * 30, rel=0.06)
    assert outlines(np.full((20, 30), -1.0)) == []


@pytest.mark.parametrize("order", [2, 3, 5, 8])
@pytest.mark.parametrize("phase", [0.0, 0.3])
def test_a_symmetric_field_gives_exactly_symmetric_curves(order, phase):
    """A wavy ring around the middle, with a hole, and spots around it."""
    radius, angle = POLAR
    wave = np.cos(order * (angle - phase)) + 0.3 * np.sin(2 * order * (angle - phase))
    spots = 6 - np.min(
        [np.abs(X + 1j * Y - 54 * np.exp(1j * (phase + 2 * math.pi * k / order))) for k in range(order)], 0
    )
    polygons = [
        polygon - MIDDLE
        for polygon in outlines(np.maximum(spots, np.minimum(4 * wave + 26 - radius, radius - 12 - 3 * wave)))
    ]
    assert len(polygons) == order + 2
    curves = fit(polygons, 0.4, order)
    assert len(curves) == order + 2
    nodes = np.concatenate(curves).ravel()
    turned = nodes * np.exp(2j * math.pi / order)
    assert np.abs(nodes[:, None] - turned).min(axis=0).max() < 1e-9
    for curve in curves:
        assert_closed(curve)
    away = distances(np.concatenate(polygons), np.concatenate(curves))
    assert np.quantile(away, 0.95) < 0.4 and away.max() < 0.9
    drawn, points = points_on(np.concatenate(curves)), np.concatenate(polygons)
    assert max(np.abs(points - point).min() for point in drawn) < 1.5  # points are one cell apart


def test_a_polygon_without_its_copies_is_fitted_all_the_same():
    polygons = [p - MIDDLE for p in outlines(8 - np.hypot(X - 30, Y))]
    (curve,) = fit(polygons, 0.3, order=5)
    assert distances(polygons[0], curve).max() < 0.4


@given(count=st.integers(3, 60), multiple=st.integers(1, 8), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_points_are_evenly_spaced_along_the_polygon(count, multiple, seed):
    angles = np.sort(np.random.RandomState(seed).uniform(0, 2 * math.pi, count))
    polygon = 40 * np.exp(1j * angles)
    spaced = evenly_spaced(polygon, multiple)
    assert len(spaced) % multiple == 0 and len(spaced) >= 16
    steps = np.abs(np.diff(np.append(spaced, spaced[0])))
    length = np.abs(np.diff(np.append(polygon, polygon[0]))).sum()
    assert steps.max() <= length / len(spaced) + 1e-9  # shorter only across a corner
    assert spaced[0] == polygon[0]
