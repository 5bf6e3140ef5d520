"""Pictures as files: reading strangers' ones, grids, and PNG."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sharingan_hub.media.files import RECIPE_KEY, replacing, to_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".avif", ".jp2")
# Only these decoders see a file, whatever its name says: EPS, for one, would start Ghostscript.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
# Of 0 to 9: on emblems 4 takes about 60 % of the time of Pillow's 6, for files 8 % larger.
PNG_COMPRESSION = 4


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def open_known(file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Open a picture of a known format; its pixels are not read yet.

    Raises:
        Exception: whatever Pillow raises for a file that is no picture; ValueError for one too large.
    """
    image = Image.open(file, formats=_formats())
    # Pillow itself refuses only above twice its limit.
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than Pillow's limit")
    return image


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16-bit, 32-bit or floating values as one of mode L, whole range; others as they are.

    Pillow's own conversion would cut those values off at 255.
    """
    import numpy as np

    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    # In place: a stranger's picture may have 24 million pixels.
    values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False, posinf=0, neginf=0)
    top = float(values.max(initial=0))
    full = 65535.0 if image.mode != "F" else 1.0 if top <= 1 else 255.0
    values *= 255 / max(full, top)
    values += 0.5
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """A new picture of mode RGB: a transparent one as it looks on white, one of more than eight bits as eight_bits has it."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = eight_bits(image)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def image_grid(
    images: Sequence[Image.Image],
    columns: int | None = None,
    gap: int = 0,
    background: str | tuple[int, int, int] = "white",
) -> Image.Image:
    """Lay pictures of one size out in rows, left to right, then down.

    Args:
        images: one or more pictures; transparent ones show the background.
        columns: pictures in a row; None makes the grid as square as it can be.
        gap: pixels between pictures, not around them.
        background: colour of gaps and of cells left over, as Pillow understands it.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no pictures, pictures of different sizes, or a number out of range.
    """
    if not images:
        raise ValueError("images must hold at least one picture, got none")
    width, height = images[0].size
    for image in images:
        if image.size != (width, height):
            raise ValueError(
                f"images must all be of one size, got {width} x {height} and {image.width} x {image.height}"
            )
    if columns is None:
        columns = math.ceil(math.sqrt(len(images)))
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, got {columns}")
    if gap < 0:
        raise ValueError(f"gap must be 0 pixels or more, got {gap}")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    size = (columns * (width + gap) - gap, rows * (height + gap) - gap)
    grid = Image.new("RGB", size, background)
    for i, image in enumerate(images):
        corner = (i % columns * (width + gap), i // columns * (height + gap))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            grid.paste(image, corner, image)
        else:
            grid.paste(image, corner)
    return grid


def write_png(image: Image.Image, path: str | os.PathLike[str], recipe: dict[str, Any] | None = None) -> None:
    """Write a PNG; what stands at `path` is at any moment the whole old file or the whole new one.

    Args:
        image: what to write.
        path: where to; its folder exists.
        recipe: how the picture was made, of JSON's types; read_recipe gives it back.

    Raises:
        ValueError, TypeError: the recipe cannot be written as JSON.
        OSError: the file cannot be written.
    """
    text = PngInfo()
    if recipe is not None:
        text.add_text(RECIPE_KEY, to_text(recipe))
    with replacing(path) as temporary, temporary.open("wb") as file:
        image.save(file, "PNG", pnginfo=text, compress_level=PNG_COMPRESSION)
