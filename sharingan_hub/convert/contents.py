"""What a foreign checkpoint holds, in a few lines, before anybody converts it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sharingan_hub.checkpoints.strict import printable
from sharingan_hub.convert.foreign import Record
from sharingan_hub.convert.unpickle import read

MAX_LISTED = 12  # parts, classes and shapes
MAX_OPTIONS = 600  # characters
RESOLUTION = (
    "img_resolution",
    "resolution",
    "size",
)  # what NVIDIA's PyTorch and TensorFlow programs and rosinality call it


def describe(path: str | os.PathLike[str]) -> dict[str, str]:
    """File, parts, classes, shapes, resolution and options of a pickle or torch archive, as far as it has them.

    Raises:
        OSError: it cannot be read.
        ConversionError: it is something else, damaged or hostile, in one sentence.
    """
    value = read(path)
    parts = _parts(value)
    inside = list(_walk(value))
    options = dict(_options(inside))
    facts = {
        "file": printable(Path(path).name, 200),
        "holds": "\n".join([_summary(name, part) for name, part in parts[:MAX_LISTED]] + _more(parts)),
        "classes": _counted(item.name for item in inside if isinstance(item, Record)),
        "shapes": _counted(" x ".join(map(str, item.shape)) or "one number" for item in inside if _is_tensor(item)),
        "resolution": _resolution(options, inside),
        "options": printable(
            ", ".join(f"{printable(name)}={printable(str(value))}" for name, value in options.items()), MAX_OPTIONS
        ),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _walk(value: Any) -> Iterator[Any]:
    """Every value inside of a value, each list, dictionary and record once."""
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, dict | list | tuple | set | Record):
            if id(item) in seen:
                continue
            seen.add(id(item))
        yield item
        if isinstance(item, Record):
            todo.append(item.state)
        elif isinstance(item, dict):
            todo.extend(reversed(item.values()))
        elif isinstance(item, list | tuple):
            todo.extend(reversed(item))


def _parts(value: Any) -> list[tuple[str, Any]]:
    """What a file holds at its top: the keys of a dictionary, or the networks of a tuple by their names."""
    if isinstance(value, dict):
        return [(str(name), part) for name, part in value.items()]
    if isinstance(value, tuple | list):
        return [(str(_attributes(part).get("name", index)), part) for index, part in enumerate(value)]
    return [("one value", value)]


def _attributes(value: Any) -> dict[Any, Any]:
    return value.state if isinstance(value, Record) and isinstance(value.state, dict) else {}


def _summary(name: str, part: Any) -> str:
    kind = "nothing" if part is None else part.name if isinstance(part, Record) else type(part).__name__
    tensors = [item for item in _walk(part) if _is_tensor(item)]
    numbers = sum(tensor.numel() if isinstance(tensor, Tensor) else tensor.size for tensor in tensors)
    held = f", {len(tensors)} tensor{'s' * (len(tensors) > 1)} of {numbers:,} numbers" if tensors else ""
    return f"{printable(name)}: {printable(kind)}{held}"


def _more(texts: list[Any]) -> list[str]:
    return [f"and {len(texts) - MAX_LISTED} more"] if len(texts) > MAX_LISTED else []


def _counted(texts: Iterator[str]) -> str:
    """Texts with how often they come, the commonest first."""
    counts = Counter(texts).most_common()
    return ", ".join([f"{printable(text)} ({count})" for text, count in counts[:MAX_LISTED]] + _more(counts))


def _options(inside: list[Any]) -> Iterator[tuple[str, Any]]:
    """What the networks were made with: names and single values, from the first record that has some."""
    for item in inside:
        attributes = _attributes(item)
        is_options = isinstance(item, Record) and item.name == "Namespace"
        options = attributes if is_options else attributes.get("_init_kwargs") or attributes.get("static_kwargs")
        if isinstance(options, dict) and options:
            plain = (
                (str(name), value) for name, value in options.items() if isinstance(value, str | int | float | None)
            )
            yield from islice(plain, 100)
            return


def _resolution(options: dict[str, Any], inside: list[Any]) -> str:
    """As the options say, or as large as the largest noise that is stored."""
    told = (options[name] for name in RESOLUTION if isinstance(options.get(name), int))
    shapes = (tuple(item.shape) for item in inside if _is_tensor(item))
    noises = (shape[3] for shape in shapes if len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3])
    largest = next(told, max(noises, default=None))
    return "" if largest is None else f"{largest} px"
