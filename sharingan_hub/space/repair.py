"""The Repair & recolour tab: any picture of an emblem made round, made symmetric, and given other colours. On the CPU."""

from __future__ import annotations

import math
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from .checks import check_flag, check_whole, friendly, problem
from .page import DOWNLOAD, Page, endpoint
from .recipe import MAX_ORDER, PALETTES, Recipe, read_palette

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

MAX_PIXELS = 24_000_000  # of a picture that is opened
WORK_SIDE = 1024  # pixels at which it is repaired, as this is done on a shared CPU
LEAST_SIDE = 32
CURVE = 180  # angles of the fitted distortion
SYMMETRIES: list[str | int] = ["off", "auto", *range(1, MAX_ORDER + 1)]

HELP = """
Circles that are out of round are found by their edges and warped back; where nothing can be fitted the picture stays as it
is. **Symmetric** takes the best wedge or the mean of all. Colours are changed by role: iris, pattern, sclera.
"""

# Both pictures are in the browser's hands already: what a click on a palette waits for is not asked of the server twice.
COMPARE = "(before, after) => [before && after ? [before, after] : null]"


def tab(page: Page) -> None:
    """Build the tab into the page that is open."""
    models = page.models

    def repair(picture: Any, circularize: Any = True, symmetry: Any = "auto") -> list[Any]:
        round_ = check_flag("Circularize", circularize)
        if symmetry not in ("off", "auto"):
            symmetry = check_whole("Symmetry", symmetry, 1, MAX_ORDER, '"off", "auto" or from 1 to 8')
        image = read_picture(picture)
        with friendly():
            fixed, facts = repaired(image, round_, symmetry)
            before = save(image, "original")
            steps = [*(["circularize"] if round_ else []), *([{"symmetrize": symmetry}] if symmetry != "off" else [])]
            return [save(to_image(fixed), "repaired", {"steps": steps}), before, facts]

    def recolor(
        picture: Any,
        palette: Any = "own",
        own_colours: Any = False,
        iris: Any = None,
        pattern: Any = None,
        sclera: Any = None,
        reference: Any = None,
    ) -> str:
        from ..postprocess import recolor as change

        name = read_palette(palette)
        colours = {"iris": iris, "pattern": pattern, "sclera": sclera} if check_flag("Own colours", own_colours) else {}
        chosen: dict[str, Any] = {role: read_colour(role, value) for role, value in colours.items() if value}
        like = read_picture(reference, "The reference") if reference else None
        image = read_picture(picture)
        with friendly():
            if not (name or chosen or like):
                return save(image, "repaired")
            pixels = None if like is None else to_tensor(like)
            done = change(to_tensor(image), name, reference=pixels, **chosen)
            return save(to_image(done), "recoloured", {"steps": [{"recolor": {"palette": name, **chosen}}]})

    # What only the page needs

    def damage(selected: Any) -> str:
        """The chosen design, bent and spotted, to try the tab on."""
        with friendly():
            ((path, _),) = models.pictures([Recipe.read(selected)])
            return save(damaged(path), "damaged")

    def chosen(selected: Any) -> str:
        with friendly():
            return models.pictures([Recipe.read(selected)])[0][0]

    def report(facts: Any) -> str:
        return describe(facts) if facts else ""

    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            picture = gr.File(
                label="A picture of an emblem", file_types=["image"], height=150, elem_id="upload", elem_classes="early"
            )
            with gr.Row(elem_classes=["actions", "early"]):
                take = gr.Button("The chosen design", size="md")
                try_one = gr.Button("A damaged one", size="md")
            with gr.Group():
                circularize = gr.Checkbox(True, label="Make round")
                symmetry = gr.Dropdown(SYMMETRIES, value="auto", label="Make symmetric of order", elem_id="symmetry")
            palette = gr.Radio(["own", *PALETTES], value="own", label="Palette", elem_classes="swatches")
            with gr.Accordion("Colours of your own, or of another picture", open=False):
                own_colours = gr.Checkbox(False, label="Use these three")
                with gr.Row():
                    iris = gr.ColorPicker("#c8102e", label="Iris", min_width=70)
                    pattern = gr.ColorPicker("#0d0a0b", label="Pattern", min_width=70)
                    sclera = gr.ColorPicker("#ffffff", label="Sclera", min_width=70)
                reference = gr.File(label="Take the colours of this picture", file_types=["image"], height=130)
        with gr.Column(elem_classes="result", min_width=0):
            slider = gr.ImageSlider(
                format="png", label="Before and after", show_label=False, buttons=["fullscreen"], interactive=False,
                elem_id="compare", elem_classes=["stage", "early"],
            )  # fmt: skip
            with gr.Row(elem_classes=["actions", "early"]):
                go = gr.Button("Repair", size="md", variant="primary")
                save_button = gr.Button("Download PNG", size="md", elem_id="save-repair")
            facts_shown = gr.HTML("", elem_id="facts", elem_classes="early")
            gr.Markdown(HELP, elem_classes=["hint", "late"])
    before, fixed, result = (gr.File(visible=False) for _ in range(3))
    facts = gr.JSON(visible=False)

    colours = [palette, own_colours, iris, pattern, sclera, reference]
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "repair", "show_progress": "minimal"}
    hidden = private | {"show_progress": "hidden", "preprocess": False}
    mended = endpoint(
        [picture.upload, go.click, circularize.input, symmetry.input], repair, [picture, circularize, symmetry],
        [fixed, before, facts], "repair",
        "Make a picture round and symmetric: the repaired PNG, the original as it was read, and what was found.",
        trigger_mode="always_last", show_progress_on=slider,
    )  # fmt: skip
    mended.success(report, facts, facts_shown, **hidden)
    recoloured = endpoint(
        [palette.input, own_colours.input, iris.release, pattern.release, sclera.release, reference.change],
        recolor, [fixed, *colours], result, "repair",
        "Give a picture other colours: a palette's name, three colours (own_colours true), or those of a reference picture.",
        trigger_mode="always_last", show_progress_on=slider,
    )  # fmt: skip
    recoloured.success(None, [before, result], slider, js=COMPARE, **hidden)
    again = private | {"preprocess": False, "show_progress_on": slider}
    mended.success(recolor, [fixed, *colours], result, **again).success(
        None, [before, result], slider, js=COMPARE, **hidden
    )
    for button, fn in ((take, chosen), (try_one, damage)):
        button.click(fn, page.selected, picture, **private).success(
            repair, [picture, circularize, symmetry], [fixed, before, facts], **again
        ).success(report, facts, facts_shown, **hidden).success(recolor, [fixed, *colours], result, **again).success(
            None, [before, result], slider, js=COMPARE, **hidden
        )
    save_button.click(None, result, None, js=DOWNLOAD, api_visibility="private")


