"""Files that attack or strain whoever opens them, and damaged ones. Each is made here, from opcodes.

An attack that ran would make the file CANARY in the current folder.
"""

from __future__ import annotations

import argparse
import pickle as op
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from sharingan_hub.convert.foreign import Budget
from tests.sharingan_hub.convert import hostile_tensors, writers
from tests.sharingan_hub.convert.assembler import (
    CANARY,
    SYSTEM_INFO,
    TORCH_PARTS,
    TOUCH,
    Hostile,
    call,
    legacy,
    many,
    name,
    nest,
    number,
    raw,
    storage,
    text,
    whole,
    zipped,
)

# Attacks


def attacks() -> Iterator[tuple[str, str, str, bytes]]:
    """Functions, each with its module and arguments, that make CANARY or would do worse."""
    yield "system", "os", "system", many(text(f"touch {CANARY}"))
    yield "posix", "posix", "system", many(text(f"touch {CANARY}"))
    yield "exec", "builtins", "exec", many(text(TOUCH))
    yield "exec of Python 2", "__builtin__", "exec", many(text(TOUCH))
    yield "eval", "builtins", "eval", many(text(TOUCH))
    yield "open", "builtins", "open", many(text(CANARY), text("w"))
    yield "popen", "subprocess", "Popen", many(op.EMPTY_LIST + text("touch") + op.APPEND + text(CANARY) + op.APPEND)
    yield "import", "importlib", "import_module", many(text("antigravity"))
    yield "pickle", "pickle", "loads", many(raw(whole(call("builtins", "exec", text(TOUCH)))))
    yield "path", "pathlib", "Path.touch", many(call("pathlib", "Path", text(CANARY)))
    yield "torch", "torch", "load", many(text("/etc/passwd"))
    yield "numpy", "numpy", "load", many(text("/etc/passwd"))
    yield "attribute", "operator", "attrgetter", many(text("system"))
    yield "runpy", "numpy.testing._private.utils", "runstring", many(text(TOUCH), op.EMPTY_DICT)
    yield "timeit", "timeit", "timeit", many(text(TOUCH))


def calls() -> Iterator[tuple[str, bytes]]:
    """Pickles that make the attacks through every opcode that calls something."""
    for title, module, function, arguments in attacks():
        plain = f"{module}\n{function}\n".encode()
        items = arguments[1:-1]  # without the opcodes that make a tuple
        yield f"GLOBAL {title}", op.PROTO + b"\x02" + op.GLOBAL + plain + arguments + op.REDUCE + op.STOP
        yield f"STACK_GLOBAL {title}", whole(name(module, function) + arguments + op.REDUCE)
        yield f"INST {title}", op.MARK + items + op.INST + plain + op.STOP
        yield f"OBJ {title}", op.MARK + op.GLOBAL + plain + items + op.OBJ + op.STOP
        yield f"NEWOBJ {title}", whole(name(module, function) + arguments + op.NEWOBJ)
        yield f"NEWOBJ_EX {title}", whole(name(module, function) + arguments + op.EMPTY_DICT + op.NEWOBJ_EX)
        named = text(function) + op.MEMOIZE + op.POP + text(module) + op.BINGET + b"\0" + op.STACK_GLOBAL
        yield f"memo {title}", whole(op.MARK + named + arguments + op.REDUCE + op.LIST)
    system = name("os", "system")
    state = op.EMPTY_DICT + text("__setstate__") + system + op.SETITEM
    yield (
        "BUILD",
        whole(
            name("argparse", "Namespace")
            + op.EMPTY_TUPLE
            + op.NEWOBJ
            + state
            + op.BUILD
            + text(f"touch {CANARY}")
            + op.BUILD
        ),
    )
    yield "BUILD of an unknown", whole(name("os", "_wrap_close") + op.EMPTY_TUPLE + op.NEWOBJ + state + op.BUILD)
    for title, add in (("APPENDS", op.APPENDS), ("ADDITEMS", op.ADDITEMS), ("SETITEMS", op.SETITEMS)):
        items = op.MARK + text("a") + text("b") + add
        yield title, whole(name("collections", "UserList") + op.EMPTY_TUPLE + op.REDUCE + items)


