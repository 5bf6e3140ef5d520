"""Drawings show what the pictures show, and are small, clean and harmless."""

import io
import math
import os
import re
import resource
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from sharingan_hub import (
    RadialGenerator,
    SharinganPipeline,
    StyleGAN2Generator,
    draw_svg,
    read_recipe,
    trace_svg,
    write_svg,
)
from sharingan_hub.hub import DEFAULT
from tests.browser import chromium
from tests.paths import curves, outline

SVG = "{http://www.w3.org/2000/svg}"
SOURCE = DEFAULT.parent / "source"
SEEDS = range(8)
HUES = ["#ffffff", "#0000ff", "#00ff00", "#ff0000", "#00ffff", "#ff00ff", "#ffff00"]


@pytest.fixture(scope="module")
def pipe() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained()


@pytest.fixture(scope="module")
def source() -> SharinganPipeline:
    return SharinganPipeline.from_pretrained(SOURCE)


def elements(svg: str, name: str) -> list[ET.Element]:
    return list(ET.fromstring(svg).iter(SVG + name))


def covered(path: ET.Element, side: int = 1024) -> np.ndarray:
    """Which pixels (side, side) a path of a radial drawing covers."""
    inside, fine = np.zeros((side, side), int), 4  # finer, for Pillow adds half a pixel around a polygon
    for curve in curves(path):
        points = (outline(curve) + 256 + 256j) * (fine * side / 512) + 0.5 * (1 + 1j)  # it rounds down
        way = 1 if np.sum((points.conj() * np.roll(points, -1)).imag) > 0 else -1
        mask = Image.new("1", (fine * side, fine * side))
        ImageDraw.Draw(mask).polygon([(p.real, p.imag) for p in points], fill=1)
        inside += way * np.asarray(mask)[fine // 2 :: fine, fine // 2 :: fine]
    return inside != 0


def fills(svg: str) -> dict[str, list[str]]:
    """The colours of each gradient."""
    gradients = elements(svg, "radialGradient")
    return {f"url(#{g.get('id')})": [stop.get("stop-color") or "" for stop in g] for g in gradients}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawing_is_small_clean_and_harmless(pipe, seed):
    latents = pipe.prepare_latents([seed])
    svg = draw_svg(pipe, latents, size=300)
    assert svg == draw_svg(pipe, latents.clone(), size=300)
    assert len(svg) < 20_000
    root = ET.fromstring(svg)
    assert (root.get("width"), root.get("height"), root.get("viewBox")) == ("300", "300", "-256 -256 512 512")
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg",
        "radialGradient",
        "stop",
        "rect",
        "circle",
        "path",
    }
    assert len(elements(svg, "path")) <= 2 and 3 <= len(elements(svg, "circle")) <= 8
    names = {element.get("id") for element in root.iter() if element.get("id")}
    for element in root.iter():
        for key, value in element.attrib.items():
            assert re.fullmatch(r"[-\w.%# (),]*", value) and not key.startswith("on")
            if "url" in value:
                assert re.fullmatch(r"url\(#(.*)\)", value)[1] in names  # type: ignore[index]


def test_two_drawings_on_one_page_share_no_names(pipe):
    first, second = (set(fills(draw_svg(pipe, pipe.prepare_latents([seed])))) for seed in (1, 2))
    assert first and second and not first & second


@pytest.mark.parametrize("seed", SEEDS)
def test_circles_lie_where_one_round_mask_takes_over(pipe, seed):
    """Of masks drawn at 2048 px, along a ray: within 0.05 % of the radius."""
    latents = pipe.prepare_latents([seed])
    svg = draw_svg(pipe, latents)
    edges = []
    for circle in elements(svg, "circle"):
        radius, width = float(circle.get("r") or 0), float(circle.get("stroke-width") or 0)
        edges += [radius - width / 2, radius + width / 2] if width else [radius]
    with torch.no_grad():
        masks = pipe.generator_model.masks(latents, output_size=2048)[0].double()
    frame, ground = pipe.generator_model.layers
    strengths = torch.cat([masks[:frame], masks[frame:].sum(dim=0, keepdim=True)])[:, 1024, 1024:]
    best, logs = strengths.argmax(dim=0), strengths.log()
    found = 0
    for i in (best.diff() != 0).nonzero()[:, 0].tolist():
        lead, behind = (logs[best[i], i : i + 2] - logs[best[i + 1], i : i + 2]).tolist()
        radius = math.hypot(i + 0.5 + lead / (lead - behind), 0.5) / 4
        assert min(abs(edge - radius) for edge in edges) < 0.0005 * radius
        found += 1
    assert found >= 2  # pupil and rim at least


def drawn_masks(svg: str) -> np.ndarray:
    """Of a drawing in HUES: the mask whose path is on top in each pixel (1024, 1024), or -1."""
    top = np.full((1024, 1024), -1)
    for path in elements(svg, "path"):
        fill = path.get("fill") or ""
        (color, *_) = fills(svg).get(fill, [fill])
        hue = "#" + "".join("ff" if int(color[i : i + 2], 16) else "00" for i in (1, 3, 5))
        top[covered(path)] = HUES.index(hue)
    return top


