"""Tensors, arrays and archives that are not what they say."""

from __future__ import annotations

import pickle as op
import struct
import zipfile
from collections.abc import Iterator

from tests.sharingan_hub.convert.assembler import (
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
    tensor,
    text,
    whole,
    zipped,
)


def shapes() -> Iterator[Hostile]:
    """Tensors and arrays that do not have what they say."""
    huge = number(2**62)
    for title, offset, size, stride in (
        ("too many numbers", number(0), many(number(5)), many(number(1))),
        ("huge", number(0), many(number(2**31), number(2**31)), many(number(0), number(0))),
        ("whose product overflows", number(0), many(number(2**32), number(2**32)), many(number(0), number(0))),
        ("of huge size", number(0), many(huge), many(number(0))),
        ("of huge size but empty", number(0), many(number(0), huge), many(number(1), number(1))),
        ("of many dimensions", number(0), many(*[number(1)] * 65), many(*[number(1)] * 65)),
        ("of negative size", number(0), many(number(-1)), many(number(1))),
        ("of two negative sizes", number(0), many(number(-2), number(-2)), many(number(1), number(1))),
        ("before its storage", number(-1), many(number(4)), many(number(1))),
        ("behind its storage", number(1), many(number(4)), many(number(1))),
        ("far behind its storage", huge, many(number(1)), many(number(1))),
        ("of negative stride", number(3), many(number(4)), many(number(-1))),
        ("of huge stride", number(0), many(number(2)), many(huge)),
        ("with a stride too few", number(0), many(number(2), number(2)), many(number(1))),
        ("with a text for a size", number(0), many(text("4")), many(number(1))),
        ("with truth for a size", number(0), many(op.NEWTRUE), many(number(1))),
    ):
        body = tensor(storage(), offset, size, stride)
        yield Hostile(f"a tensor {title}", zipped(body), "says that a tensor")
        yield Hostile(f"a tensor {title}, before zip", legacy(body), "says that a tensor")
        inner = nest(legacy(storage()))
        yield Hostile(f"a tensor {title}, nested", whole(tensor(inner, offset, size, stride)), "says that a tensor")
    one = tensor(storage(), number(0), many(number(4)), many(number(1)))
    yield Hostile(
        "a tensor of no storage", zipped(tensor(text("x"), number(0), many(), many())), "as no checkpoint does"
    )
    yield Hostile("a storage for a value", zipped(storage()), "no value")
    large = tensor(storage(length=number(250_000)), number(0), many(number(250_000)), many(number(1)))
    yield Hostile("views without end", zipped(op.MARK + large * 5 + op.LIST, {"0": bytes(1_000_000)}), "outgrow")
    parts = call("collections", "OrderedDict"), storage(length=number(0)), many(number(0)), many(number(1))
    arguments = many(parts[1], number(0), *parts[2:], op.NEWFALSE, parts[0])
    first = name("torch._utils", "_rebuild_tensor_v2") + op.MEMOIZE + op.POP + arguments + op.MEMOIZE + op.POP
    again = (op.BINGET + b"\0" + op.BINGET + b"\1" + op.REDUCE) * 20_001
    yield Hostile("many tensors", zipped(first + op.MARK + again + op.LIST, {"0": b""}), "more than 20000 tensors")
    for title, length, reason in (
        ("negative", -1, "no storage of numbers"),
        ("giant", 2**40, "cut short: storages of"),
        ("overflowing", 2**63, "cut short: storages of"),
        ("longer", 5, "two lengths"),
        ("shorter", 3, "two lengths"),
    ):
        body = tensor(storage(length=number(length)), number(0), many(number(1)), many(number(1)))
        yield Hostile(f"a {title} storage", zipped(body), "hostile")
        yield Hostile(f"a {title} storage, before zip", legacy(body), reason)
        yield Hostile(f"a {title} storage, nested", whole(nest(legacy(body))), reason)
    two = many(storage(), storage("DoubleStorage", length=number(2)))
    yield Hostile("a storage of two types", zipped(two), "two types")
    yield Hostile("a storage of two types, before zip", legacy(two), "two types")
    yield Hostile(
        "a storage of truth",
        zipped(tensor(storage("BoolStorage"), number(0), many(number(4)), many(number(1))), {"0": b"\0\1\2\xff"}),
        None,
    )
    yield Hostile("an unknown storage", zipped(storage("UntypedStorage")), "asks for torch.UntypedStorage")
    yield Hostile("a storage that is missing", zipped(one, {}), "is missing")
    yield Hostile("a storage elsewhere", zipped(storage(key="../data.pkl")), "is missing")
    yield Hostile("no storages listed", legacy(one, ()), "lists other storages")
    yield Hostile("other storages listed", legacy(one, ("0", "1")), "lists other storages")
    yield Hostile("a storage listed twice", legacy(one, ("0", "0")), "lists other storages")
    yield Hostile("storages that lie", legacy(one, data=struct.pack("<q4f", 2**40, 1, 2, 3, 4)), "two lengths")
    yield Hostile("more than its storages", legacy(one) + b"x", "1 bytes follow")
    yield Hostile(
        "a module with its source",
        legacy(many(text("module"), text("X"), text("x.py"), text(TOUCH)) + op.BINPERSID),
        "no storage",
    )
    dtype = call("numpy", "dtype", text("f4"), op.NEWFALSE, op.NEWTRUE)
    order = many(number(3), text("<"), op.NONE, op.NONE, op.NONE, number(-1), number(-1), number(0))
    dtype += order + op.BUILD
    array = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), many(number(0)), raw(b"b"))
    for title, shape, reason in (
        ("too large", many(number(5)), "says that an array"),
        ("too small", many(number(3)), "says that an array"),
        ("huge", many(number(2**31), number(2**31)), "says that an array"),
        ("negative", many(number(-2), number(-2)), "as no checkpoint"),
        ("of many dimensions", many(number(4), *[number(1)] * 64), "as no checkpoint"),
        ("of truth", many(op.NEWTRUE, number(4)), "as no checkpoint"),
        ("a list", op.EMPTY_LIST, "as no checkpoint"),
    ):
        state = many(number(1), shape, dtype, op.NEWFALSE, raw(bytes(16)))
        yield Hostile(f"an array whose shape is {title}", whole(array + state + op.BUILD), reason)
        yield Hostile(
            f"a buffer whose shape is {title}",
            whole(call("numpy.core.numeric", "_frombuffer", raw(bytes(16)), dtype, shape, text("C"))),
            reason,
        )
    empty = many(number(1), many(number(0), number(2**62)), dtype, op.NEWFALSE, raw(b""))
    yield Hostile("an array of huge size but empty", whole(array + empty + op.BUILD))
    objects = many(number(1), many(number(1)), dtype, op.NEWFALSE, op.EMPTY_LIST)
    yield Hostile("an array of objects", whole(array + objects + op.BUILD), "a state")
    yield Hostile("a scalar too long", whole(call("numpy.core.multiarray", "scalar", dtype, raw(bytes(8)))))
    yield Hostile("a scalar object", whole(call("numpy.core.multiarray", "scalar", dtype, op.EMPTY_LIST)))
    odd = order.replace(text("<"), text("O"))
    yield Hostile(
        "an odd byte order",
        whole(call("numpy", "dtype", text("f4"), op.NEWFALSE, op.NEWTRUE) + odd + op.BUILD),
        "a state",
    )


