"""A small assembler: pickles and torch archives put together from opcodes, sound or not."""

from __future__ import annotations

import io
import pickle as op
import struct
import zipfile
from dataclasses import dataclass

CANARY = "CANARY"
TOUCH = f"open({CANARY!r}, 'w').close()"


@dataclass(frozen=True)
class Hostile:
    """One file.

    Args:
        name: what it does.
        data: the file.
        reason: some words of the sentence that it must end in; "" is any sentence, None is a sentence or plain values.
    """

    name: str
    data: bytes
    reason: str | None = ""


def text(value: str) -> bytes:
    """A text."""
    data = value.encode()
    return op.BINUNICODE + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """An integer of any size."""
    data = op.encode_long(value)
    return op.LONG4 + struct.pack("<i", len(data)) + data


def raw(value: bytes) -> bytes:
    """Raw bytes."""
    return op.BINBYTES + struct.pack("<I", len(value)) + value


def many(*values: bytes) -> bytes:
    """A tuple."""
    return op.MARK + b"".join(values) + op.TUPLE


def name(module: str, function: str) -> bytes:
    """A function or class."""
    return text(module) + text(function) + op.STACK_GLOBAL


def call(module: str, function: str, *arguments: bytes) -> bytes:
    """A call."""
    return name(module, function) + many(*arguments) + op.REDUCE


def whole(body: bytes, protocol: int = 4) -> bytes:
    """A pickle."""
    return op.PROTO + bytes([protocol]) + body + op.STOP


def nest(archive: bytes) -> bytes:
    """An archive within a pickle, as torch writes it."""
    return name("torch.storage", "_load_from_bytes") + raw(archive) + op.TUPLE1 + op.REDUCE


TORCH_PARTS = [op.dumps(0x1950A86A20F9469CFC6C, 2), op.dumps(1001, 2)]
SYSTEM_INFO = whole(op.EMPTY_DICT + text("little_endian") + op.NEWTRUE + op.SETITEM, 2)


def storage(kind: str = "FloatStorage", key: str = "0", length: bytes = number(4)) -> bytes:
    """A reference to a storage."""
    named = op.GLOBAL + f"torch\n{kind}\n".encode()
    return many(text("storage"), named, text(key), text("cpu"), length) + op.BINPERSID


def tensor(*arguments: bytes) -> bytes:
    """A tensor of torch, from storage, offset, size and stride."""
    return call("torch._utils", "_rebuild_tensor_v2", *arguments, op.NEWFALSE, call("collections", "OrderedDict"))


def legacy(body: bytes, keys: tuple[str, ...] = ("0",), data: bytes = struct.pack("<q4f", 4, 1, 2, 3, 4)) -> bytes:
    """What torch.save wrote before version 1.6."""
    listed = op.EMPTY_LIST + b"".join(text(key) + op.APPEND for key in keys)
    return b"".join(TORCH_PARTS) + SYSTEM_INFO + whole(body, 2) + whole(listed, 2) + data


def zipped(
    body: bytes, storages: dict[str, bytes] | None = None, more: dict[str, bytes] | None = None, compression: int = 0
) -> bytes:
    """What torch.save writes."""
    storages = {"0": struct.pack("<4f", 1, 2, 3, 4)} if storages is None else storages
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", whole(body, 2))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for title, data in (more or {}).items():
            archive.writestr(title, data)
    return file.getvalue()