def read_picture(value: Any, name: str = "The picture") -> Image.Image:
    """An uploaded picture, upright, on white, at most 1024 pixels wide and high.

    Raises:
        gr.Error: there is none, it is no picture, or it is too large or too small.
    """
    from PIL import Image, ImageOps

    from ..media import on_white, open_known

    path = value.get("path") if isinstance(value, dict) else value
    if not path:
        raise problem(f"{name} is missing: choose a PNG, JPEG or WebP first.")
    try:
        with open_known(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise problem(f"{name} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are opened.")
            if min(image.size) < LEAST_SIDE:
                raise problem(f"{name} has {image.width} x {image.height} pixels; it must have {LEAST_SIDE} each way.")
            if max(image.size) * LEAST_SIDE > min(image.size) * WORK_SIDE:
                raise problem(f"{name} has {image.width} x {image.height} pixels, which is too long and narrow.")
            image.load()
            upright = on_white(ImageOps.exif_transpose(image))
    except gr.Error:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit comes first
        raise problem(f"{name} has too many pixels; at most {MAX_PIXELS:,} are opened.") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise problem(f"{name} cannot be read: it is no whole PNG, JPEG or WebP.") from error
    upright.thumbnail((WORK_SIDE, WORK_SIDE), Image.Resampling.LANCZOS)
    return upright


def read_colour(role: str, value: Any) -> str:
    """A colour as the page's picker or an API client writes it, as "#rrggbb"."""
    from PIL import ImageColor

    text = str(value)[:60]
    numbers = re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)", text)
    try:
        rgb = [round(float(n)) for n in numbers.groups()] if numbers else ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise problem(f'{role.capitalize()} must be a colour such as "red" or "#c8102e", got {text!r}.') from error
    return "#" + "".join(f"{min(channel, 255):02x}" for channel in rgb)


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as (1, 3, H, W) in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_image(pixels: Tensor) -> Image.Image:
    """The first of (N, 3, H, W) in [0, 1]."""
    from PIL import Image

    return Image.fromarray(pixels[0].mul(255).round().byte().permute(1, 2, 0).numpy())


