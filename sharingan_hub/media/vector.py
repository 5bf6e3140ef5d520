"""Emblems as SVG drawings: for print, for cutters, and to go on drawing."""

from __future__ import annotations

import hashlib
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sharingan_hub.media.files import RECIPE_KEY, replacing, to_text

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sharingan_hub.pipeline_sharingan import SharinganPipeline

SVG = "http://www.w3.org/2000/svg"
SIDE = 512  # of a drawing (its longer one) in its own units, whatever size it is shown at
ROOT = re.compile(r"""<svg(?:[^<>"']|"[^"]*"|'[^']*')*>""")


def draw_svg(pipe: SharinganPipeline, latents: Tensor, palette: Any = None, size: int = SIDE) -> str:
    """One picture as a drawing.

    Of a generator that has masks, every disc and ring becomes a circle and each mask of the pattern one path, with the
    generator's own colours and shading. What other generators make is traced, in few flat colours (trace_svg).

    Args:
        pipe: the pipeline.
        latents: tensor (1, num_ws, w_dim), such as `pipe.prepare_latents([7])` or one of an output's.
        palette: colours in place of the generator's own, as the pipeline takes them.
        size: width and height at which the drawing is shown, in pixels; it can be shown at any.

    Returns:
        The text of an SVG file; the same picture always gives the same text.

    Raises:
        ValueError, TypeError: an argument is outside its range, of another type, or unknown to this generator.
    """
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1 pixel")
    latents = pipe.check_latents(latents, None, None)
    if len(latents) != 1:
        raise ValueError(f"latents holds {len(latents)} pictures; a drawing shows one")
    if not hasattr(pipe.generator_model, "masks"):
        from sharingan_hub.media.vector_trace import trace_svg

        drawn: Any = pipe(latents=latents, palette=palette)
        return trace_svg(drawn.images[0], size=size)
    from sharingan_hub.media.vector_radial import radial_svg

    colors = None if palette is None else pipe.prepare_palette(palette, 1)[0]
    return radial_svg(pipe.generator_model, latents, colors, size)


def write_svg(svg: str, path: str | os.PathLike[str], recipe: dict[str, Any] | None = None) -> None:
    """Write a drawing; what stands at `path` is at any moment the whole old file or the whole new one.

    Args:
        svg: text of an SVG file, such as draw_svg's.
        path: where to; its folder exists.
        recipe: how the picture was made, of JSON's types; read_recipe gives it back.

    Raises:
        ValueError, TypeError: the text is no SVG, or the recipe cannot be written as JSON.
        OSError: the file cannot be written.
    """
    try:
        tag = ET.fromstring(svg).tag
    except ET.ParseError as error:
        raise ValueError(f"svg cannot be read as XML: {error}") from error
    if tag != f"{{{SVG}}}svg":
        raise ValueError(f"svg has the root {tag!r}; it must be svg of {SVG}")
    if recipe is not None:
        text = to_text(recipe).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        metadata = f'\n<metadata id="{RECIPE_KEY}">{text}</metadata>'
        root = ROOT.match(svg, _root_at(svg))
        assert root  # it was read as XML
        svg = svg[: root.end()] + metadata + svg[root.end() :]
    with replacing(path) as temporary:
        temporary.write_text(svg, encoding="utf-8", newline="\n")


def _root_at(svg: str) -> int:
    """Where the first element begins, in characters."""
    from xml.parsers import expat

    found: list[int] = []
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = lambda name, attributes: found.append(parser.CurrentByteIndex)
    data = svg.encode()
    parser.Parse(data, True)
    return len(data[: found[0]].decode())


def document(width: float, height: float, left: float, top: float, shown: tuple[int, int], lines: Iterable[str]) -> str:
    """Text of an SVG file: the view in the drawing's units, the size in pixels at which it is shown, and what it holds.

    "ID" in `lines` becomes a name that no other drawing on a page has.
    """
    body = "\n".join(lines)
    body = body.replace("ID", "e" + hashlib.sha256(body.encode()).hexdigest()[:8])
    view = " ".join(map(number, (left, top, width, height)))
    return f'<svg xmlns="{SVG}" width="{shown[0]}" height="{shown[1]}" viewBox="{view}">\n{body}\n</svg>\n'


def path_data(curves: Iterable[np.ndarray]) -> str:
    """What an SVG path says for closed curves of cubic segments (B, 4)."""
    parts = []
    for curve in curves:
        parts.append(f"M{_point(curve[0, 0])}")
        parts += [f"C{_point(b)} {_point(c)} {_point(d)}" for _, b, c, d in curve]
        parts.append("Z")
    return "".join(parts)


def number(value: float) -> str:
    """With two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def color_text(color: np.ndarray) -> str:
    """Red, green and blue in [0, 1] as #rrggbb."""
    return "#" + "".join(f"{round(255 * float(channel)):02x}" for channel in color)


def _point(point: complex) -> str:
    return f"{number(point.real)} {number(point.imag)}"
