"""Something to try the drawing tab on: a sketch by an unsteady hand, and an eye."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image, ImageDraw

SIDE, FINER = 512, 2  # pixels, and how much finer it is drawn
INK, PAPER = "#2b2629", "#fbfaf7"


def sketch() -> Image.Image:
    """A circle, a ring and four blades, in ink on paper."""
    image, draw = _blank(PAPER)
    unit = image.width / 2

    def place(radius: float, angle: float) -> tuple[float, float]:
        wobble = 1 + 0.012 * math.sin(3 * angle + 1) + 0.008 * math.cos(5 * angle)
        return unit * (1 + radius * wobble * math.cos(angle)), unit * (1 - radius * wobble * math.sin(angle))

    def line(radius: Callable[[float], float], start: float, end: float, width: Callable[[float], float]) -> None:
        for i in range(801):
            t = i / 800
            (x, y), r = place(radius(t), start + t * (end - start)), unit * width(t)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=INK)

    line(lambda t: 0.88, 0, 2 * math.pi, lambda t: 0.016)
    line(lambda t: 0.55, 0, 2 * math.pi, lambda t: 0.01)
    line(lambda t: 0.0, 0, 1, lambda t: 0.16)
    for k in range(4):
        start = k * math.pi / 2 + 0.03 * k
        line(lambda t: 0.3 + 0.45 * t, start, start + 1.1, lambda t: 0.1 * math.sin(math.pi * t) ** 0.8 + 0.008)
    return _smooth(image)


def eye() -> Image.Image:
    """An eye with lids, lashes and a highlight, looking at us."""
    image, draw = _blank("#e6b795")
    side = image.width

    def lid(bulge: float) -> list[tuple[float, float]]:
        xs = [i / 80 - 1 for i in range(161)]
        return [(side * (0.5 + 0.41 * x), side * (0.5 - bulge * (1 - x * x) - 0.02 * x)) for x in xs]

    upper, lower = lid(0.17), lid(-0.16)
    white = upper + lower[::-1]
    draw.polygon(white, fill="#f4efec")
    iris = Image.new("RGB", image.size)
    paint = ImageDraw.Draw(iris)
    iris.paste(image)
    for radius, colour in ((0.185, "#33241c"), (0.17, "#7a5236"), (0.11, "#5d3c27"), (0.07, "#120c0a")):
        r = side * radius
        paint.ellipse((side / 2 - r, side / 2 - r, side / 2 + r, side / 2 + r), fill=colour)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).polygon(white, fill=255)
    image.paste(iris, mask=mask)
    x, y, r = side * 0.56, side * 0.42, side * 0.027
    draw.ellipse((x - r, y - r, x + r, y + r), fill="white")
    for lashes in upper[8::12]:
        far = (lashes[0] - side / 2) * 0.16
        draw.line([lashes, (lashes[0] + far, lashes[1] - side * 0.05)], fill="#2a1b17", width=side // 110)
    draw.line(upper, fill="#2a1b17", width=side // 45, joint="curve")
    draw.line(lower, fill="#a06a54", width=side // 130, joint="curve")
    draw.line([(px, py - side * 0.075) for px, py in upper[20:-20]], fill="#c08a6c", width=side // 110, joint="curve")
    return _smooth(image)


def _blank(colour: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIDE * FINER, SIDE * FINER), colour)
    return image, ImageDraw.Draw(image)


def _smooth(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BOX)
