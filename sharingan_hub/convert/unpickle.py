"""Opens the files of old StyleGAN2 programs without running anything that they hold.

Three kinds of file, recognised from what they hold: a pickle (NVIDIA's programs for TensorFlow and PyTorch), a zip archive
of torch.save, and what torch.save wrote before version 1.6.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from sharingan_hub.checkpoints.strict import printable
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.foreign import STORAGES, Budget, Name, Record, Storage
from sharingan_hub.convert.machine import Machine, Stream

MAX_FILE_BYTES = 2**32  # of 1024 px with its optimisers, the largest has a quarter
MAX_DIRECTORY_BYTES = 2**20  # of a zip archive
MAX_DEPTH = 100
MAX_VALUES = 2_000_000  # a value that is used twice counts twice
VIEWS = 4  # how often the numbers of a file may be used by its tensors, all together
PIECE = 2**20
ZIP = b"PK\x03\x04"
TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a number, pickled, that begins what torch.save wrote
TORCH_VERSION = 1001
PICKLES = (b"\x80", b"(", b"c", b"]", b"}")  # since protocol 2, and before
NO_CHECKPOINT = {
    b"": "is empty",
    b"version https://git-lfs": "is a git-lfs pointer and not the file that it points to: fetch that with `git lfs pull`",
    b"<": "is a web page or XML and no checkpoint: download the file itself",
    b"\x89PNG": "is a picture and no checkpoint",
    b"\xff\xd8\xff": "is a picture and no checkpoint",
    b"\x89HDF": "is an HDF5 file and no pickle of a StyleGAN2 program",
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"Rar!": "is a RAR archive: unpack it first",
}
LEAVES = (type(None), bool, int, float, str, bytearray, np.ndarray, np.dtype, Tensor)


def read(path: str | os.PathLike[str]) -> Any:
    """What a pickle or torch archive holds, as plain values.

    Only what StyleGAN2's programs pickle is understood, and none of it is imported or called. Memory is taken for what is
    returned and little more.

    Args:
        path: of the file. Its name plays no part.

    Returns:
        None, numbers, str, list, tuple, set, dict (of every kind of dictionary), bytearray for raw bytes, numpy arrays,
        tensors on the CPU, and a `Record` for every other object. No value contains itself.

    Raises:
        OSError: it cannot be read.
        ConversionError: it is something else, damaged or hostile, in one sentence.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            return _read(file, os.fstat(file.fileno()).st_size)
    except (ConversionError, MemoryError) as error:
        reason = str(error) or "needs more memory than there is"
        raise ConversionError(f"{printable(path.name)} {reason}") from error


def _read(file: BinaryIO, size: int) -> Any:
    start = file.read(64)
    file.seek(0)
    if size > MAX_FILE_BYTES:
        raise ConversionError(f"has {size} bytes, more than any StyleGAN2 checkpoint")
    budget = Budget(view_bytes=VIEWS * size)
    stream = Stream(file, size, budget)
    if start.startswith(ZIP):
        value = _read_zip(file, size, budget)
    elif start.startswith(TORCH):
        value = _read_before_zip(stream)
    elif start.startswith(PICKLES):
        value = Machine(stream, load_nested=_read_nested).run()
        if stream.left:
            raise ConversionError(f"is damaged or hostile: {stream.left} bytes follow where its pickle ends")
    else:
        raise ConversionError(_what_else(start))
    _check(value)
    return value


def _what_else(start: bytes) -> str:
    if start[8:9] == b"{":
        return "is a safetensors file, which needs no conversion to be safe"
    for prefix, what in NO_CHECKPOINT.items():
        if start.startswith(prefix) and (prefix or not start):
            return what
    return "is no pickle and no torch archive, which StyleGAN2's programs write"


# torch


