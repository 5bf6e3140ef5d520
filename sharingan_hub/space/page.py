"""What the tabs share: the model in use, the design that is looked at, the visitor's pins, and how a design is shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from ..media import read_recipe
from .checks import friendly
from .models import Models
from .recipe import Recipe
from .snippet import snippet

DETAIL_SIZE = 512  # pixels of the picture that is looked at
GRID_SIZE = 256
MAX_PINS = 24

# What only the browser can do: hand over a file, say where the page is, bring the chosen design into view.
DOWNLOAD = """(file) => { if (!file) return;
  const link = Object.assign(document.createElement("a"), {href: file.url, download: file.orig_name || ""});
  document.body.append(link); link.click(); link.remove(); }"""
LINK = """(query) => query ? location.origin + location.pathname + "?" + query
  : "Found from a picture, so too long for a link: send its PNG or SVG, which opens here when it is dropped below." """
TO_DETAIL = """() => { const detail = document.getElementById("detail");
  if (detail && innerWidth < 1100) detail.scrollIntoView({behavior: "smooth", block: "nearest"}); }"""

# Gradio cancels by visitor and action: what is begun again before it has done so would be cancelled too. What was under way
# has arrived by then, and does not write over what is shown next.
WAIT = "() => new Promise((done) => setTimeout(done, 1500))"


@dataclass
class Page:
    """Components that more than one tab uses. Each lives in the visitor's browser, so no visitor sees another's."""

    models: Models
    demo: gr.Blocks
    model: gr.Textbox = field(init=False)  # name of the model in use; "" is the Space's own
    selected: gr.JSON = field(init=False)  # recipe of the design that is looked at
    pins: gr.BrowserState = field(init=False)  # recipes, kept in the browser
    pinned: gr.Gallery = field(init=False)
    detail: list[Any] = field(init=False)  # what `present` fills
    settings: list[Any] = field(init=False)  # what `settings_of` fills
    gallery: gr.Gallery = field(init=False)
    using: gr.Markdown = field(init=False)  # says which model draws
    tabs: gr.Tabs = field(init=False)
    link: gr.Textbox = field(init=False)
    loaded: gr.Textbox = field(init=False)  # a model's name, which after `on_loaded` is in use
    on_loaded: Callable[[Any], None] = field(init=False)

    def build(self) -> None:
        """Put the invisible ones into the page that is open."""
        self.model = gr.Textbox("", label="model", visible=False, elem_id="model")
        self.selected = gr.JSON(Recipe().to_dict(), label="recipe", visible=False)
        self.pins = gr.BrowserState([], storage_key="sharingan-pins", secret="sharingan-pins")

    def present(self, recipe: Recipe) -> list[Any]:
        """Values of `detail` for a design: recipe, picture, title, recipe text, query of its link, Python code."""
        with friendly():
            ((path, _),) = self.models.pictures([replace(recipe, output_size=DETAIL_SIZE)])
        named = self.models.named(recipe)
        return [recipe.to_dict(), path, heading(recipe), pretty(named), recipe.to_query(), snippet(recipe, self.models)]

    def on_present(self, event: Any) -> Any:
        """After an event that fills `detail`: the link gets its address."""
        return event.then(None, self.query, self.link, js=LINK, show_progress="hidden", api_visibility="private")

    def pin_pictures(self, pins: Any) -> list[tuple[str, str]]:
        """Pictures of the pinned designs; those of models that are not loaded here are left out."""
        recipes = []
        for pin in read_pins(pins):
            try:
                self.models.pipeline(pin.model)
            except Exception:  # the pin stays, until its model is there again
                continue
            recipes.append(replace(pin, output_size=GRID_SIZE))
        with friendly():
            return self.models.pictures(recipes)

    def recipe_of(self, picture: tuple[str, str | None]) -> Recipe:
        """The recipe of a picture in a gallery: it is in the file, or, of a sample, its seed is in the caption."""
        path, caption = picture
        found = read_recipe(path)
        if found is None:
            seed = (caption or "").rpartition(" ")[2]
            found = {"seed": seed if seed.isdecimal() else 0}
        if found.get("model") == self.models.title:
            found = {**found, "model": ""}
        return replace(Recipe.read(found), output_size=DETAIL_SIZE)

    @property
    def query(self) -> Any:
        return self.detail[4]


def read_pins(pins: Any) -> list[Recipe]:
    """Pins as they come from the browser, where anything may stand: those that are recipes."""
    recipes = []
    for pin in pins[:MAX_PINS] if isinstance(pins, list) else []:
        try:
            recipes.append(Recipe.read(pin))
        except gr.Error:
            continue
    return recipes


def settings_of(recipe: Any) -> list[Any]:
    """Values of `settings` for a design."""
    one = Recipe.read(recipe)
    seed = gr.skip() if one.found else one.seed
    return [
        seed,
        one.order or "any",
        one.truncation_psi,
        one.palette or "own",
        one.circularize,
        one.symmetry or 0,
        one.class_label,
    ]


def heading(recipe: Recipe) -> str:
    """A design's name above its buttons."""
    order = "" if recipe.order is None else f" · order {recipe.order}"
    palette = "" if recipe.palette is None else f" · {recipe.palette}"
    return f"## {recipe.title}{order}{palette}"


def progress_bar(text: str, value: float, most: float, what: str = "") -> str:
    """How far a piece of work is, to be seen and heard. what: its name for screen readers, where `text` is none."""
    name = f' aria-label="{what}"' if what else ""
    return f'<label class="bar">{text}<progress max="{most:g}" value="{value:g}"{name}></progress></label>'


def pretty(value: Any) -> str:
    """JSON to be read."""
    return json.dumps(value, indent=2)


def emblems(value: Any, label: str, name: str, columns: int = 4, show_label: bool = True, kind: str = "") -> gr.Gallery:
    """A shelf of round pictures, each of which can be clicked.

    Args:
        name: its id in the page.
        kind: "small" or "strip", as style.css knows them.
    """
    return gr.Gallery(
        value,
        label=label,
        show_label=show_label,
        format="png",
        columns=columns,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        buttons=[],
        interactive=False,
        elem_id=name,
        elem_classes=["emblems", kind],
    )


def download(event: Any, file: gr.components.Component) -> Any:
    """After an event: hand the file that it made to the visitor."""
    return event.success(None, file, None, js=DOWNLOAD, show_progress="hidden", api_visibility="private")


def endpoint(
    triggers: Sequence[Callable[..., Any]],
    fn: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    lane: str,
    about: str,
    **more: Any,
) -> Any:
    """An action of the page that is an API endpoint of the same name: /fn.

    Args:
        lane: actions of one lane wait for one another, and for none of another lane.
        about: what the API's documentation says.
    """
    settings = {
        "concurrency_id": lane,
        "concurrency_limit": LANES[lane],
        "api_name": fn.__name__,
        "api_description": about,
        "preprocess": False,  # values are checked by the functions, which say in one sentence what is wrong
    }
    return gr.on(list(triggers), fn, inputs, outputs, **settings | more)


# How many of a lane's actions run at once. A film, a search or a download never keeps anybody from drawing.
LANES = {"draw": 2, "film": 1, "invert": 1, "repair": 1, "hub": 2, "train": 1, "stop": 8}