@pytest.mark.parametrize(
    ("order", "seed"), [*((None, seed) for seed in SEEDS), (1, 3), (3.4, 3), (3.4, 39), (None, 22)]
)
def test_paths_cover_what_their_masks_win(pipe, order, seed):
    """All but three in a thousand pixels, most of them on the paths' borders; between two whole orders too."""
    latents = pipe.prepare_latents([seed], 1.0 if seed == 22 else 0.7)  # there two masks lie over one another
    if order is not None:
        latents[0, -1, 0] = order
    top = drawn_masks(draw_svg(pipe, latents, palette=HUES))
    with torch.no_grad():
        best = pipe.generator_model.masks(latents, output_size=1024)[0].argmax(dim=0).numpy()
    frame, ground = pipe.generator_model.layers
    wanted = np.where(best >= frame + ground, best, -1)
    seen = best >= frame  # not hidden by the frame
    assert (wanted >= 0).any()
    assert (top != wanted)[seen].mean() < 0.003


def test_paths_are_not_shifted(pipe):
    """The middle of a pattern of order 1, in most pictures to 0.15 pixels of 1024."""
    frame, ground = pipe.generator_model.layers
    offsets = []
    for latents in pipe.prepare_latents(SEEDS, order=1).split(1):
        top = drawn_masks(draw_svg(pipe, latents, palette=HUES))
        with torch.no_grad():
            best = pipe.generator_model.masks(latents, output_size=1024)[0].argmax(dim=0).numpy()
        places = ((top >= 0) & (best >= frame), best >= frame + ground)
        drawn, wanted = (np.argwhere(place).mean(axis=0) for place in places)
        offsets.append(drawn - wanted)
    assert np.abs(np.median(offsets, axis=0)).max() < 0.15


@pytest.mark.parametrize("order", [2, 3, 5, 8])
def test_paths_are_exactly_symmetric(pipe, order):
    latents = pipe.prepare_latents([3], order=order, phase=0.4)
    for path in elements(draw_svg(pipe, latents), "path"):
        nodes = np.concatenate(curves(path)).ravel()
        turned = nodes * np.exp(2j * math.pi / order)
        assert np.abs(nodes[:, None] - turned).min(axis=0).max() < 0.02  # two decimals


def test_a_palette_gives_the_colours(pipe):
    latents = pipe.prepare_latents([3])
    own, svg = draw_svg(pipe, latents), draw_svg(pipe, latents, palette=HUES)
    gradients = fills(svg)
    used = set()
    for element in ET.fromstring(svg):
        fill = next((v for v in (element.get("fill"), element.get("stroke")) if v and v != "none"), None)
        if element.tag == SVG + "radialGradient" or fill is None:
            continue
        for color in gradients.get(fill, [fill]):
            channels = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
            used.add("#" + "".join("ff" if channel else "00" for channel in channels))
            assert len({channel for channel in channels if channel}) == 1  # shading keeps the hue
    assert used <= set(HUES) and len(used) >= 5
    shapes = [re.sub(r"url\(.*?\)|#\w{6}", "", text[text.rindex("</radialGradient>") :]) for text in (own, svg)]
    assert shapes[0] == shapes[1]


def test_a_model_of_noise_can_be_drawn():
    """Whatever the masks are: no pattern, none of the ground seen, thin slivers."""
    for seed in range(6):
        torch.manual_seed(seed)
        model = RadialGenerator(z_dim=8, w_dim=8, channels=(8, 8), mapping_layers=1, num_frame_masks=seed % 3)
        with torch.no_grad():
            model.log_temperature.fill_(seed - 2.0)
            model.round_head.bias.normal_(0, 3)
        noise = SharinganPipeline(model.eval())
        svg = draw_svg(noise, noise.prepare_latents([seed], order=seed % 8 + 1))
        assert ET.fromstring(svg).tag == SVG + "svg" and "nan" not in svg