def _parse_id(value: Any) -> tuple[str, torch.dtype, int]:
    """Key, type and length of the storage that a persistent id stands for."""
    match value:
        case ("storage", Name() as kind, str(key), str(), int(length), *rest) if kind in STORAGES and rest in (
            [],
            [None],
        ):
            if length >= 0:
                return key, STORAGES[kind], length
    raise ConversionError("is damaged or hostile: it refers to something that is no storage of numbers")


class _Storages:
    """The storages of one archive: one for each key, however often it is used.

    Args:
        allocate: takes memory for a key and a number of bytes, after it has looked whether the file has them.
    """

    def __init__(self, allocate: Callable[[str, int], Tensor]) -> None:
        self._allocate = allocate
        self.memory: dict[str, Tensor] = {}
        self._types: dict[str, tuple[torch.dtype, int]] = {}

    def load(self, value: Any) -> Storage:
        """The storage that a persistent id stands for."""
        key, dtype, length = _parse_id(value)
        if key not in self.memory:
            self.memory[key] = self._allocate(key, length * dtype.itemsize)
            self._types[key] = dtype, length
        if self._types[key] != (dtype, length):
            raise ConversionError(f"is damaged or hostile: its storage {printable(key)} has two types or lengths")
        return Storage(self.memory[key].view(dtype))

    def length(self, key: str) -> int:
        """How many numbers a storage has, as the pickle says."""
        return self._types[key][1]

    def clean(self) -> None:
        """Make every truth value 0 or 1: others count as true, and what torch does with them is not defined."""
        for key, (dtype, _) in self._types.items():
            if dtype == torch.bool:
                self.memory[key].clamp_(max=1)


def _read_before_zip(stream: Stream) -> Any:
    """Four pickles, a fifth with the keys of the storages, and these."""
    declared = 0

    def allocate(key: str, size: int) -> Tensor:
        nonlocal declared
        declared += size
        if declared > stream.left:
            raise ConversionError(f"is damaged or cut short: storages of {declared} bytes, and {stream.left} are left")
        return torch.empty(size, dtype=torch.uint8)

    storages = _Storages(allocate)
    stream.read(len(TORCH))
    if Machine(stream).run() != TORCH_VERSION:
        raise ConversionError("is damaged, or was written by a version of torch that does not exist")
    match Machine(stream).run():
        case {"little_endian": True}:
            pass
        case _:
            raise ConversionError("was written on a big-endian machine, which is not supported")
    value = Machine(stream, storages.load).run()
    keys = Machine(stream).run()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages.memory):
        raise ConversionError("is damaged or hostile: it lists other storages than it uses")
    for key in map(str, keys):
        memory = storages.memory[key]
        length = int.from_bytes(stream.read(8), "little")
        if length != storages.length(key):
            raise ConversionError(f"is damaged or hostile: its storage {printable(key)} has two lengths")
        stream.take(len(memory))
        stream.fill(memory.numpy().data)
    if stream.left:
        raise ConversionError(f"is damaged or hostile: {stream.left} bytes follow where it ends")
    storages.clean()
    return value


def _read_nested(stream: Stream) -> Storage:
    """One storage as torch pickles it outside of its own archives: as such an archive within the pickle."""
    if stream.left < len(TORCH):
        raise ConversionError("is damaged or hostile: it holds something that should be an archive of torch")
    value = _read_before_zip(stream)
    if not isinstance(value, Storage):
        raise ConversionError("is damaged or hostile: an archive within it holds something else than one storage")
    return value


