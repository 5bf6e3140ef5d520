"""Files that are there whole or not at all, and the recipe that pictures, films and drawings carry with them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECIPE_KEY = "sharingan"  # keyword of a PNG's text chunk, key in other files' comments, id of an SVG's metadata
DESCRIPTION = 0x010E  # EXIF's tag ImageDescription, where a WebP has its comment
MOST_SVG = 2**24  # bytes of an SVG that are read


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside `path` for a new file, which takes its place when the block ends; where the block fails, it is removed.

    Raises:
        OSError: the file cannot be put in its place.
    """
    path = Path(path)
    # Unlike one of tempfile's, this file gets the permissions that the user gives to new files.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def to_text(recipe: dict[str, Any]) -> str:
    """A recipe as JSON, in ASCII.

    Raises:
        ValueError, TypeError: it cannot be written as JSON.
    """
    return json.dumps(recipe, allow_nan=False)


def to_comment(recipe: dict[str, Any] | None) -> str:
    """The same, marked as a recipe, for places where files keep any comment; "" for none."""
    return "" if recipe is None else to_text({RECIPE_KEY: recipe})


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The recipe in a file that write_png, write_video, write_animation or write_svg wrote; None where there is none.

    Raises:
        OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        try:
            if head[4:8] == b"ftyp":
                recipe = _from_comment(_video_comment(file))
            elif head.startswith(b"\x89PNG"):
                recipe = json.loads(_picture(file, "PNG").info[RECIPE_KEY])
            elif head.startswith(b"GIF8"):
                recipe = _from_comment(_picture(file, "GIF").info["comment"])
            elif head.startswith(b"RIFF") and head.endswith(b"WEBP"):
                recipe = _from_comment(_picture(file, "WEBP").getexif()[DESCRIPTION])
            else:
                recipe = _svg_recipe(file)
        except Exception:  # damaged files make Pillow raise nearly anything
            return None
    return recipe if isinstance(recipe, dict) else None


def _from_comment(comment: str | bytes) -> Any:
    return json.loads(comment)[RECIPE_KEY]


def _picture(file: Any, form: str) -> Any:
    from PIL import Image

    return Image.open(file, formats=(form,))


def _video_comment(file: Any) -> str:
    import av

    with av.open(file, format="mp4") as container:
        return container.metadata["comment"]


def _svg_recipe(file: Any) -> Any:
    import xml.etree.ElementTree as ET

    text = file.read(MOST_SVG).decode("utf-8")
    if "<!DOCTYPE" in text:  # it could define entities that grow without end
        return None
    for element in ET.fromstring(text).iter("{http://www.w3.org/2000/svg}metadata"):
        if element.get("id") == RECIPE_KEY:
            return json.loads(element.text or "")
    return None