def save(image: Image.Image, name: str, recipe: dict[str, Any] | None = None) -> str:
    """Path of a new PNG in Gradio's folder."""
    from ..media import write_png

    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    write_png(image, folder / f"{name}.png", recipe)
    return str(folder / f"{name}.png")


def repaired(image: Image.Image, round_: bool, symmetry: str | int) -> tuple[Tensor, dict[str, Any]]:
    """The repaired pixels, and what was found: confidence, distortion by angle in percent, order, symmetry before and after."""
    import torch

    from ..postprocess import circularize, estimate_order, symmetrize, symmetry_score

    pixels = to_tensor(image)
    original = pixels
    facts: dict[str, Any] = {"round": None}
    if round_:
        found = circularize(pixels)
        angles = torch.arange(CURVE) * (2 * math.pi / CURVE)
        curve = (found.scale(angles)[0] - 1) * 100
        facts["round"] = {
            "found": bool(found.ok[0]),
            "confidence": round(found.confidence[0].item(), 3),
            "distortion_percent": [round(value, 2) for value in curve.tolist()],
        }
        pixels = found.images
    facts["order"] = int(estimate_order(pixels)[0])
    if symmetry != "off":
        order = facts["order"] if symmetry == "auto" else int(symmetry)
        pixels = symmetrize(pixels, order)
        facts["order"] = order
    for when, some in (("before", original), ("after", pixels)):
        facts[f"symmetry_{when}"] = round(max(0.0, symmetry_score(some, facts["order"]).item()), 3)
    return pixels.clamp(0, 1), facts


def describe(facts: dict[str, Any]) -> str:
    """What was found, in words and as a drawing of the distortion."""
    lines = []
    found = facts["round"]
    plot = ""
    if found and found["found"]:
        most = max(map(abs, found["distortion_percent"]))
        lines.append(
            f"<b>Out of round</b> by up to {most:.1f} % of the radius, now round. Confidence {found['confidence']:.2f}."
        )
        plot = polar_plot(found["distortion_percent"])
    elif found:
        lines.append("<b>Nothing to make round</b>: no circles were found that a distortion explains.")
    lines.append(
        f"<b>Order {facts['order']}</b>; symmetry {facts['symmetry_before']:.2f} before, "
        f"{facts['symmetry_after']:.2f} after (1 is perfect)."
    )
    return f'<div class="facts">{plot}<div>{"".join(f"<p>{line}</p>" for line in lines)}</div></div>'


def polar_plot(percent: list[float]) -> str:
    """An SVG of the fitted distortion around the circle, so enlarged that its shape is seen."""
    most = max(1e-6, *map(abs, percent))
    gain = min(28 / most, 20)
    points = []
    for i, value in enumerate(percent):
        angle, radius = 2 * math.pi * i / len(percent), 70 + gain * value
        points.append(f"{radius * math.cos(angle):.1f},{-radius * math.sin(angle):.1f}")
    return (
        '<svg viewBox="-104 -104 208 208" role="img" aria-label="The fitted distortion, enlarged">'
        '<circle r="70" class="ideal"/>'
        f'<polygon points="{" ".join(points)}" class="fit"/></svg>'
    )


def damaged(path: str) -> Image.Image:
    """A picture bent by a few random waves of some percent, with a spot of paint."""
    import torch
    from PIL import Image, ImageDraw

    from ..media import on_white
    from ..postprocess import RadialScale
    from ..postprocess.radial_scale import warp

    with Image.open(path, formats=("PNG",)) as image:
        picture = on_white(image)
    waves = torch.zeros(1, 1, 2, 4)
    waves[..., 1:] = torch.randn(1, 1, 2, 3) * torch.tensor([0.035, 0.02, 0.012])
    bent = to_image(warp(to_tensor(picture), RadialScale(waves)))
    draw = ImageDraw.Draw(bent)
    x, y, r = bent.width * 0.62, bent.height * 0.3, bent.width * 0.035
    draw.ellipse((x - r, y - r, x + r, y + r), fill="#f2c14e")
    return bent
