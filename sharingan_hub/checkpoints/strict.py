"""Reading the JSON and safetensors files of strangers: each is checked before it costs memory, and nothing is run.

The safetensors package maps a file into memory. Copying out of the map, as one must where the file may be replaced under
it, holds everything twice; so tensors are read here, piece by piece, straight to where they belong.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch
from torch import Tensor

MAX_JSON_BYTES = 2**20
MAX_JSON_VALUES = 2**16
MAX_JSON_DEPTH = 32
MAX_DIGITS = 20
MAX_HEADER_BYTES = 2**18
PIECE = 2**18  # numbers that are read and checked at once
# The types that weights may have, and others that a file may be told to hold, by their names in safetensors.
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TYPES = FLOATS | {
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LINKS = re.compile(r"(?<=\])(?=\()|(?<=:)(?=//)|(?<=www)(?=\.)")  # what Markdown makes links of
SCALAR = str | int | float | None
PACKAGE = Path(os.path.abspath(__file__)).parents[1]
# Files that are called by their name alone: they lie at the top of a checkpoint folder.
TOP_FILES = ("model_index.json", "report.json", "ticket.safetensors")


class HubError(Exception):
    """A problem with the Hub or with what came from it, in one sentence that a visitor can act on."""


class CheckpointError(HubError, ValueError):
    """The folder is no checkpoint that this project can open."""


def printable(text: str, length: int = 60) -> str:
    """A stranger's words, shortened, on one line, and with nothing in them that steers a terminal or a web page."""
    kept = "".join(c if c.isprintable() and c not in "<>&`" else f"\\x{ord(c):02x}" for c in text[: length + 1])
    kept = LINKS.sub(" ", kept)
    return kept if len(kept) <= length else f"{kept[: length - 3]}..."


def shown(value: Any) -> str:
    """A stranger's value as Python writes it, printable."""
    return printable(repr(value))


def label(path: Path) -> str:
    """What a file is called in a sentence: by its folder and name, but never by a folder of the Hub's cache."""
    parent = Path(os.path.abspath(path)).parent
    if path.name in TOP_FILES or parent.parent.name == "snapshots":
        return path.name
    return f"{printable(parent.name)}/{path.name}"


# Files


def check_place(path: Path) -> None:
    """Raise CheckpointError where a file or folder is a link that leads out of the folder that it lies in.

    In the Hub's cache every file is a link to a blob beside the snapshots, or in the store that all repositories share.
    """
    folder, target = Path(os.path.realpath(path.parent)), Path(os.path.realpath(path))
    if target.is_relative_to(folder) or Path(os.path.abspath(path)).is_relative_to(PACKAGE):
        return  # some installers make each file of a package a link
    for snapshot in (folder, *folder.parents):
        if snapshot.parent.name == "snapshots":
            repository = snapshot.parent.parent
            if any(target.is_relative_to(place / "blobs") for place in (repository, repository.parent)):
                return
    raise CheckpointError(f"{label(path)} is a link that leads out of its folder, and is not followed")


def open_file(path: Path) -> io.BufferedReader:
    """A file of a checkpoint folder, open for reading.

    Raises:
        OSError: it is missing or cannot be read.
        CheckpointError: it is no ordinary file, or a link that leads out of its folder.
    """
    check_place(path)
    # Without O_NONBLOCK a named pipe would keep us waiting for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{label(path)} is no ordinary file")
    return os.fdopen(descriptor, "rb")


