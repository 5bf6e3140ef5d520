"""The Generate tab: new emblems from seeds."""

from __future__ import annotations

import logging
import reprlib
import secrets
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ..media import write_png
from .model import SharedModel

logger = logging.getLogger(__name__)

NEW_SEED = -1
MAX_SEED = 2**32 - 1
MAX_COUNT = 16
MAX_PSI = 1.5
ORDERS: list[str | int] = ["any", 1, 2, 3, 4, 5, 6, 7, 8]
SIZES: list[int] = [256, 512, 1024, 2048]

PRESETS = {  # seed, count, order, truncation, output size
    "Three-fold, calm": [NEW_SEED, 8, 3, 0.5, 512],
    "Six-fold, wild": [NEW_SEED, 8, 6, 1.1, 512],
    "Sixteen, all orders": [NEW_SEED, 16, "any", 0.9, 512],
    "One for a poster": [NEW_SEED, 1, "any", 0.7, 2048],
}

HELP = """
A **seed** is a design: the same seed and settings always give the same picture. The first picture has the seed you set,
the others count up from it. The **order** is how often the pattern repeats around the centre. A low **truncation** keeps
to the typical, above 1 it gets wild. Open a picture to save it as a PNG.
"""


def shown(value: Any) -> str:
    """`value` as it is quoted in a sentence: at most 80 characters, whatever a caller sent."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_whole(name: str, value: Any, low: int, high: int, expected: str = "") -> int:
    """`value` as an integer from low to high; else gr.Error with one sentence: what came and what is allowed."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)  # a radio button's value may travel as text
    # The range is tested before int(): infinity and NaN fail it, and have no integer.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value != int(value):
        expected = expected or f"a whole number from {low} to {high}"
        raise gr.Error(f"{name} must be {expected}, got {shown(value)}.", print_exception=False)
    return int(value)


def draw(
    model: SharedModel, seed: Any, count: Any, order: Any, truncation_psi: Any, output_size: Any, progress: gr.Progress
) -> list[tuple[str, str]]:
    """Draw pictures and save them as PNG, each with its recipe inside.

    The values come as they are from the page or an API call, so each is checked here.

    Args:
        model: what draws.
        seed: of the first picture, the others count up from it: 0 to 2**32 - 1; -1 or None is a new one every time.
        count: how many pictures, 1 to 16.
        order: 1 to 8, or "any": each seed draws its own.
        truncation_psi: 0 to 1.5.
        output_size: 256, 512, 1024 or 2048 pixels.
        progress: shown to the visitor.

    Returns:
        Path and caption ("seed 7") of each picture.

    Raises:
        gr.Error: one sentence, on a bad value, and where the model cannot be loaded or cannot draw.
    """
    first = NEW_SEED if seed is None else check_whole("Seed", seed, NEW_SEED, MAX_SEED)
    count = check_whole("Count", count, 1, MAX_COUNT)
    if order == "any":
        order = None
    else:
        order = check_whole("Order", order, 1, 8, '"any" or a whole number from 1 to 8')
    if (
        isinstance(truncation_psi, bool)
        or not isinstance(truncation_psi, int | float)
        or not 0 <= truncation_psi <= MAX_PSI
    ):
        got = shown(truncation_psi)
        raise gr.Error(f"Truncation must be a number from 0 to {MAX_PSI}, got {got}.", print_exception=False)
    output_size = check_whole("Output size", output_size, SIZES[0], SIZES[-1], "256, 512, 1024 or 2048")
    if output_size not in SIZES:
        raise gr.Error(f"Output size must be 256, 512, 1024 or 2048, got {output_size}.", print_exception=False)

    if first == NEW_SEED:
        first = secrets.randbelow(1_000_000)  # six digits are enough to be new, and short enough to note down
    seeds = [(first + i) % (MAX_SEED + 1) for i in range(count)]
    try:
        model.pipeline()
    except Exception as error:  # a checkpoint may be missing or broken in many ways; the visitor gets the first line
        logger.exception("Cannot load the model")
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise gr.Error(f"The model cannot be loaded: {reason}", print_exception=False) from error

    from ..pipeline_sharingan import chunks  # it brings torch and diffusers, which are not waited for as the page opens

    arguments = {"truncation_psi": float(truncation_psi), "order": order, "output_size": output_size}
    # In Gradio's own folder, which it serves and clears; one folder for each call, so that file names can be plain.
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    saved: list[tuple[str, str]] = []
    parts = list(chunks(count, output_size))
    # Of one part there is no progress to show; Gradio shows the seconds then.
    for chunk in progress.tqdm(parts, unit="batches") if len(parts) > 1 else parts:
        try:
            images = model.draw(seeds=seeds[chunk], **arguments)
        except (TypeError, ValueError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        for image, its_seed in zip(images, seeds[chunk]):
            path = folder / f"sharingan-{its_seed}.png"
            write_png(image, path, {"model": model.title, **arguments, "seed": its_seed})
            saved.append((str(path), f"seed {its_seed}"))
    return saved


def tab(model: SharedModel) -> None:
    """Build the tab into the page that is open."""

    def generate(
        seed: Any = NEW_SEED,
        count: Any = 8,
        order: Any = "any",
        truncation_psi: Any = 0.7,
        output_size: Any = 512,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio finds it by this default
    ) -> list[tuple[str, str]]:
        return draw(model, seed, count, order, truncation_psi, output_size, progress)

    samples = model.samples()
    with gr.Row(elem_id="generate"):
        with gr.Column(elem_id="go"):
            button = gr.Button("Generate", variant="primary", size="lg")
        with gr.Column(elem_id="pictures") as pictures:
            gallery = gr.Gallery(
                samples,
                format="png",
                label="Emblems",
                show_label=False,
                columns=4,
                height="auto",
                object_fit="contain",
                buttons=["download", "fullscreen"],
                interactive=False,
                elem_id="gallery",
            )
        with gr.Column(elem_id="settings"):
            inputs: list[gr.components.Component] = [
                seed := gr.Number(NEW_SEED, label="Seed", info="-1 is a new one every time", precision=0),
                gr.Slider(1, MAX_COUNT, 8, step=1, label="How many"),
                gr.Radio(ORDERS, value="any", label="Order"),
                gr.Slider(0, MAX_PSI, 0.7, step=0.05, label="Truncation", info="0 typical, 1 varied, 1.5 wild"),
                gr.Radio(SIZES, value=512, label="Output size in pixels"),
            ]
        gr.on(
            [button.click, seed.submit],
            generate,
            inputs,
            gallery,
            preprocess=False,  # draw() checks the values itself and says in one sentence what is wrong
            concurrency_limit=1,  # of `generate`, whatever calls it
            api_name="generate",
            api_description="Draw emblems: PNG files, each with its seed as caption.",
        )
        if not samples:  # then draw as the page opens: there is something to see before any button is pressed
            gr.on(fn=generate, outputs=gallery, api_visibility="private")
        with pictures:
            gr.Examples(
                list(PRESETS.values()),
                inputs,
                gallery,
                generate,
                example_labels=list(PRESETS),
                run_on_click=True,
                cache_examples=False,
                preprocess=False,
                label="Or try",
                elem_id="presets",
                api_visibility="private",
            )
            gr.Markdown(HELP, elem_id="help")