def test_other_generators_are_traced():
    torch.manual_seed(0)
    model = StyleGAN2Generator(z_dim=8, w_dim=8, resolution=16, mapping_layers=1, channel_base=64, channel_max=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "torgb" in name:
                parameter.mul_(0.2)  # few colours, or noise takes its time
    pipe = SharinganPipeline(model.eval())
    latents = pipe.prepare_latents([1])
    assert draw_svg(pipe, latents, size=64) == trace_svg(pipe(latents=latents).images[0], size=64)
    with pytest.raises(ValueError, match="palette"):
        draw_svg(pipe, latents, palette=["red"] * 7)


@pytest.mark.parametrize(
    ("change", "options", "error", "named"),
    [
        (lambda latents: latents.expand(2, -1, -1), {}, ValueError, "holds 2 pictures"),
        (lambda latents: latents[0], {}, ValueError, "shape"),
        (lambda latents: latents.numpy(), {}, TypeError, "ndarray"),
        (lambda latents: latents * math.nan, {}, ValueError, "NaN"),
        (lambda latents: latents, {"size": 0}, ValueError, "size is 0"),
        (lambda latents: latents, {"palette": ["red"]}, ValueError, "palette"),
    ],
)
def test_wrong_input_is_refused_by_name(pipe, change, options, error, named):
    with pytest.raises(error, match=named):
        draw_svg(pipe, change(pipe.prepare_latents([1])), **options)


@pytest.fixture(scope="module")
def shown() -> Iterator[Callable[[str], np.ndarray]]:
    """What a browser shows of a drawing, (512, 512, 3)."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 512, "height": 512})

        def show(svg: str) -> np.ndarray:
            page.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}")
            return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), dtype=float)

        yield show


@pytest.mark.xdist_group("app")
@pytest.mark.parametrize("model", ["pipe", "source"])
def test_a_browser_shows_what_the_model_draws(request, shown, model):
    pipe = request.getfixturevalue(model)
    for seed in SEEDS:
        latents = pipe.prepare_latents([seed], truncation_psi=0.8, order=seed + 1, phase=0.2 * seed)
        picture = np.asarray(pipe(latents=latents, output_size=512).images[0], dtype=float)
        assert np.abs(shown(draw_svg(pipe, latents)) - picture).mean() < 1.5, seed


@pytest.mark.xdist_group("app")
def test_a_browser_shows_no_gap_between_layers(pipe, shown):
    """All layers blue but for the one at the back, which is red: it shows only outside the rim, at any size."""
    for seed in SEEDS:
        svg = draw_svg(pipe, pipe.prepare_latents([seed]))
        svg = re.sub(r'(fill|stroke)="(url\(.*?\)|#\w{6})"', r'\1="#336699"', svg)
        svg = re.sub(r'(<rect [^>]*fill=)"#336699"', r'\1"#ff0000"', svg)
        rim = max(float(c.get("r") or 0) + float(c.get("stroke-width") or 0) / 2 for c in elements(svg, "circle"))
        for size in (512, 301, 77):
            picture = shown(svg.replace('width="512" height="512" v', f'width="{size}" height="{size}" v'))[
                :size, :size
            ]
            axis = np.abs(np.arange(size) + 0.5 - size / 2)
            radius = np.hypot(axis[:, None], axis) * (512 / size)
            inside = picture[radius < rim - 1.5 * 512 / size]
            assert np.abs(inside - (0x33, 0x66, 0x99)).max() <= 8  # a twenty-fifth of the red
            assert (picture[radius > rim + 1.5 * 512 / size] == (255, 0, 0)).all()


def test_a_drawing_is_written_with_its_recipe(pipe, tmp_path):
    svg = draw_svg(pipe, pipe.prepare_latents([7]))
    write_svg(svg, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text() == svg and read_recipe(tmp_path / "a.svg") is None
    write_svg(svg, tmp_path / "a.svg", {"seed": 7, "name": "</metadata><script>alert(1)</script>"})
    written = (tmp_path / "a.svg").read_text()
    assert read_recipe(tmp_path / "a.svg") == {"seed": 7, "name": "</metadata><script>alert(1)</script>"}
    assert not elements(written, "script") and len(elements(written, "metadata")) == 1
    assert re.sub(r"\n<metadata.*</metadata>", "", written) == svg
    assert os.listdir(tmp_path) == ["a.svg"]


def test_a_recipe_is_put_into_any_svg(tmp_path):
    svg = """<?xml version="1.0" encoding="UTF-8"?>
<!-- <svg> -->
<svg xmlns='http://www.w3.org/2000/svg' aria-label="a > b"
     viewBox="0 0 9 9"><title>5 &lt; 6</title></svg>"""
    write_svg(svg, tmp_path / "a.svg", {"seed": 1})
    assert read_recipe(tmp_path / "a.svg") == {"seed": 1}
    assert ET.parse(tmp_path / "a.svg").getroot().get("aria-label") == "a > b"


@pytest.mark.parametrize(
    "svg", ["", "<svg", "<svg/>", '<html xmlns="http://www.w3.org/1999/xhtml"/>', "<svg>&nbsp;</svg>"]
)
def test_what_is_no_svg_is_refused(tmp_path, svg):
    with pytest.raises(ValueError, match="^svg "):
        write_svg(svg, tmp_path / "a.svg", {"seed": 1})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("recipe", [{"psi": math.nan}, {"image": object()}])
def test_a_recipe_that_json_cannot_hold_is_refused(tmp_path, recipe):
    with pytest.raises((ValueError, TypeError)):
        write_svg('<svg xmlns="http://www.w3.org/2000/svg"/>', tmp_path / "a.svg", recipe)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_leaves_the_old_drawing(tmp_path):
    old, new = ('<svg xmlns="http://www.w3.org/2000/svg">' + "<g/>" * count + "</svg>" for count in (1, 20_000))
    write_svg(old, tmp_path / "a.svg")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError):
            write_svg(new, tmp_path / "a.svg")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "a.svg").read_text() == old and os.listdir(tmp_path) == ["a.svg"]
