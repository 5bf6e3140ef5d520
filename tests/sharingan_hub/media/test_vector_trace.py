"""Traced drawings: the picture's colours and shapes, few paths, no lining along edges and no gaps."""

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sharingan_hub import trace_svg
from sharingan_hub.hub import DEFAULT
from tests.browser import chromium
from tests.paths import curves, outline

SVG = "{http://www.w3.org/2000/svg}"


def scene(size: int = 256, scale: int = 4) -> Image.Image:
    """A white disc with a black dot on black, and a grey square apart from both: grey is what white and black mix to."""
    image = Image.new("RGB", (size * scale, size * scale), "black")
    draw = ImageDraw.Draw(image)
    for shape, box, color in (
        (draw.ellipse, (30, 30, 180, 180), "white"),
        (draw.ellipse, (90, 90, 120, 120), "black"),
        (draw.rectangle, (200, 200, 240, 240), (128, 128, 128)),
    ):
        shape([edge * size * scale / 256 for edge in box], fill=color)
    return image.resize((size, size), Image.Resampling.BOX)


def shapes(svg: str) -> dict[str, ET.Element]:
    """Elements by colour."""
    return {element.get("fill") or "": element for element in ET.fromstring(svg)}


def box(path: ET.Element) -> list[float]:
    """Left, top, right and bottom of a path."""
    points = np.concatenate([outline(curve) for curve in curves(path)])
    return [points.real.min(), points.imag.min(), points.real.max(), points.imag.max()]


@pytest.mark.parametrize("size", [64, 256, 1500])
def test_each_colour_is_one_path_at_its_place(size):
    found = shapes(trace_svg(scene(size)))
    assert list(found) == ["#000000", "#ffffff", "#808080"]  # the most frequent at the back
    assert found["#000000"].tag == SVG + "rect"
    assert box(found["#ffffff"]) == pytest.approx([60, 60, 360, 360], abs=256 / size + 1)
    assert box(found["#808080"]) == pytest.approx([400, 400, 480, 480], abs=256 / size + 1)
    subpaths = {color: (element.get("d") or "").count("M") for color, element in found.items()}
    assert subpaths["#ffffff"] == 2  # the disc and the hole of its dot
    assert subpaths["#808080"] == 1  # no grey line where white borders on black


def test_thin_lines_between_areas_of_other_colours_stay():
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((60, 60, 196, 196), outline="black", width=2)
    path = shapes(trace_svg(image))["#000000"]
    assert (path.get("d") or "").count("M") == 2 and box(path) == pytest.approx([120, 120, 393, 393], abs=2)


def test_gradients_become_bands_and_colours_are_no_more_than_asked_for():
    row = np.linspace(0, 255, 256).round().astype(np.uint8)
    image = Image.fromarray(np.tile(row, (256, 1))).convert("RGB")
    for colors in (2, 5, 12):
        found = shapes(trace_svg(image, colors))
        assert max(2, colors - 2) <= len(found) <= colors
        for element in found.values():
            if element.tag == SVG + "path":
                assert (element.get("d") or "").count("M") == 1


def test_a_drawing_has_the_proportions_of_the_picture():
    root = ET.fromstring(trace_svg(scene().crop((0, 0, 256, 128)), size=100))
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("100", "50", "0 0 512 256")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1", "CMYK"])
def test_pictures_of_any_mode_are_traced(mode):
    image = scene(64).convert("L").point(lambda v: 255 * (v > 60))
    image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert list(shapes(trace_svg(image))) == ["#000000", "#ffffff"]


def test_transparent_pictures_are_shown_on_white():
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (8, 8, 24, 24))
    assert list(shapes(trace_svg(image))) == ["#ffffff", "#0000ff"]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_the_smallest_pictures_are_traced(size):
    (only,) = shapes(trace_svg(Image.new("RGB", size, "#123456")))
    assert only == "#123456"


def test_the_same_picture_gives_the_same_text():
    assert trace_svg(scene(64)) == trace_svg(scene(64))


@pytest.mark.parametrize(
    ("options", "named"), [({"colors": 1}, "colors"), ({"colors": 65}, "colors"), ({"size": 0}, "size")]
)
def test_wrong_input_is_refused_by_name(options, named):
    with pytest.raises(ValueError, match=f"^{named} is"):
        trace_svg(scene(16), **options)


@pytest.mark.xdist_group("app")
def test_a_browser_shows_the_picture():
    with Image.open(DEFAULT / "samples" / "seed0000003.png") as image:
        emblem = image.convert("RGB")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 512, "height": 512})
        for picture, bound in ((emblem, 3.0), (scene(512), 0.5)):
            svg = trace_svg(picture)
            assert len(svg) < 60_000
            page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}")
            shown = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=float)
            wanted = np.asarray(picture.resize((512, 512), Image.Resampling.LANCZOS), dtype=float)
            assert np.abs(shown - wanted).mean() < bound


@pytest.mark.xdist_group("app")
def test_a_browser_shows_no_gap_between_layers():
    """Between two stripes on a ground that shows elsewhere; that ground made red and the stripes blue."""
    image = Image.new("RGB", (256, 256), "white")
    image.paste("black", (110, 0, 170, 256))
    image.paste("green", (170, 0, 250, 256))
    svg = trace_svg(image)
    assert list(shapes(svg)) == ["#ffffff", "#008000", "#000000"]
    for old, new in (("#ffffff", "#ff0000"), ("#008000", "#0000ff"), ("#000000", "#0000ff")):
        svg = svg.replace(old, new)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 512, "height": 512})
        for size in (512, 301, 99):
            text = svg.replace('width="512" height="512" v', f'width="{size}" height="{size}" v')
            page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{text}")
            shown = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=int)
            stripes = shown[2 : size - 2, round(size * 112 / 256) + 2 : round(size * 248 / 256) - 2]
            assert np.abs(stripes - (0, 0, 255)).max() <= 2
