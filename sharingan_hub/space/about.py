"""The About tab: the model's card, its samples, what truncation does, and what it learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from gradio.utils import get_upload_folder

from .checks import friendly, problem
from .page import GRID_SIZE, Page, emblems, endpoint
from .recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

STRIP = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
NEAREST = 3
MAX_CARD = 2**20
# In a checkout the pictures that the Space's own models were trained on lie beside the package.
TRAINING = Path(__file__).parents[2] / "training" / "data"


def tab(page: Page) -> Callable[..., Any]:
    """Build the tab into the page that is open."""
    models = page.models

    def truncation(recipe: Any) -> list[tuple[str, str]]:
        one = replace(Recipe.read(recipe), output_size=GRID_SIZE)
        if one.found is not None:
            raise problem(
                "Truncation pulls a seed to the typical; this design was found from a picture and has no seed."
            )
        with friendly():
            drawn = models.pictures([replace(one, truncation_psi=psi) for psi in STRIP])
        return [(path, f"{psi:g}") for (path, _), psi in zip(drawn, STRIP)]

    def nearest(recipe: Any) -> list[tuple[str, str]]:
        one = replace(Recipe.read(recipe), output_size=GRID_SIZE, palette=None)
        with friendly():
            pictures = training_pictures(page, one.model)
            if not pictures:
                raise problem("This model's training pictures are not here; its card says what it was trained on.")
            ((path, _),) = models.pictures([one])
            return [(path, "chosen"), *nearest_to(path, pictures)]

    def about(model: Any) -> list[Any]:
        from ..cards import safe_card

        with friendly():
            folder = models.folder(model or "")
            file = folder / "README.md"
            text = file.read_text(encoding="utf-8", errors="replace")[:MAX_CARD] if file.is_file() else ""
            card = safe_card(text) or "This model has no card."
            samples = sorted((folder / "samples").glob("*.png")) if (folder / "samples").is_dir() else []
            # Copied: Gradio refuses to show files of the Hub's cache, and of a package that is not beneath the current folder.
            shown = [
                (save_file_to_cache(path, get_upload_folder()), path.stem)
                for path in samples
                if path.stem in ("grid", "nearest")
            ]
            return [without_pictures(card), shown]

    with gr.Row(elem_classes="split"):
        with gr.Column(elem_classes="controls", min_width=0):
            strip_button = gr.Button("What truncation does to the chosen design", size="md")
            strip = emblems([], "Truncation, from typical to wild", "strip", kind="strip")
            near_button = gr.Button("Training pictures nearest to it", size="md")
            near = emblems([], "The chosen design, and the nearest first", "near", kind="strip")
        with gr.Column(elem_classes="result", min_width=0):
            pictures = gr.Gallery(
                [], format="png", label="Samples", show_label=False, columns=1, height="auto", object_fit="contain", allow_preview=False,
                buttons=[], interactive=False, elem_id="samples",
            )  # fmt: skip
            card = gr.Markdown("", elem_id="card")

    endpoint(
        [strip_button.click], truncation, page.selected, strip, "draw", "One recipe at eight truncations, 0 to 1.5."
    )
    endpoint(
        [near_button.click], nearest, page.selected, near, "draw",
        "One recipe's picture, and the training pictures nearest to it by the project's feature network.",
    )  # fmt: skip
    endpoint(
        [],
        about,
        page.model,
        [card, pictures],
        "draw",
        "The card of a loaded model as Markdown, and its sample sheets.",
    )
    return lambda opened: opened.select(
        about, page.model, [card, pictures], api_visibility="private", concurrency_id="draw", show_progress="minimal"
    )


def without_pictures(card: str) -> str:
    """A card without its pictures, which are shown beside it, and its links within the repository."""
    return "\n".join(line for line in card.split("\n") if not line.lstrip().startswith("!["))


def training_pictures(page: Page, name: str) -> list[Path]:
    """The pictures that a model was trained on, where they lie on this disk and the model is one of the package's own."""
    from ..hub import read_json

    if not page.models.is_own(name):
        return []
    report = page.models.folder(name) / "report.json"
    named = read_json(report).get("train_data") if report.is_file() else None
    folder = TRAINING / Path(str(named)).name
    return sorted(folder.glob("*.png")) if folder.is_dir() else []


def nearest_to(path: str, pictures: list[Path]) -> list[tuple[str, str]]:
    """The training pictures nearest to a picture, each with its distance."""
    from ..features import features_of, nearest

    distances, found = nearest(features_of(pixels(Path(path))), training_features(tuple(pictures)), NEAREST)
    return [(str(pictures[i]), f"{far:.2f}") for far, i in zip(distances[0].tolist(), found[0].tolist())]


@lru_cache(maxsize=2)
def training_features(pictures: tuple[Path, ...]) -> Tensor:
    """Features of the training pictures."""
    import torch

    from ..features import features_of

    return features_of(torch.cat([pixels(path) for path in pictures]))


def pixels(path: Path) -> Tensor:
    """A picture as (1, 3, 128, 128): larger than the feature network looks at."""
    from PIL import Image

    from ..media import on_white, open_known
    from .repair import to_tensor

    with open_known(path) as image:
        return to_tensor(on_white(image).resize((128, 128), Image.Resampling.LANCZOS))
