"""The Space: one file per tab, what they share (page.py), the models (models.py), one look (style.py).

A tab is a function `tab(page)` that builds its components into the page that is open. To add one, write its file and
name it in TABS.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from threading import Thread
from typing import Any

import gradio as gr

from . import about, community, drawing, generate, interpolate, mix, repair, train
from .checks import friendly
from .models import Models
from .page import Page, settings_of
from .recipe import Recipe
from .style import HEADER

TABS = {
    "Generate": generate.tab,
    "Interpolate": interpolate.tab,
    "Mix and explore": mix.tab,
    "Repair & recolour": repair.tab,
    "From my drawing": drawing.tab,
    "Community": community.tab,
    **({"Train your own": train.tab} if train.is_available() else {}),
    "About the model": about.tab,
}

# Seconds that the page waits for its model, so that the first click is as quick as any; a slow Hub does not keep it closed.
MOST_WARMING = 10


def build_demo(model: str | None = None) -> gr.Blocks:
    """The whole page, not yet launched: `build_demo().launch(**style.LAUNCH)`.

    Args:
        model: Hub id or local folder of a checkpoint; None takes the environment variable SHARINGAN_MODEL, and where
            that is not set the embedded model.
    """
    _share_heaps()
    models = Models(model or os.environ.get("SHARINGAN_MODEL") or None)
    # Loading costs seconds, most of them imports; meanwhile the page is built.
    warming = Thread(target=models.warm_up, daemon=True)
    warming.start()
    # Files are written to Gradio's cache: every ten minutes, those that nobody has asked for in an hour go.
    with gr.Blocks(title="SharinGAN Hub", analytics_enabled=False, delete_cache=(600, 3600)) as demo:
        page = Page(models, demo)
        gr.HTML(HEADER, elem_id="header")
        page.using = gr.Markdown(community.using(page, ""), elem_id="using")
        page.build()
        with gr.Tabs() as page.tabs:
            for name, build in TABS.items():
                with gr.Tab(name, id=name) as opened:
                    on_open = build(page)
                if on_open:
                    on_open(opened)
        _on_open(demo, page)
    warming.join(MOST_WARMING)
    return demo.queue(max_size=256)


def _share_heaps() -> None:
    """Let all threads allocate from two heaps, where the C library is glibc, as MALLOC_ARENA_MAX=2 does.

    By default each thread has one of its own and keeps what its largest pictures took: under load memory went on growing to
    twice as much.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(-8, 2)  # M_ARENA_MAX


def _on_open(demo: gr.Blocks, page: Page) -> None:
    """As the page opens: pins come back from the browser, and a link shows the design that it is of."""

    def open_link(request: gr.Request) -> list[Any]:
        recipe = Recipe.from_query(dict(request.query_params))
        if recipe is None and samples:
            return [gr.skip()] * len(outputs)
        recipe = recipe or Recipe()
        if recipe.model:
            with friendly():
                recipe = Recipe.read({**recipe.to_dict(), "model": page.models.load(recipe.model)})
        used = [recipe.model, community.using(page, recipe.model)]
        settings = settings_of(recipe.to_dict()) if "seed" in request.query_params else [gr.skip()] * len(page.settings)
        return [*used, *page.present(recipe), *settings]

    hub: dict[str, Any] = {"concurrency_id": "hub", "api_visibility": "private", "show_progress": "hidden"}
    samples = page.models.samples()
    outputs = [page.model, page.using, *page.detail, *page.settings]
    opened = demo.load(open_link, None, outputs, **hub)
    page.on_present(opened)
    demo.load(page.pin_pictures, page.pins, page.pinned, **hub | {"concurrency_id": "draw"})
    if not samples:  # then draw as the page opens: there is something to see before any button is pressed
        draw = next(fn for fn in demo.fns.values() if fn.api_name == "generate")
        gr.on(fn=draw.fn, outputs=page.gallery, concurrency_id="draw", api_visibility="private")