def nested() -> Iterator[Hostile]:
    """Attacks inside of something, and allowed names with arguments that they should not have."""
    touch = call("builtins", "exec", text(TOUCH))
    for title, attack in calls():
        body = attack[2:-1] if attack.startswith(op.PROTO) else attack[:-1]
        yield Hostile(f"zip {title}", zipped(body), "asks for")
        if title.split()[0] in ("GLOBAL", "INST", "BUILD"):
            yield Hostile(f"before zip {title}", legacy(body), "asks for")
            inner = nest(legacy(body))
            yield Hostile(f"nested {title}", whole(inner), "asks for")
    bytes_first = call("torch.storage", "_load_from_bytes", raw(legacy(storage())))
    yield Hostile("nested in another way", whole(bytes_first), "as no checkpoint does")
    yield Hostile("nested pickle", whole(nest(whole(touch))))
    yield Hostile("nested zip", whole(nest(zipped(touch))))
    yield Hostile("nested in nested", whole(nest(legacy(nest(legacy(touch))))))
    yield Hostile("nested list", whole(nest(legacy(op.EMPTY_LIST, (), b""))), "something else than one storage")
    for index in range(3):
        parts = [*TORCH_PARTS, SYSTEM_INFO]
        parts[index] = whole(touch)
        yield Hostile(f"before zip, part {index}", b"".join(parts) + whole(op.NONE) + whole(op.EMPTY_LIST))
    yield Hostile(
        "before zip, its keys", b"".join(TORCH_PARTS) + SYSTEM_INFO + whole(op.NONE) + whole(touch), "asks for"
    )
    source = text("type") + text("class") + text("class_name") + text("X") + text("module_src") + text(TOUCH)
    meta = op.EMPTY_DICT + op.MARK + source + text("state") + op.EMPTY_DICT + op.SETITEMS
    persistent = "torch_utils.persistence", "_reconstruct_persistent_obj"
    yield Hostile("module_src", whole(call(*persistent, meta)), None)
    yield Hostile("module_src without state", whole(call(*persistent, op.EMPTY_DICT)), "as no checkpoint does")
    build = text("build_module_src") + text(TOUCH) + op.SETITEM
    network = name("dnnlib.tflib.network", "Network") + op.EMPTY_TUPLE + op.NEWOBJ
    yield Hostile("build_module_src", whole(network + op.EMPTY_DICT + build + op.BUILD), None)
    yield Hostile(
        "two states", whole(network + 2 * (op.EMPTY_DICT + build + op.BUILD)), "a state as no checkpoint has"[:7]
    )
    for codec in ("zlib_codec", "rot13", "idna", "unicode_escape"):
        yield Hostile(
            f"codec {codec}", whole(call("_codecs", "encode", text("x"), text(codec))), "as no checkpoint does"
        )
    for dtype in ("O", "V8", "S4", "U4", "M8", "f16", "f4,O", "c16", ""):
        yield Hostile(
            f"dtype {dtype}", whole(call("numpy", "dtype", text(dtype), op.NEWFALSE, op.NEWTRUE)), "numpy.dtype"
        )
    yield Hostile(
        "dtype of a list", whole(call("numpy", "dtype", op.EMPTY_LIST, op.NEWFALSE, op.NEWTRUE)), "numpy.dtype"
    )
    made = call("numpy.core.multiarray", "_reconstruct", name("torch", "FloatStorage"), many(number(0)), raw(b"b"))
    yield Hostile("another array class", whole(made), "as no checkpoint does")
    again = call("copyreg", "_reconstructor", name("torch", "Size"), name("builtins", "object"), op.NONE)
    yield Hostile("another object class", whole(again), "as no checkpoint does")
    for title, codes in (
        ("EXT1", op.EXT1 + b"\1"),
        ("EXT2", op.EXT2 + b"\1\0"),
        ("EXT4", op.EXT4 + b"\1\0\0\0"),
        ("PERSID", op.PERSID + b"os.system\n"),
        ("BINPERSID", text("os.system") + op.BINPERSID),
        ("NEXT_BUFFER", op.NEXT_BUFFER),
        ("READONLY_BUFFER", raw(b"a") + op.READONLY_BUFFER),
        ("INST of an allowed name", op.MARK + op.INST + b"argparse\nNamespace\n"),
        ("OBJ of an allowed name", op.MARK + name("argparse", "Namespace") + op.OBJ),
        ("NEWOBJ_EX of an allowed name", name("argparse", "Namespace") + op.EMPTY_TUPLE + op.EMPTY_DICT + op.NEWOBJ_EX),
        ("NEWOBJ of a function", name("torch", "Size") + op.EMPTY_TUPLE + op.NEWOBJ),
        ("REDUCE of a class", name("argparse", "Namespace") + op.EMPTY_TUPLE + op.REDUCE),
        ("REDUCE of a text", text("os.system") + op.EMPTY_TUPLE + op.REDUCE),
        ("REDUCE with a list", name("collections", "OrderedDict") + op.EMPTY_LIST + op.REDUCE),
        ("a name for a value", name("collections", "OrderedDict")),
        (
            "an array without a state",
            call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), many(number(0)), raw(b"b")),
        ),
    ):
        yield Hostile(title, whole(codes), "hostile")
    for module, function in (
        ("collections", "OrderedDict.fromkeys"),
        ("collections", "OrderedDict.__class__"),
        ("collections.abc", "OrderedDict"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "fromfile"),
        ("torch._utils", "_import_dotted_name"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("torch_utils.persistence", "_src_to_module"),
        ("dnnlib.util", "call_func_by_name"),
        ("dnnlib.tflib.network", "Network.__init__"),
        ("argparse", "FileType"),
        ("builtins", "getattr"),
        ("builtins ", "set"),
        ("", ""),
        ("os\x1b[2J", "<script>"),
    ):
        yield Hostile(f"nearly allowed: {module}.{function}", whole(call(module, function)), "asks for")


# Strain


def bombs() -> Iterator[Hostile]:
    """Few bytes that would take much time or memory."""
    million = 10**6
    for title, code in (
        ("dictionaries", op.EMPTY_DICT),
        ("sets", op.EMPTY_SET),
        ("marks", op.MARK),
        ("nothing", op.NONE),
    ):
        yield Hostile(f"a million {title}", whole(code * million), "opcodes")
    most = Budget.opcodes - 10
    for title, code in (("dictionaries", op.EMPTY_DICT), ("sets", op.EMPTY_SET), ("numbers", number(2**100))):
        yield Hostile(f"almost too many {title}", whole(op.MARK + code * most + op.LIST), None)
    lists = op.MARK + (op.EMPTY_LIST + op.NONE + op.APPEND) * (most // 3) + op.LIST
    yield Hostile("almost too many lists", whole(lists), None)
    yield Hostile("a million copies", whole(op.EMPTY_LIST + op.DUP * million), "opcodes")
    yield Hostile("a million names", whole(op.NONE + op.MEMOIZE * million), "opcodes")
    yield Hostile("a far name", whole(op.NONE + op.LONG_BINPUT + b"\xff\xff\xff\xff"), None)
    yield Hostile("a name that is missing", whole(op.LONG_BINGET + b"\xff\xff\xff\xff"), "damaged")
    yield Hostile("deep lists", whole(op.EMPTY_LIST * 90_000 + op.APPEND * 89_999), "deep")
    yield Hostile("deep tuples", whole(op.NONE + op.TUPLE1 * 190_000), "deep")
    yield Hostile("deep dictionaries", whole((op.EMPTY_DICT + op.NONE) * 101 + op.NONE + op.SETITEM * 101), "deep")
    itself = op.MEMOIZE + op.BINGET + b"\0"
    yield Hostile("a list in itself", whole(op.EMPTY_LIST + itself + op.APPEND), "contains itself")
    yield Hostile(
        "a dictionary in itself",
        whole(op.EMPTY_DICT + op.MEMOIZE + op.NONE + op.BINGET + b"\0" + op.SETITEM),
        "contains itself",
    )
    record = name("argparse", "Namespace") + op.EMPTY_TUPLE + op.NEWOBJ + op.MEMOIZE + op.EMPTY_DICT
    yield Hostile(
        "an object in itself", whole(record + text("me") + op.BINGET + b"\0" + op.SETITEM + op.BUILD), "contains itself"
    )
    steps = b"".join(op.BINGET + bytes([index]) + op.TUPLE1 + op.MEMOIZE for index in range(200))
    yield Hostile(
        "a deep tuple beside its parts", whole(op.MARK + op.EMPTY_TUPLE + op.MEMOIZE + steps + op.LIST), "deep"
    )
    for title, double in (
        ("tuples", op.DUP + op.TUPLE2),
        ("lists", op.MEMOIZE + op.POP + op.MARK + op.BINGET + b"%c" + op.BINGET + b"%c" + op.LIST),
    ):
        laughs = b"".join(double.replace(b"%c", bytes([index])) for index in range(60))
        yield Hostile(f"billion laughs of {title}", whole(op.NONE + laughs), "most of them the same")
    key = op.NONE + (op.DUP + op.TUPLE2) * 60
    yield Hostile(
        "a key that takes for ever to hash", whole(op.EMPTY_DICT + key + op.NONE + op.SETITEM), "a key of type tuple"
    )
    yield Hostile(
        "a member that takes for ever to hash", whole(op.EMPTY_SET + op.MARK + key + op.ADDITEMS), "a key of type tuple"
    )
    alike = b"".join(number(index * (2**61 - 1)) + op.NONE for index in range(10, 60_000))
    yield Hostile("keys that hash alike", whole(op.EMPTY_DICT + op.MARK + alike + op.SETITEMS), "a key of type int")
    yield Hostile("a key twice", whole(op.EMPTY_DICT + (text("a") + op.NONE + op.SETITEM) * 2), "twice")
    yield Hostile("a key without a value", whole(op.EMPTY_DICT + op.MARK + text("a") + op.SETITEMS), "damaged")
    yield Hostile(
        "a huge integer", whole(op.LONG4 + struct.pack("<i", 8 * million) + b"\x7f" * 8 * million), "very many digits"
    )
    yield Hostile("a large integer", whole(op.LONG1 + b"\xff" + b"\x7f" * 255), "very many digits")
    yield Hostile("an integer of negative length", whole(op.LONG4 + struct.pack("<i", -1)), "damaged")
    yield Hostile("a million digits", b"(I" + b"9" * million + b"\n.", "damaged")
    yield Hostile("a long of a million digits", b"(L" + b"9" * million + b"L\n.", "damaged")
    yield Hostile("a line without an end", b"(V" + b"a" * 10 * million, "damaged")
    wide = "\U0001f441".encode() * (9 * million)  # 36 MB
    yield Hostile("much text", whole(op.BINUNICODE + struct.pack("<I", len(wide)) + wide), "MB of text")
    yield Hostile("many texts", whole(op.MARK + (text("a" * 1000) + op.POP) * 40_000 + op.LIST), "MB of text")
    again = name("_codecs", "encode") + op.MEMOIZE + op.POP + text("a" * million) + op.MEMOIZE + op.POP
    encode = op.BINGET + b"\0" + op.BINGET + b"\1" + text("latin1") + op.TUPLE2 + op.REDUCE
    yield Hostile("a text encoded again and again", whole(again + op.MARK + encode * 1000 + op.LIST), "MB of text")
    for title, code, length in (
        ("BINBYTES", op.BINBYTES, b"\xff" * 4),
        ("BINBYTES8", op.BINBYTES8, struct.pack("<Q", 2**40)),
        ("BINBYTES8 of all", op.BINBYTES8, b"\xff" * 8),
        ("BYTEARRAY8", op.BYTEARRAY8, struct.pack("<Q", 2**62)),
        ("BINUNICODE", op.BINUNICODE, b"\xff" * 4),
        ("BINUNICODE8", op.BINUNICODE8, struct.pack("<Q", 2**62)),
        ("BINSTRING", op.BINSTRING, struct.pack("<i", 2**31 - 1)),
        ("BINSTRING, negative", op.BINSTRING, struct.pack("<i", -(2**31))),
        ("LONG4", op.LONG4, struct.pack("<i", 2**31 - 1)),
        ("FRAME", op.FRAME, struct.pack("<Q", 2**62)),
        ("FRAME by one", op.FRAME, struct.pack("<Q", 3)),
    ):
        yield Hostile(f"giant {title}", whole(code + length + op.NONE), "damaged")


def others() -> Iterator[Hostile]:
    """Files of other kinds."""
    yield Hostile("empty", b"", "is empty")
    yield Hostile(
        "a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"
    )
    yield Hostile("a web page", b"<!DOCTYPE html><html></html>", "web page")
    yield Hostile("a picture", b"\x89PNG\r\n\x1a\n" + bytes(100), "picture")
    yield Hostile("safetensors", struct.pack("<Q", 2) + b"{}", "safetensors")
    yield Hostile("gzip", b"\x1f\x8b" + bytes(10), "gzip")
    yield Hostile("words", b"these are words", "no pickle")
    yield Hostile("nothing but zeros", bytes(1000), "no pickle")
    yield Hostile("protocol 9", whole(op.NONE, 9), "protocol 9")
    yield Hostile("no stop", whole(op.NONE)[:-1], "cut short")
    yield Hostile("nothing to return", op.PROTO + b"\4" + op.STOP, "damaged")
    yield Hostile("too much to return", whole(op.NONE * 2), "ends too early")
    yield Hostile(
        "a pickle and more", whole(op.NONE) + whole(call("os", "system", text("x"))), "follow where its pickle ends"
    )
    yield Hostile("no opcode", whole(b"\xff"), "opcode")


def good_files(folder: Path) -> dict[str, Path]:
    """A small checkpoint of each kind."""
    torch.manual_seed(0)
    layer = writers.nvidia_module("FullyConnectedLayer", {"weight": torch.randn(3, 4)}, weight_gain=np.sqrt(2))
    generator = writers.nvidia_module("Generator", modules={"fc0": layer}, init_kwargs={"z_dim": 4}, z_dim=4)
    network = writers.tensorflow_network("Gs", {"lod": np.float32(0), "weight": np.ones((3, 3, 2, 2), np.float32)})
    content = {
        "g_ema": writers.state_dict({"a": torch.randn(3, 3)}),
        "args": argparse.Namespace(size=8),
        "n": np.ones(3),
    }
    return {
        "nvidia": writers.pickle_nvidia(folder / "nvidia.pkl", G=generator, G_ema=generator),
        "tensorflow": writers.pickle_tensorflow(folder / "tensorflow.pkl", network, network, network, protocol=3),
        "zip": writers.save_torch(folder / "zip.pt", content),
        "before zip": writers.save_torch(folder / "legacy.pt", content, legacy=True),
    }


def damaged(folder: Path) -> Iterator[Hostile]:
    """Each kind, cut short after every hundredth, and with one bit the other way round."""
    chance = random.Random(0)
    for kind, path in good_files(folder).items():
        data = path.read_bytes()
        for percent in range(1, 100):
            yield Hostile(f"{kind} after {percent} %", data[: len(data) * percent // 100])
        for bit in chance.sample(range(8 * len(data)), 60):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            yield Hostile(f"{kind} with bit {bit} flipped", bytes(flipped), None)


def all_files(folder: Path) -> Iterator[Hostile]:
    """All of them; `folder` is for files in between."""
    for title, attack in calls():
        yield Hostile(title, attack, "asks for")
    yield from nested()
    yield from bombs()
    yield from hostile_tensors.shapes()
    yield from hostile_tensors.zips()
    yield from others()
    yield from damaged(folder)
