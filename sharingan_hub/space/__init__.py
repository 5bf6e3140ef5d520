"""The Space: one file per tab, one model that they share (model.py), one look (style.py).

A tab is a function `tab(model)` that builds its components into the page that is open. To add one, write its file and
name it in TABS.
"""

from __future__ import annotations

import os
from threading import Thread

import gradio as gr

from . import generate
from .model import SharedModel
from .style import HEADER

TABS = {"Generate": generate.tab}


def build_demo(model: str | None = None) -> gr.Blocks:
    """The whole page, not yet launched: `build_demo().launch(**style.LAUNCH)`.

    Args:
        model: Hub id or local folder of a checkpoint; None takes the environment variable SHARINGAN_MODEL, and where
            that is not set the embedded model.
    """
    shared = SharedModel(model or os.environ.get("SHARINGAN_MODEL") or None)
    # Loading costs seconds, most of them imports; meanwhile the page opens and shows the checkpoint's samples.
    Thread(target=shared.warm_up, daemon=True).start()
    # Pictures are written to Gradio's cache: every hour, those older than six hours go.
    with gr.Blocks(title="SharinGAN Hub", analytics_enabled=False, delete_cache=(3600, 6 * 3600)) as demo:
        gr.HTML(HEADER, elem_id="header")
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(shared)
    return demo.queue(max_size=64)
