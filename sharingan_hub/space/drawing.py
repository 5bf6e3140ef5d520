"""The drawing tab: a sketch or an emblem becomes a design of the model, and a design looks out of an eye."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import examples
from .checks import check_choice, check_number, check_whole, friendly, problem
from .models import MOST_SECONDS
from .page import DOWNLOAD, WAIT, Page, endpoint, progress_bar
from .recipe import MAX_ORDER, Recipe, found_text, read_order
from .repair import read_picture, save, to_image, to_tensor

MOST_STEPS = 400
KINDS = {"auto": None, "drawing": True, "picture": False}
ORDERS: list[str | int] = ["any", *range(1, MAX_ORDER + 1)]
IRIS = 0.17  # radius of an iris that is set by hand, in shorter sides
SMALLEST_IRIS, LARGEST_IRIS = 0.03, 0.6

HELP = """
The best of 192 seeds is bent, step by step, until it looks like your picture. What comes out is a design like any other: it is the
**chosen design** of this page, to be pinned, varied, mixed, animated and saved. A **drawing** gives only its shapes, a **picture** its
colours too. Fill shapes that are meant to be dark; what the model has never seen becomes the nearest emblem.
"""
EYE_HELP = """
One eye that looks at us and fills a good part of the picture; lids, lashes and highlights stay as they are. Not found? **Click in the
middle of the iris** and set its size.
"""


def tab(page: Page) -> None:
    """Build the tab into the page that is open."""
    models = page.models

    def invert(
        picture: Any, order: Any = "any", kind: Any = "auto", steps: Any = 200, model: Any = ""
    ) -> Iterator[list[Any]]:
        drawing = KINDS[check_choice("Kind", kind, tuple(KINDS))]
        number, steps = read_order(order), check_whole("Steps", steps, 1, MOST_STEPS)
        name = Recipe.read({"seed": 0, "model": model}).model
        image = read_picture(picture)
        with friendly():
            yield [gr.skip(), gr.skip(), None, None, bar(0, None)]
            before, found, target = None, None, ""
            for found in models.inversions(image, number, drawing, steps, name):
                better = before is None or found.distance < before.distance
                recipe = Recipe(found=found_text(found.latents), model=name).to_dict() if better else gr.skip()
                facts = {
                    "distance": round(found.distance, 4),
                    "order": found.order,
                    "progress": round(found.progress, 3),
                }
                target = target or save(found.target, "target")
                shown = found.image if better else gr.skip()
                yield [shown, target, recipe, facts, bar(found.progress, found.distance)]
                before = found
            assert found is not None
            one = Recipe(found=found_text(found.latents), model=name)
            ((path, _),) = models.pictures([one])
        ended = "Found" if found.progress == 1 else f"After {MOST_SECONDS} seconds this is the best"
        yield [path, target, one.to_dict(), facts, told(facts, ended)]

    def place_in_eye(eye: Any, recipe: Any, x: Any = None, y: Any = None, radius: Any = None) -> list[Any]:
        import torch

        from ..postprocess import Iris, find_iris
        from ..postprocess import place_in_eye as place

        one = Recipe.read(recipe)
        image = read_picture(eye, "The eye")
        pixels = to_tensor(image)
        width, height = image.size
        with friendly():
            if (x is None) != (y is None):
                raise problem("X and y must both be given, as shares of the picture's width and height, or neither.")
            if x is None:
                iris = find_iris(pixels)
            else:
                center = [check_number("X", x, 0, 1) * width, check_number("Y", y, 0, 1) * height]
                share = IRIS if radius is None else check_number("Radius", radius, SMALLEST_IRIS, LARGEST_IRIS)
                size = torch.tensor([share * min(width, height)])
                iris = Iris(torch.tensor([center]), size, torch.ones(1), torch.ones(1, dtype=torch.bool))
            ((path, _),) = models.pictures([one])
            emblem = to_tensor(read_picture(path))
            placed = place(pixels, emblem, iris)
            found = bool(iris.ok[0])
            facts: dict[str, Any] = {"found": found, "size": [width, height]}
            if found:
                (cx, cy), r = iris.center[0].tolist(), iris.radius[0].item()
                facts |= {"x": round(cx / width, 4), "y": round(cy / height, 4)}
                facts |= {"radius": round(r / min(width, height), 4), "confidence": round(iris.confidence[0].item(), 3)}
            return [save(to_image(placed.images), "eye", models.named(one) if found else None), facts]

    # What only the page needs

    def look(picture: Any) -> list[Any]:
        return [save(read_picture(picture), "upload"), "Ready: press Find it."]

    def ready(yes: bool = True) -> list[Any]:
        """Either a design can be looked for, or the search that is under way cancelled."""
        return [gr.Button(interactive=yes), gr.Button(interactive=not yes)]

    def present(recipe: Any) -> list[Any]:
        """The best so far becomes the page's chosen design."""
        return page.present(Recipe.read(recipe)) if recipe else [gr.skip()] * len(page.detail)

    def stopped_with(facts: Any) -> list[Any]:
        ended = told(facts, "Stopped; this is the best so far") if facts else "Stopped before anything was found."
        return [*ready(), ended]

    def settle(facts: Any) -> list[Any]:
        """Where the iris is, for the next click and the slider."""
        if not facts["found"]:
            return [None, None, gr.skip(), "<b>No iris was found.</b> Click in its middle, then set its size."]
        line = f"Iris at {facts['x']:.0%} and {facts['y']:.0%} of the picture. Click in its middle if it is somewhere else."
        return [facts["x"], facts["y"], facts["radius"], line]

    def click(facts: Any, event: gr.SelectData) -> list[float]:
        return [min(1.0, at / size) for at, size in zip(event.index, facts["size"])]

    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            picture = gr.File(
                label="A drawing or an emblem",
                file_types=["image"],
                height=150,
                elem_id="drawing",
                elem_classes="early",
            )
            with gr.Row(elem_classes=["actions", "early"]):
                go = gr.Button("Find it", size="md", variant="primary")
                cancel = gr.Button("Cancel", size="md", interactive=False, elem_id="cancel-invert")
                try_sketch = gr.Button("A sketch", size="md", elem_id="try-sketch")
            kind = gr.Radio(
                [("Find out", "auto"), ("Drawing", "drawing"), ("Picture", "picture")], value="auto", label="It is a",
                elem_classes="keys",
            )  # fmt: skip
            order = gr.Radio(ORDERS, value="any", label="Order", elem_classes=["keys", "wide-first"])
            steps = gr.Slider(20, MOST_STEPS, 200, step=20, label="Steps", info="more come nearer, and take longer")
        with gr.Column(elem_classes="result", min_width=0):
            with gr.Row(elem_classes=["pair", "early"], elem_id="inversion"):
                target, found = (
                    gr.Image(
                        format="png", label=label, interactive=False, buttons=[], elem_id=name, elem_classes="stage",
                        min_width=0,
                    )
                    for label, name in (("Yours", "yours"), ("The model's", "found"))
                )  # fmt: skip
            status = gr.HTML(
                "Upload a drawing or an emblem, or try a sketch.", elem_id="found-status", elem_classes="early"
            )
            keep = gr.Button("Vary, pin and save it", size="md", interactive=False, elem_classes="early")
            gr.Markdown(HELP, elem_classes=["hint", "late"])
    gr.Markdown("## Into an eye", elem_id="part")
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            eye = gr.File(label="An eye", file_types=["image"], height=150, elem_id="eye-upload", elem_classes="early")
            with gr.Row(elem_classes=["actions", "early"]):
                put = gr.Button("Place the design", size="md", variant="primary")
                try_eye = gr.Button("An eye", size="md", elem_id="try-eye")
            radius = gr.Slider(
                SMALLEST_IRIS, LARGEST_IRIS, IRIS, step=0.005, label="Radius of the iris", elem_id="radius"
            )
            gr.Markdown(EYE_HELP, elem_classes=["hint", "late"])
        with gr.Column(elem_classes="result", min_width=0):
            placed = gr.Image(
                format="png", show_label=False, label="The eye", interactive=False, buttons=["fullscreen"],
                elem_id="placed", elem_classes=["stage", "early"],
            )  # fmt: skip
            where = gr.HTML(
                "Upload an eye, or try one: the chosen design goes in.", elem_id="where", elem_classes="early"
            )
            save_eye = gr.Button("Download PNG", size="md", elem_id="save-eye", elem_classes="early")
    x, y = gr.Number(None, label="x", visible=False), gr.Number(None, label="y", visible=False)
    recipe, facts, iris = gr.JSON(visible=False), gr.JSON(visible=False), gr.JSON(visible=False)

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    here = private | {"queue": False}
    mending = private | {"concurrency_id": "repair", "preprocess": False}
    picture.upload(look, picture, [target, status], **mending)
    try_sketch.click(lambda: save(examples.sketch(), "sketch"), None, picture, **private).success(
        look, picture, [target, status], **mending
    )
    go.click(lambda: ready(False), None, [go, cancel], **here)
    made = endpoint(
        [go.click], invert, [picture, order, kind, steps, page.model], [found, target, recipe, facts, status], "invert",
        "Find the design that draws a picture or a drawing: its PNG, what was looked for, its recipe, how near it is; "
        "better and better ones come before.",
        show_progress="hidden",
    )  # fmt: skip
    made.failure(ready, None, [go, cancel], **here)
    stopped = cancel.click(None, cancels=[made], api_visibility="private").then(None, js=WAIT, api_visibility="private")
    stopped = stopped.then(stopped_with, facts, [go, cancel, status], **here | {"preprocess": False})
    for ended in (made.success(ready, None, [go, cancel], **here), stopped):
        shown = ended.then(present, recipe, page.detail, **private | {"concurrency_id": "draw"})
        page.on_present(shown)
        shown.then(lambda recipe: gr.Button(interactive=bool(recipe)), recipe, keep, **here)
    keep.click(lambda: gr.Tabs(selected="Generate"), None, page.tabs, **here)

    inputs, results = [eye, page.selected, x, y, radius], [placed, iris]
    settled: list[Any] = [settle, iris, [x, y, radius, where]]
    again = mending | {"show_progress": "minimal", "show_progress_on": placed}
    looked = endpoint(
        [put.click, radius.release], place_in_eye, inputs, results, "repair",
        "Place a recipe's design into the iris of an eye: a PNG, and where the iris is. x, y (of its middle) and radius are "
        "shares of width, height and shorter side; without x and y it is looked for.",
        trigger_mode="always_last", show_progress_on=placed,
    )  # fmt: skip
    looked.success(*settled, **here)
    try_eye.click(lambda: save(examples.eye(), "eye"), None, eye, **private).success(
        lambda: [None, None], None, [x, y], **here
    ).success(place_in_eye, inputs, results, **again).success(*settled, **here)
    eye.upload(lambda: [None, None], None, [x, y], **here).success(place_in_eye, inputs, results, **again).success(
        *settled, **here
    )
    placed.select(click, iris, [x, y], **here).success(place_in_eye, inputs, results, **again).success(*settled, **here)
    save_eye.click(None, placed, None, js=DOWNLOAD, api_visibility="private")


def bar(progress: float, distance: float | None) -> str:
    """How far the search is."""
    near = "Looking at seeds" if distance is None else f"{progress:.0%}, difference {distance:.3f}"
    return progress_bar(near, progress, 1, "Share of the search that is done")


def told(facts: dict[str, Any], ended: str) -> str:
    """What was found, in words."""
    order = "" if facts["order"] is None else f", order {facts['order']}"
    return f"<b>{ended}</b>{order}: difference {facts['distance']:.3f} (0 is the same, 1 is black against white)."
