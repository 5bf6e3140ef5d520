"""Files of a run, each written whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from sharingan_hub.media import image_grid, write_animation, write_png

PREVIEW_ROWS = 12  # at most, in a strip
FILM_FPS = 4
EMBLEM_SEEDS, EMBLEM_COLUMNS, EMBLEM_SIZE = range(16), 8, 256


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step_????????") if (path / "progress.json").is_file())


def checkpoint_name(step: int | None) -> str:
    """Of a checkpoint's folder."""
    return "" if step is None else f"step_{step:08d}"


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the target's place on success and vanishes on failure."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(values: dict[str, Any], path: Path) -> None:
    """A JSON file, whole or not at all."""
    draft = path.with_name(f".{path.name}.tmp")
    draft.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(draft, path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all, in a folder that is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(picture, path)


def picture_grid(images: Tensor, columns: int) -> Image.Image:
    """Pictures (N,3,S,S) in [-1,1], row by row; N a multiple of columns. Pairs (N,6,S,S) stand one below the other."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    parts = pixels.unflatten(1, (-1, 3)).unflatten(0, (-1, columns))
    rows = parts.permute(0, 2, 4, 1, 5, 3)  # row, domain, y, column, x, channel
    return Image.fromarray(rows.flatten(0, 2).flatten(1, 2).numpy())


def write_previews(folder: Path, last: int, target: Path) -> None:
    """Write the rows of pictures in `folder`, one for each checkpoint up to the step `last`, as a strip and as a film.

    target: gets preview.png, of PREVIEW_ROWS at most, and training.gif, of all where they are several.
    """
    rows = [Image.open(path) for path in sorted(folder.glob("????????.png")) if int(path.stem) <= last]
    chosen = dict.fromkeys(i * (len(rows) - 1) // (PREVIEW_ROWS - 1) for i in range(PREVIEW_ROWS))
    save_picture(image_grid([rows[i] for i in chosen], columns=1), target / "preview.png")
    if len(rows) > 1:
        write_animation(rows, target / "training.gif", fps=FILM_FPS)


def emblem_grid(pipe: Any, truncation_psi: float = 0.7) -> Image.Image:
    """What a card shows of a model first: the pictures of its first seeds, in two rows."""
    drawn = pipe(seeds=EMBLEM_SEEDS, output_size=EMBLEM_SIZE, truncation_psi=truncation_psi)
    return image_grid(drawn.images, columns=EMBLEM_COLUMNS, gap=8, background="white")
