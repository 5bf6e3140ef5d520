"""The Mix and explore tab: styles of one design on another, layer by layer, and the model's own principal directions."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from .checks import check_number, friendly, problem, shown
from .generate import NEW_SEEDS
from .models import directions_of
from .page import DETAIL_SIZE, GRID_SIZE, Page, emblems, endpoint
from .recipe import DIRECTIONS, LAYERS, MAX_MOVE, Recipe
from .snippet import snippet

SOURCES = 8
REACH = 3.0  # standard deviations at the ends of the sliders

HELP = """
Choose which **layers** to take, then click a source: its shape (coarse, middle, fine), rings or colours come over, the rest
stays. The **directions** are those along which the model's own weights change a picture most (SeFa), strongest first, in
standard deviations.
"""


def tab(page: Page) -> Callable[..., Any]:
    """Build the tab into the page that is open."""
    models = page.models

    def answer(recipe: Recipe, size: int = DETAIL_SIZE) -> list[Any]:
        recipe = replace(recipe, output_size=size)
        with friendly():
            ((path, _),) = models.pictures([recipe])
        return [path, recipe.to_dict()]

    def mix(recipe: Any, source: Any, layers: Any = ("middle", "fine")) -> list[Any]:
        one = Recipe.read(recipe)
        other = Recipe.read({"seed": source} if not isinstance(source, dict) else source)
        if other.found is not None:
            raise problem("The source of a style must be a seed, and this design was found from a picture.")
        if not isinstance(layers, list | tuple) or not layers or any(layer not in LAYERS for layer in layers):
            raise problem(f"Layers must be some of {', '.join(LAYERS)}, got {shown(layers)}.")
        with friendly():
            known = known_layers(page, one.model)
        if not known:
            raise problem("One style decides this model's whole picture: it has no layers to mix. Its directions work.")
        styles = {**dict(one.styles), **{layer: other.seed for layer in layers if layer in known}}
        return answer(Recipe.read({**one.to_dict(), "styles": styles}))

    def explore(
        recipe: Any, one: Any = 0, two: Any = 0, three: Any = 0, four: Any = 0, five: Any = 0, six: Any = 0
    ) -> list[Any]:
        moves = (one, two, three, four, five, six)
        far = [check_number("A direction", 0 if move is None else move, -MAX_MOVE, MAX_MOVE) for move in moves]
        return answer(replace(Recipe.read(recipe), moves=tuple(far) if any(far) else ()), GRID_SIZE)

    # What only the page needs

    def begin(selected: Any) -> list[Any]:
        """Start from the design that is looked at."""
        one = Recipe.read(selected)
        moves = [*one.moves, *[0.0] * DIRECTIONS][:DIRECTIONS]
        with friendly():
            known = known_layers(page, one.model)
        return [*answer(one), *moves, gr.CheckboxGroup(choices=known, value=known[1:3])]

    def sources(model: str, first: int | None = None) -> list[tuple[str, str]]:
        first = secrets.randbelow(NEW_SEEDS) if first is None else first
        with friendly():
            return models.pictures([Recipe(seed=first + i, output_size=GRID_SIZE, model=model) for i in range(SOURCES)])

    def first_sources(selected: Any) -> list[tuple[str, str]]:
        model = Recipe.read(selected).model
        with friendly():
            directions_of(models.pipeline(model))  # so that a slider's first step is as quick as the next
        return sources(model, 0)

    def take(design: Any, pictures: Any, layers: Any, event: gr.SelectData) -> list[Any]:
        return mix(design, page.recipe_of(pictures[event.index]).to_dict(), layers)

    def reset(design: Any) -> list[Any]:
        return [*answer(replace(Recipe.read(design), styles=(), moves=())), *[0.0] * DIRECTIONS]

    def sharpen(design: Any) -> list[Any]:
        """Once a slider is let go of: the picture in full."""
        return answer(Recipe.read(design))

    design = gr.JSON(Recipe().to_dict(), label="recipe", visible=False)
    source = gr.Number(0, label="source", visible=False)
    samples = models.samples()
    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            layers = gr.CheckboxGroup(
                list(LAYERS), value=["middle", "fine"], label="Take from the source", elem_id="layers"
            )
            shelf = emblems(samples, "Sources", "sources", show_label=False)
            fresh = gr.Button("Other sources", size="md")
            with gr.Group():
                sliders = [
                    gr.Slider(-REACH, REACH, 0, step=0.1, label=f"Direction {i}", elem_classes="direction")
                    for i in range(1, DIRECTIONS + 1)
                ]
        with gr.Column(elem_classes="result", min_width=0):
            picture = gr.Image(
                samples[0][0] if samples else None, format="png", show_label=False, label="Mixed design",
                interactive=False, buttons=["fullscreen"], elem_id="mixed", elem_classes=["stage", "early"],
            )  # fmt: skip
            with gr.Row(elem_classes=["actions", "early"]):
                again = gr.Button("Chosen design", size="md")
                clear = gr.Button("Undo all", size="md")
                keep = gr.Button("Take to Generate", size="md", variant="primary")
            with gr.Accordion("Python", open=False):
                code = gr.Code(language="python", show_label=False, label="Python", buttons=["copy"])
            gr.Markdown(HELP, elem_classes=["hint", "late"])

    live: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last"}
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "draw", "show_progress": "hidden"}
    result = [picture, design]

    def starting(trigger: Callable[..., Any]) -> Any:
        """Start from the chosen design. Its recipe is taken over in the browser, or what is done meanwhile would be done to
        the design before; sources, the slow part, come last and touch nothing else."""
        trigger(None, page.selected, design, js="chosen => chosen", api_visibility="private")
        begun = trigger(begin, page.selected, [*result, *sliders, layers], **private)
        begun.success(first_sources, page.selected, shelf, **private)
        return begun

    endpoint(
        [], mix, [design, source, layers], result, "draw", "Styles of another seed in some layers of a recipe's design."
    )
    changed = [
        endpoint(
            [slider.input for slider in sliders],
            explore,
            [design, *sliders],
            result,
            "draw",
            "Move a recipe's design along the model's six principal directions, in standard deviations.",
            **live,
        ),  # fmt: skip
        gr.on([slider.release for slider in sliders], sharpen, design, result, **private),
        shelf.select(take, [design, shelf, layers], result, **private),
        clear.click(reset, design, [*result, *sliders], **private),
        starting(again.click),
    ]
    for event in changed:
        event.success(
            lambda recipe: snippet(Recipe.read(recipe), models),
            design,
            code,
            queue=False,
            **{**private, "concurrency_id": None},
        )
    fresh.click(sources, page.model, shelf, **private)
    kept = keep.click(
        lambda recipe: page.present(replace(Recipe.read(recipe), output_size=DETAIL_SIZE)),
        design,
        page.detail,
        **private,
    )
    page.on_present(kept)
    kept.then(lambda: gr.Tabs(selected="Generate"), None, page.tabs, queue=False, **{**private, "concurrency_id": None})
    return lambda opened: starting(opened.select)


def known_layers(page: Page, model: str) -> list[str]:
    """The layers that a model has."""
    from ..latents import layer_ranges

    return list(layer_ranges(page.models.pipeline(model).generator_model))