class _Bounded:
    """A file of which zipfile can read only so much at once: it reads a whole directory, however long that is."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable, self._read = file.seek, file.tell, file.seekable, file.read

    def read(self, count: int = -1) -> bytes:
        """Bytes, all that are left if `count` is negative, unless they are many."""
        data = self._read(min(count, MAX_DIRECTORY_BYTES + 1) if count >= 0 else MAX_DIRECTORY_BYTES + 1)
        if len(data) > MAX_DIRECTORY_BYTES:
            raise ConversionError("is damaged or hostile: its directory is larger than that of any checkpoint")
        return data


def _read_zip(file: BinaryIO, size: int, budget: Budget) -> Any:
    try:
        with zipfile.ZipFile(_Bounded(file)) as archive:
            return _read_archive(archive, size, budget)
    except ConversionError:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise ConversionError(f"is a damaged zip archive: {printable(str(error), 100)}") from error


def _read_archive(archive: zipfile.ZipFile, size: int, budget: Budget) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise ConversionError("is damaged or hostile: two entries of it have the same name")
    for entry in entries.values():
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise ConversionError("is a compressed or encrypted zip archive, which torch never writes: unpack it first")
    if sum(entry.file_size for entry in entries.values()) > size:
        raise ConversionError("is damaged or hostile: its entries have more bytes than itself")
    roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise ConversionError("is a zip archive that torch did not write: if a checkpoint lies in it, unpack it first")
    root = roots[0]
    if f"{root}constants.pkl" in entries:
        raise ConversionError("is a TorchScript program and no checkpoint of weights")

    def take(name: str, memory: memoryview) -> None:  # at the end of an entry zipfile compares its checksum
        with archive.open(entries[name]) as source:
            start = 0
            while start < len(memory):
                piece = source.read(min(PIECE, len(memory) - start))
                if not piece:
                    raise EOFError("it ends early")
                memory[start : start + len(piece)] = piece
                start += len(piece)

    def allocate(key: str, length: int) -> Tensor:
        name = f"{root}data/{key}"
        if name not in entries or entries[name].file_size != length:
            raise ConversionError(
                f"is damaged or hostile: its storage {printable(key)} is missing or has another length"
            )
        memory = torch.empty(length, dtype=torch.uint8)
        take(name, memory.numpy().data)
        return memory

    def small(name: str) -> bytearray:
        if entries[name].file_size > Budget.text:
            raise ConversionError(f"is damaged or hostile: its {printable(name)} is larger than that of any checkpoint")
        data = bytearray(entries[name].file_size)
        take(name, memoryview(data))
        return data

    if f"{root}byteorder" in entries and small(f"{root}byteorder") != b"little":
        raise ConversionError("was written on a big-endian machine, which is not supported")
    data = small(f"{root}data.pkl")
    storages = _Storages(allocate)
    stream = Stream(io.BytesIO(data), len(data), budget)
    value = Machine(stream, storages.load).run()
    storages.clean()
    return value


# What came of it


def _check(value: Any) -> None:
    """Raise ConversionError where whoever walks through a value would never end, or end deep down.

    A list of ten lists, each of them ten times the same list, and so on, takes little memory and for ever to walk through.
    """
    inside: set[int] = set()
    done: dict[int, tuple[int, int]] = {}  # depth of each container, and how many values it holds
    todo = [(value, False)]
    while todo:
        container, is_leaving = todo.pop()
        if isinstance(container, LEAVES) or id(container) in done:
            continue
        parts = _parts(container)
        if not parts:
            continue
        depth, count = len(inside), 0
        if is_leaving:
            below = [done.get(id(part), (0, 1)) for part in parts]
            depth = 1 + max((depth for depth, _ in below), default=0)
            count = 1 + sum(count for _, count in below)
            done[id(container)] = depth, count
            inside.remove(id(container))
        elif id(container) in inside:
            raise ConversionError("is damaged or hostile: a value of it contains itself")
        else:
            inside.add(id(container))
            todo.append((container, True))
            todo.extend((part, False) for part in parts)
        if depth > MAX_DEPTH:
            raise ConversionError(f"is nested more than {MAX_DEPTH} deep, which no checkpoint is")
        if count > MAX_VALUES:
            raise ConversionError(f"holds more than {MAX_VALUES} values, most of them the same")


def _parts(container: Any) -> list[Any]:
    if isinstance(container, dict):
        return list(container.values())
    if isinstance(container, list | tuple | set):
        return list(container)
    if isinstance(container, Record):
        return [container.args, container.state]
    raise ConversionError("is damaged or hostile: it holds a function or something else that is no value")
