"""The Interpolate tab: pinned designs become a film, seen as it is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from .checks import friendly
from .film import EASINGS, LOOPS, MAX_SIZE, Film, render, thumbnail
from .page import DOWNLOAD, GRID_SIZE, WAIT, Page, emblems, endpoint, progress_bar, read_pins
from .recipe import SIZES, Recipe
from .snippet import film_snippet

EXAMPLES = (7, 12, 9)
PREVIEW_EVERY = 4  # frames

HELP = """
Keyframes are the designs that you have pinned in Generate. **W** lets one shape grow into the next along a smooth curve;
**Z** passes through other designs, each as clear as a seed's. Where two differ in order, wedges open or close between them;
palettes blend as they look to the eye.
"""


def tab(page: Page) -> None:
    """Build the tab into the page that is open."""
    models = page.models

    def interpolate(
        keyframes: Any,
        space: Any = "w",
        easing: Any = "smooth",
        loop: Any = "loop",
        seconds: Any = 4,
        fps: Any = 30,
        turns: Any = 0,
        size: Any = 256,
        format: Any = "mp4",
    ) -> Iterator[list[Any]]:
        film = Film.read(
            keyframes,
            space=space,
            easing=easing,
            loop=loop,
            seconds=seconds,
            fps=fps,
            turns=turns,
            size=size,
            format=format,
        )
        path = film.path(models)
        code = film_snippet(film, models)
        with friendly():
            if not path.exists():
                yield [None, gr.skip(), bar(0, film.frames), code]
                for count, image in render(film, models):
                    if count % PREVIEW_EVERY == 1:
                        yield [None, gr.Image(thumbnail(image), visible=True), bar(count, film.frames), code]
                yield [None, gr.skip(), bar(film.frames, film.frames), code]
        yield [str(path), gr.skip(), f"{film.frames} frames, {film.seconds:g} s", code]

    def play(path: Any) -> list[Any]:
        """The finished film in place of the preview."""
        path = path["path"] if isinstance(path, dict) else path
        video = str(path).endswith(".mp4")
        return [gr.Video(path if video else None, visible=video), gr.Image(None if video else path, visible=not video)]

    def start() -> list[Any]:
        return [gr.Video(None, visible=False), gr.Image(visible=True), *ready(False)]

    def ready(yes: bool = True) -> list[Any]:
        """Either a film can be made, or the one that is being made cancelled."""
        return [gr.Button(interactive=yes), gr.Button(interactive=not yes)]

    def list_pins(pins: Any, which: Any) -> list[Any]:
        """The keyframes: all pins, or the chosen ones in their order; and what can be chosen."""
        recipes = read_pins(pins)
        names = [f"{number} {recipe.title}" for number, recipe in enumerate(recipes, 1)]
        which = [name for name in which or [] if name in names]
        frames = [recipes[names.index(name)] for name in which] or recipes
        pictures = page.pin_pictures([frame.to_dict() for frame in frames])
        return [gr.Dropdown(choices=names, value=which), [frame.to_dict() for frame in frames], pictures]

    def pin_examples(pins: Any, model: str) -> list[Any]:
        kept = [*read_pins(pins), *(Recipe(seed=seed, model=model) for seed in EXAMPLES)]
        pins = [recipe.to_dict() for recipe in dict.fromkeys(kept)]
        return [pins, page.pin_pictures(pins), *list_pins(pins, None)]

    keyframes = gr.JSON([], label="keyframes", visible=False)
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            with gr.Group():
                which = gr.Dropdown(
                    [],
                    label="Keyframes, in this order",
                    info="none chosen: all pins",
                    multiselect=True,
                    elem_id="which",
                )
                space = gr.Radio(
                    [("W, shapes grow", "w"), ("Z, other designs", "z")], value="w", label="Way", elem_classes="keys"
                )
                loop = gr.Radio(list(LOOPS), value="loop", label="At the end", elem_classes="keys")
                easing = gr.Radio(list(EASINGS), value="smooth", label="Easing", elem_classes="keys")
            seconds = gr.Slider(1, 20, 4, step=0.5, label="Seconds")
            with gr.Accordion("Frames, size, turns", open=False):
                fps = gr.Slider(5, 60, 30, step=1, label="Frames per second")
                turns = gr.Slider(-8, 8, 0, step=1, label="Turns", info="by one wedge of the first design each")
                size = gr.Radio(
                    [side for side in SIZES if side <= MAX_SIZE], value=GRID_SIZE, label="Size", elem_classes="keys"
                )
                format_ = gr.Radio([("MP4", "mp4"), ("WebP", "webp")], value="mp4", label="File", elem_classes="keys")
        with gr.Column(elem_classes="result", min_width=0):
            with gr.Column(elem_classes=["stage", "early"], elem_id="stage"):
                preview = gr.Image(
                    models.samples()[0][0] if models.samples() else None,
                    format="jpeg", show_label=False, label="Preview", interactive=False, buttons=[], elem_classes="stage",
                )  # fmt: skip
                video = gr.Video(
                    visible=False, show_label=False, label="Film", autoplay=True, loop=True, interactive=False,
                    buttons=[], elem_classes="stage",
                )  # fmt: skip
            status = gr.HTML(
                "Pin two designs or more, or begin with three examples.", elem_id="status", elem_classes="early"
            )
            with gr.Row(elem_classes=["actions", "early"]):
                go = gr.Button("Make the film", variant="primary", size="md")
                cancel = gr.Button("Cancel", size="md", interactive=False, elem_id="cancel")
                save = gr.Button("Download", size="md", interactive=False, elem_id="save-film")
            frames = emblems([], "Keyframes", "keyframes", 8, kind="small")
            examples = gr.Button("Pin three examples", size="md")
            with gr.Accordion("Python", open=False):
                code = gr.Code(language="python", show_label=False, label="Python", buttons=["copy"])
            gr.Markdown(HELP, elem_classes=["hint", "late"])
    film = gr.File(visible=False)

    inputs = [keyframes, space, easing, loop, seconds, fps, turns, size, format_]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    go.click(start, None, [video, preview, go, cancel], queue=False, **private)
    made = endpoint(
        [go.click], interpolate, inputs, [film, preview, status, code], "film",
        "Film between two or more recipes (or seeds) of one model: the file comes last, previews before it.",
        show_progress="hidden",
    )  # fmt: skip
    made.success(play, film, [video, preview], **private)
    made.success(lambda: [*ready(), gr.Button(interactive=True)], None, [go, cancel, save], queue=False, **private)
    made.failure(ready, None, [go, cancel], queue=False, **private)
    stopped = cancel.click(None, cancels=[made], api_visibility="private")
    stopped = stopped.then(None, js=WAIT, api_visibility="private")
    stopped.then(lambda: [*ready(), "Stopped."], None, [go, cancel, status], queue=False, **private)
    save.click(None, film, None, js=DOWNLOAD, api_visibility="private")

    pinned = [which, keyframes, frames]
    page.pinned.change(list_pins, [page.pins, which], pinned, concurrency_id="draw", **private)
    which.input(list_pins, [page.pins, which], pinned, concurrency_id="draw", **private)
    examples.click(
        pin_examples, [page.pins, page.model], [page.pins, page.pinned, *pinned], concurrency_id="draw", **private
    )


def bar(count: int, total: int) -> str:
    """How far a film is."""
    return progress_bar(f"Frame {count} of {total}", count, total, "Frames drawn")