def zips() -> Iterator[Hostile]:
    """Archives that are not what they seem."""
    zeros = bytes(50_000_000)
    body = tensor(storage(length=number(len(zeros) // 4)), number(0), many(number(4)), many(number(1)))
    yield Hostile("a zip bomb", zipped(body, {"0": zeros}, compression=zipfile.ZIP_DEFLATED), "compressed")
    yield Hostile("a zip bomb beside", zipped(op.NONE, {"0": zeros}, compression=zipfile.ZIP_LZMA), "compressed")
    good = zipped(tensor(storage(), number(0), many(number(4)), many(number(1))))
    values = struct.pack("<4f", 1, 2, 3, 4)
    yield Hostile("a wrong checksum", good.replace(values, struct.pack("<4f", 1, 2, 3, 5), 1), "CRC")
    yield Hostile("a wrong checksum of the pickle", good.replace(b"OrderedDict", b"orderedDict", 1), "CRC")
    yield Hostile("an entry twice", good.replace(b"archive/data/0", b"archive/data.pkl"[:14]))
    twice = zipped(op.NONE, {"0": values, "1": values}).replace(b"data/1", b"data/0")
    yield Hostile("a storage twice", twice, "same name")
    yield Hostile("two pickles", zipped(op.NONE, more={"other/data.pkl": b"N."}), "did not write")
    yield Hostile("no pickle", zipped(op.NONE).replace(b"data.pkl", b"data.txt"), "did not write")
    yield Hostile("a program", zipped(op.NONE, more={"archive/constants.pkl": b"N."}), "TorchScript")
    yield Hostile("bytes the other way round", zipped(op.NONE, more={"archive/byteorder": b"big"}), "big-endian")
    yield Hostile("a giant byte order", zipped(op.NONE, more={"archive/byteorder": bytes(34_000_000)}), "larger")
    yield Hostile("a giant pickle", zipped(raw(bytes(34_000_000))), "larger")
    yield Hostile("a path that leads out", zipped(op.NONE, more={"../../../tmp/x": b"x", "/etc/x": b"x"}), None)
    yield Hostile(
        "many entries", zipped(op.NONE, {str(index): b"" for index in range(30_000)}), "its directory is larger"
    )
    at = good.rindex(b"PK\x01\x02")
    size = struct.unpack_from("<I", good, at + 20)[0]
    grown = bytearray(good)
    struct.pack_into("<II", grown, at + 20, 2**31, 2**31)
    yield Hostile("an entry larger than its archive", bytes(grown), "more bytes than itself")
    encrypted = bytearray(good)
    encrypted[at + 8] |= 1
    yield Hostile("an encrypted entry", bytes(encrypted), "encrypted")
    struct.pack_into("<I", grown, at + 20, size + 1)
    yield Hostile("an entry of two sizes", bytes(grown), "compressed")
    yield Hostile("a directory elsewhere", good[:-6] + b"\xff\xff\xff\x7f\0\0")
    yield Hostile("a directory of a lie", good[:-10] + b"\xff\xff\xff\xff" + good[-6:])
    yield Hostile("no directory", good[: good.index(b"PK\x01\x02")], "zip")
    yield Hostile("no directory, but much", b"PK\x03\x04" + bytes(10**7), "zip")
