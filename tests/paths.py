"""The curves of SVG paths."""

import re
import xml.etree.ElementTree as ET

import numpy as np


def curves(path: ET.Element) -> list[np.ndarray]:
    """The closed curves of a path, each as cubic segments (B, 4) of complex numbers."""
    data = path.get("d") or ""
    assert re.fullmatch(r"(M[-\d. ]+(C[-\d. ]+)+Z)+", data)
    found = []
    for part in data.split("Z")[:-1]:
        numbers = np.array(re.findall(r"-?\d+(?:\.\d+)?", part), dtype=float)
        points = numbers[0::2] + 1j * numbers[1::2]
        ends = np.append(points[0], points[3::3])
        found.append(np.stack([ends[:-1], points[1::3], points[2::3], ends[1:]], axis=1))
        assert ends[0] == ends[-1]
    return found


def outline(curve: np.ndarray) -> np.ndarray:
    """Points along segments (B, 4)."""
    t = np.linspace(0, 1, 20, endpoint=False)[:, None]
    a, b, c, d = curve.T
    return (a * (1 - t) ** 3 + 3 * b * (1 - t) ** 2 * t + 3 * c * (1 - t) * t**2 + d * t**3).T.ravel()