# JSON


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint folder that holds one object.

    Raises:
        CheckpointError: it is missing, too large or no ordinary file, names a key twice, or holds something else.
    """
    name = label(path)
    try:
        with open_file(path) as file:
            text = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{name} is missing or cannot be read: this is no SharinGAN Hub checkpoint") from error
    if len(text) > MAX_JSON_BYTES:
        raise CheckpointError(f"{name} is larger than {MAX_JSON_BYTES // 2**20} MB, which no configuration is")
    try:
        content = parse(text)
    except ValueError as error:
        raise CheckpointError(f"{name} is not valid JSON: {printable(str(error), 100)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{name} must hold a JSON object, not a {type(content).__name__}")
    return content


def parse(text: bytes) -> Any:
    """JSON that names no key twice, and is neither large, deep nor has numbers that no program writes.

    Raises:
        ValueError: it is something else.
    """
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_JSON_VALUES:  # a value costs 50 times its bytes
        raise ValueError(f"it holds more than {MAX_JSON_VALUES} values")
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    level = [content]
    for _ in range(MAX_JSON_DEPTH):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner if not isinstance(values, SCALAR) for value in values]
    if level:
        raise ValueError("it is nested too deep")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("it names a key twice")
    return content


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("it holds a number of very many digits")
    return int(digits)


# Tensors


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in its file.

    Args:
        dtype: of its numbers.
        shape: its shape.
        start: place of its first byte.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file, open, whose header is sound: the tensors lie one after another and fill it exactly.

    Args:
        path: of the file.

    Raises:
        CheckpointError: it is missing, damaged or something else, or no ordinary file.
    """

    def __init__(self, path: Path) -> None:
        self.name = label(path)
        try:
            self._file = open_file(path)
        except OSError as error:
            raise CheckpointError(f"{self.name} is missing: weights are read as safetensors only") from error
        try:
            self.tensors = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def damaged(self, reason: str) -> NoReturn:
        """Raise the CheckpointError that says why."""
        raise CheckpointError(f"{self.name} is damaged or no safetensors file: {reason}")

    def _read_header(self) -> dict[str, Stored]:
        size = os.fstat(self._file.fileno()).st_size
        length = int.from_bytes(self._file.read(8), "little")
        if size < 8 or length > size - 8:
            self.damaged("it ends before its header does")
        if length > MAX_HEADER_BYTES:
            self.damaged(f"its header has {length} bytes, more than {MAX_HEADER_BYTES}")
        try:
            header = parse(self._file.read(length))
        except ValueError as error:
            self.damaged(f"its header is no JSON ({printable(str(error))})")
        if not isinstance(header, dict):
            self.damaged("its header is no JSON object")
        header.pop("__metadata__", None)
        tensors, ends = {}, {}
        for name, entry in header.items():
            tensors[name], ends[name] = self._entry(name, entry, 8 + length)
        end = 8 + length
        for name in sorted(tensors, key=lambda name: (tensors[name].start, ends[name])):
            if tensors[name].start != end:
                self.damaged(f"{shown(name)} does not begin where the tensor before it ends")
            end = ends[name]
        if end != size:
            self.damaged(f"it has {size} bytes, its header accounts for {end}")
        return tensors

    def _entry(self, name: str, entry: Any, first: int) -> tuple[Stored, int]:
        """What the header says of a tensor, and the place of the byte after its last."""

        def whole(numbers: Any) -> bool:
            return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)

        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            self.damaged(f"its header does not say what {shown(name)} is")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in TYPES:
            self.damaged(f"{shown(name)} is of the unknown type {shown(dtype)}")
        if not (whole(shape) and len(shape) <= 8 and whole(offsets) and len(offsets) == 2):
            self.damaged(f"its header has no shape or place for {shown(name)}")
        stored = Stored(TYPES[dtype], tuple(shape), first + offsets[0])
        if offsets[1] - offsets[0] != stored.count * stored.dtype.itemsize:
            self.damaged(f"{shown(name)} has another size than its shape {shown(shape)}")
        return stored, first + offsets[1]

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless the file holds exactly these names and shapes, all of floating-point type."""
        if self.tensors.keys() != expected.keys():
            odd = min(self.tensors.keys() ^ expected.keys())
            problem = "has an unknown tensor" if odd in self.tensors else "lacks tensor"
            raise CheckpointError(f"{self.name} {problem} {shown(odd)}: it does not fit config.json")
        for name, shape in expected.items():
            found = self.tensors[name].shape
            if found != shape:
                raise CheckpointError(
                    f"{self.name}: {name} has shape {printable(str(found))}, config.json says {shape}"
                )
            self.check_type(name)

    def check_type(self, name: str) -> None:
        """Raise CheckpointError unless a tensor's type is one that weights may have."""
        dtype = self.tensors[name].dtype
        if dtype not in FLOATS.values():
            raise CheckpointError(
                f"{self.name}: {printable(name)} is of type {dtype}, not floating-point of 16 or 32 bits"
            )

    def part(self, name: str, start: int, count: int) -> Tensor:
        """`count` numbers of a tensor from the one at `start` on, in their order and as they are stored."""
        stored = self.tensors[name]
        part = torch.empty(count, dtype=stored.dtype)
        memory = part.view(torch.uint8).numpy().data
        self._file.seek(stored.start + start * stored.dtype.itemsize)
        if self._file.readinto(memory) != len(memory):
            self.damaged("it became shorter while it was read")
        return part

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """All numbers of a tensor, at most PIECE of them at a time, each time with the place of the first."""
        count = self.tensors[name].count
        for start in range(0, count, PIECE):
            yield start, self.part(name, start, min(PIECE, count - start))

    def read(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor of floating-point numbers as `dtype`.

        Raises:
            CheckpointError: it holds NaN or infinite values, or numbers that `dtype` does not reach.
        """
        tensor = torch.empty(self.tensors[name].shape, dtype=dtype)
        flat = tensor.view(-1)
        for start, piece in self.pieces(name):
            part = flat[start : start + len(piece)]
            self.check_finite(name, part.copy_(piece))
        return tensor

    def check_values(self, name: str) -> None:
        """Raise CheckpointError where a tensor of floating-point numbers holds NaN or infinite values."""
        for _, piece in self.pieces(name):
            self.check_finite(name, piece)

    def check_finite(self, name: str, values: Tensor) -> None:
        """Raise CheckpointError where some values of a tensor are NaN or infinite."""
        if not values.isfinite().all():
            raise CheckpointError(f"{self.name}: {printable(name)} holds NaN or infinite values")


def read_weights(path: Path, expected: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensors of a safetensors file as `dtype`, if their names and shapes are exactly the expected ones.

    Memory is taken for the tensors that are returned, and for one piece.

    Raises:
        CheckpointError: they are not, a tensor is not floating-point or not finite, or the file is missing or damaged.
    """
    with TensorFile(path) as file:
        file.check({name: tuple(like.shape) for name, like in expected.items()})
        return {name: file.read(name, dtype) for name in expected}


def check_weights(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Raise the CheckpointError that `read_weights` would raise, without keeping anything."""
    with TensorFile(path) as file:
        file.check({name: tuple(like.shape) for name, like in expected.items()})
        for name in expected:
            file.check_values(name)
