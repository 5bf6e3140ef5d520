"""The Generate tab: new emblems from seeds, one of them looked at closely, and all that can be done with it."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import gradio as gr

from ..media import read_recipe
from .checks import check_flag, check_number, check_whole, friendly, problem
from .film import render, spinning
from .page import (
    DETAIL_SIZE,
    GRID_SIZE,
    MAX_PINS,
    TO_DETAIL,
    Page,
    download,
    emblems,
    endpoint,
    heading,
    pretty,
    read_pins,
    settings_of,
)
from .recipe import (
    MAX_ORDER,
    MAX_PSI,
    MAX_SEED,
    PALETTES,
    SIZES,
    Recipe,
    read_class,
    read_order,
    read_palette,
    read_size,
)
from .snippet import snippet

NEW_SEED = -1
NEW_SEEDS = 10**6  # numbers that can be told to somebody else
MAX_COUNT = 16
VARIATIONS = 7  # beside the design itself
ORDERS: list[str | int] = ["any", *range(1, MAX_ORDER + 1)]

HELP = """
A **seed** is a design: the same seed and settings always give the same picture. **Order** is how often the pattern repeats
around the centre. A low **truncation** keeps to the typical; above 1 it gets wild.
"""


def tab(page: Page) -> None:
    """Build the tab into the page that is open."""
    models = page.models

    def generate(
        seed: Any = NEW_SEED,
        count: Any = 8,
        order: Any = "any",
        truncation_psi: Any = 0.7,
        output_size: Any = GRID_SIZE,
        palette: Any = "own",
        circularize: Any = False,
        symmetry: Any = 0,
        model: Any = "",
        class_label: Any = None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by this default
    ) -> list[tuple[str, str]]:
        first = NEW_SEED if seed is None else check_whole("Seed", seed, NEW_SEED, MAX_SEED)
        count = check_whole("Count", count, 1, MAX_COUNT)
        first = secrets.randbelow(NEW_SEEDS) if first == NEW_SEED else first
        one = Recipe.read({"seed": first, "model": model})
        one = adjusted(one, order, truncation_psi, palette, circularize, symmetry, class_label)
        one = replace(one, output_size=read_size(output_size))
        with friendly():
            return models.pictures([replace(one, seed=(first + i) % (MAX_SEED + 1)) for i in range(count)], progress)

    def vary(recipe: Any, strength: Any = 0.35) -> list[tuple[str, str]]:
        one = replace(Recipe.read(recipe), output_size=GRID_SIZE)
        far = check_number("Strength", strength, 0, 1)
        # From a variation it goes on to others of the same seed, farther or nearer.
        others = [secrets.randbelow(NEW_SEEDS) for _ in range(VARIATIONS)]
        varied = [replace(one, variation=other, strength=far) for other in others]
        with friendly():
            return models.pictures([one, *varied])

    def draw(recipe: Any, output_size: Any = DETAIL_SIZE) -> str:
        with friendly():
            ((path, _),) = models.pictures([replace(Recipe.read(recipe), output_size=read_size(output_size))])
        return path

    def svg(recipe: Any) -> str:
        with friendly():
            return str(models.svg(Recipe.read(recipe)))

    def spin(recipe: Any) -> str:
        with friendly():
            film = spinning(Recipe.read(recipe))
            path = film.path(models)
            if not path.exists():
                for _ in render(film, models):
                    pass
        return str(path)

    def restore(picture: Any) -> dict[str, Any]:
        path = picture.get("path") if isinstance(picture, dict) else None
        with friendly():
            found = read_recipe(path) if path else None
        if found and "film" in found:
            keyframes = found["film"].get("keyframes") if isinstance(found["film"], dict) else None
            found = keyframes[0] if isinstance(keyframes, list) and keyframes else None
        if not isinstance(found, dict):
            raise problem(
                "No recipe in this file. PNG and SVG files made here carry one, unless another program has saved them since."
            )
        if found.get("model") == models.title:
            found = {**found, "model": ""}
        return Recipe.read(found).to_dict()

    # What only the page needs

    def show(recipe: Any, size: Any) -> list[Any]:
        return page.present(replace(Recipe.read(recipe), output_size=read_size(size)))

    def pick(pictures: Any, size: Any, event: gr.SelectData) -> list[Any]:
        if not pictures or not 0 <= event.index < len(pictures):
            raise problem("This picture is no longer there; please choose another.")
        return page.present(replace(page.recipe_of(pictures[event.index]), output_size=read_size(size)))

    def first_of(pictures: Any, size: Any) -> list[Any]:
        return page.present(replace(page.recipe_of(pictures[0]), output_size=read_size(size)))

    def redraw(
        pictures: Any,
        selected: Any,
        order: Any,
        psi: Any,
        palette: Any,
        round_: Any,
        symmetry: Any,
        class_label: Any,
        size: Any,
    ) -> list[Any]:
        changes = (order, psi, palette, round_, symmetry, class_label)
        grid = [replace(adjusted(page.recipe_of(one), *changes), output_size=GRID_SIZE) for one in pictures or []]
        with friendly():
            drawn = models.pictures(grid)
        return [drawn, *page.present(replace(adjusted(Recipe.read(selected), *changes), output_size=read_size(size)))]

    def pin(pins: Any, selected: Any) -> list[Any]:
        kept, one = read_pins(pins), replace(Recipe.read(selected), output_size=DETAIL_SIZE)
        if one in kept:
            kept.remove(one)
            gr.Info("Unpinned.", duration=2)
        elif len(kept) >= MAX_PINS:
            raise problem(f"There is room for {MAX_PINS} pins. Unpin one first: choose it and press Pin again.")
        else:
            kept.append(one)
        return [[recipe.to_dict() for recipe in kept], page.pin_pictures([recipe.to_dict() for recipe in kept])]

    def resize(recipe: Any, size: Any) -> list[Any]:
        one = replace(Recipe.read(recipe), output_size=read_size(size))
        return [one.to_dict(), pretty(models.named(one)), one.to_query(), snippet(one, models)]

    samples = models.samples()
    start = Recipe(seed=page.recipe_of(samples[0]).seed if samples else 0)
    with gr.Row(elem_id="generate"):
        with gr.Column(elem_id="go", min_width=0):
            button = gr.Button("Generate", variant="primary", size="lg")
        with gr.Column(elem_id="settings", min_width=0):
            order = gr.Radio(ORDERS, value="any", label="Order", elem_classes="keys")
            psi = gr.Slider(0, MAX_PSI, 0.7, step=0.05, label="Truncation")
            palette = gr.Radio(["own", *PALETTES], value="own", label="Palette", elem_classes="swatches")
            with gr.Accordion("Seed, number, repairs", open=False):
                seed = gr.Number(NEW_SEED, label="Seed", info="-1 is a new one every time", precision=0)
                count = gr.Slider(1, MAX_COUNT, 8, step=1, label="How many")
                circularize = gr.Checkbox(False, label="Make round", info="for models that draw pixels")
                symmetry = gr.Slider(0, MAX_ORDER, 0, step=1, label="Make symmetric", info="0: leave as it is")
                class_label = gr.Number(None, label="Class", info="of a model with classes, from 0 on", precision=0)
            output_size = gr.Number(GRID_SIZE, visible=False)
        with gr.Column(elem_id="pictures", min_width=0):
            gallery = emblems(samples, "Emblems", "gallery", show_label=False)
            with gr.Row(elem_id="vary"):
                strength = gr.Slider(0, 1, 0.35, step=0.05, label="How different", scale=3, min_width=140)
                vary_button = gr.Button("Vary the chosen one", size="md", scale=2, min_width=180)
            pinned = emblems([], "Pinned, kept in this browser", "pinned", 8, kind="small")
            gr.Markdown(HELP, elem_id="help")
        with gr.Column(elem_id="detail", min_width=0):
            picture = gr.Image(
                samples[0][0] if samples else None,
                format="png",
                label="Chosen design",
                show_label=False,
                buttons=["fullscreen"],
                interactive=False,
                elem_id="picture",
            )
            title = gr.Markdown(heading(start), elem_id="title")
            with gr.Row(elem_classes="actions"):
                pin_button = gr.Button("Pin", size="md", elem_id="pin", min_width=60)
                png_button = gr.Button("PNG", size="md", min_width=60)
                svg_button = gr.Button("SVG", size="md", min_width=60)
                spin_button = gr.Button("Spin", size="md", min_width=60)
            size = gr.Radio(list(SIZES), value=DETAIL_SIZE, label="Size of the PNG in pixels", elem_classes="keys")
            with gr.Accordion("Recipe, link, Python", open=False):
                link = gr.Textbox(label="Link to this design", buttons=["copy"], interactive=False, elem_id="link")
                recipe_text = gr.Code(
                    pretty(models.named(start)), language="json", label="Recipe", elem_id="recipe", buttons=["copy"]
                )
                code = gr.Code(
                    snippet(start, models), language="python", label="Python", elem_id="python", buttons=["copy"]
                )
            dropped = gr.File(
                label="Drop a PNG or SVG made here to restore it",
                file_types=["image"],
                height=140,
                elem_id="restore",
            )
            query = gr.Textbox(start.to_query(), visible=False)
            file = gr.File(visible=False)
    page.gallery, page.pinned, page.link = gallery, pinned, link
    page.detail = [page.selected, picture, title, recipe_text, query, code]
    page.settings = [seed, order, psi, palette, circularize, symmetry, class_label]
    inputs = [seed, count, order, psi, output_size, palette, circularize, symmetry, page.model, class_label]
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "draw", "show_progress": "minimal"}

    drawn = endpoint(
        [button.click, seed.submit], generate, inputs, gallery, "draw",
        "Draw emblems from seeds that count up: PNG files, each with its seed as caption and its recipe inside.",
    )  # fmt: skip
    page.on_present(drawn.success(first_of, [gallery, size], page.detail, **private))
    endpoint(
        [vary_button.click], vary, [page.selected, strength], gallery, "draw",
        "Draw a design and seven variations around it; strength is how far they go, 0 to 1.",
    )  # fmt: skip
    made = endpoint(
        [png_button.click], draw, [page.selected, size], file, "draw",
        "Draw one recipe at 256, 512, 1024 or 2048 pixels: a PNG with the recipe inside.",
    )  # fmt: skip
    download(made, file)
    made = endpoint(
        [svg_button.click], svg, [page.selected], file, "draw", "Draw one recipe as an SVG of few clean paths."
    )
    download(made, file)
    made = endpoint(
        [spin_button.click], spin, [page.selected], file, "film", "Animate one recipe turning: a WebP that loops."
    )
    download(made, file)
    made.success(lambda path: path, file, picture, **private)
    restored = endpoint(
        [dropped.upload], restore, [dropped], page.selected, "draw",
        "Read the recipe of a PNG, SVG, WebP or MP4 that was made here.",
    )  # fmt: skip
    restored = restored.success(settings_of, page.selected, page.settings, **private)
    page.on_present(restored.success(show, [page.selected, size], page.detail, **private))

    for shelf in (gallery, pinned):
        chosen = shelf.select(pick, [shelf, size], page.detail, **private)
        page.on_present(chosen)
        chosen.then(None, None, None, js=TO_DETAIL, api_visibility="private")
    page.on_present(
        gr.on(
            [order.input, psi.input, palette.input, circularize.input, symmetry.input, class_label.submit],
            redraw,
            [gallery, page.selected, order, psi, palette, circularize, symmetry, class_label, size],
            [gallery, *page.detail],
            trigger_mode="always_last",
            **private,
        )
    )
    page.on_present(
        size.input(
            resize,
            [page.selected, size],
            [page.selected, recipe_text, query, code],
            queue=False,
            api_visibility="private",
        )
    )
    pin_button.click(pin, [page.pins, page.selected], [page.pins, pinned], **private)


def adjusted(
    recipe: Recipe, order: Any, psi: Any, palette: Any, circularize: Any, symmetry: Any, class_label: Any
) -> Recipe:
    """A recipe with the settings of the tab, each checked."""
    return replace(
        recipe,
        order=read_order(order),
        truncation_psi=check_number("Truncation", psi, 0, MAX_PSI),
        palette=read_palette(palette),
        circularize=check_flag("Circularize", circularize),
        symmetry=check_whole("Symmetry", 0 if symmetry is None else symmetry, 0, MAX_ORDER) or None,
        class_label=read_class(class_label),
    )
