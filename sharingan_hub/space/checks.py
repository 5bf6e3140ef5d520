"""What a visitor or an API client sent, checked: every problem becomes one friendly sentence in the page."""

from __future__ import annotations

import logging
import math
import re
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)

# Folders before a file's name: of no use to a visitor, and nobody else's business.
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[\w.@+-]+/)+")


def problem(sentence: str) -> gr.Error:
    """The error that shows a visitor one sentence and nothing of the server."""
    return gr.Error(sentence, print_exception=False)


@contextmanager
def friendly() -> Iterator[None]:
    """What goes wrong inside becomes one sentence: the library's own, or a general one for what nobody foresaw."""
    from ..hub import HubError

    try:
        yield
    except gr.Error:
        raise
    except (HubError, ValueError, TypeError) as error:
        text = FOLDERS.sub("", str(error).strip().partition("\n")[0])
        raise problem(text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")) from error
    except Exception as error:
        logger.exception("A request failed")
        raise problem("Something went wrong here. Nothing of yours is lost; please try again.") from error


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
        raise problem(f"{name} must be {expected}, got {shown(value)}.")
    return int(value)


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a float from low to high."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and low <= value <= high)
    ):
        raise problem(f"{name} must be a number from {low:g} to {high:g}, got {shown(value)}.")
    return float(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`, if it is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise problem(f"{name} must be one of {', '.join(choices)}, got {shown(value)}.")
    return value


def check_flag(name: str, value: Any) -> bool:
    """`value`, if it is true or false; None is false."""
    if value is not None and not isinstance(value, bool):
        raise problem(f"{name} must be true or false, got {shown(value)}.")
    return bool(value)
