"""What a foreign pickle may name, and the plain values that we make of it: nothing of the file is imported or called.

A pickle names functions and classes and says with which arguments to call them. Each name here has a function of ours that
looks at the arguments and builds a plain value, or refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharingan_hub.checkpoints.strict import printable
from sharingan_hub.convert.errors import ConversionError

MAX_DIMENSIONS = 8
MAX_EXTENT = 2**32


@dataclass(slots=True)
class Record:
    """A foreign object: what its file says of it, and nothing that it could do.

    Args:
        module: that its class comes from, such as "dnnlib.tflib.network".
        name: of its class.
        args: it was made with.
        state: its attributes.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True, slots=True)
class Name:
    """A function or class of the list below, named but not called yet."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands for a name that is not on the list, and for all that would be made with it."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that tensors are views of, as a tensor of one dimension."""

    values: Tensor


@dataclass
class Budget:
    """What a file may still use: far more than any StyleGAN2 checkpoint does, far less than would hurt.

    Args:
        opcodes: steps of the pickles. Each makes one value of some 200 bytes at most.
        text: bytes that are not of tensors, arrays or raw bytes. One may become a character of 4 bytes.
        tensors: tensors and arrays.
        view_bytes: of all tensors together, if no two shared their memory.
    """

    opcodes: int = 200_000
    text: int = 2**25
    tensors: int = 20_000
    view_bytes: int = 0

    def spend_opcode(self) -> None:
        """Count a step."""
        self.opcodes -= 1
        if self.opcodes < 0:
            raise ConversionError(f"has more than {Budget.opcodes} opcodes, which no checkpoint has")

    def spend_text(self, count: int) -> None:
        """Count bytes of text."""
        self.text -= count
        if self.text < 0:
            raise ConversionError(f"holds more than {Budget.text // 2**20} MB of text, which no checkpoint does")

    def spend_tensor(self, view_bytes: int) -> None:
        """Count a tensor."""
        self.tensors -= 1
        if self.tensors < 0:
            raise ConversionError(f"holds more than {Budget.tensors} tensors, which no checkpoint does")
        self.view_bytes -= view_bytes
        if self.view_bytes < 0:
            raise ConversionError("holds tensors that share their memory so often that they would outgrow the file")


def _whole(numbers: tuple[Any, ...]) -> bool:
    """Whether numbers are a shape or strides as a file of ours may have."""
    return len(numbers) <= MAX_DIMENSIONS and all(
        type(number) is int and 0 <= number <= MAX_EXTENT for number in numbers
    )


# Each of the functions below takes the arguments that the file has, and makes a value of them: None where they are odd.
Arguments = tuple[Any, ...]
Make = Callable[[Arguments, Budget], Any]

# numpy


@dataclass(slots=True, eq=False)
class Pending:
    """An array or its type, which is made in two steps: named first, and then given its state.

    Args:
        build: makes it of its state; None where that is odd.
        made: what `build` made.
    """

    build: Callable[[Any], Any]
    made: Any = None


def _dtype(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (("b1" | "i1" | "u1" | "i2" | "u2" | "f2" | "i4" | "u4" | "f4" | "i8" | "u8" | "f8") as code, _, _):
            return Pending(lambda state: _ordered(code, state))


def _ordered(code: str, state: Any) -> Any:
    match state:
        case (3, ("<" | ">" | "|" | "=") as order, None, None, None, -1, -1, 0):
            return np.dtype(code).newbyteorder(order)


def _array(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (Name("numpy", "ndarray"), (0,), _):
            return Pending(lambda state: _filled(state, budget))


def _filled(state: Any, budget: Budget) -> Any:
    match state:
        case (1, tuple(shape), np.dtype() as dtype, int(fortran), data):
            return _from_buffer((data, dtype, shape, "F" if fortran else "C"), budget)


def _from_buffer(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (str(text), *rest):  # Python 2 had one type for text and bytes
            return _from_buffer((_encode((text, "latin1"), budget), *rest), budget)
        case (bytearray(data), np.dtype() as dtype, tuple(shape), ("C" | "F") as order) if _whole(shape):
            if math.prod(shape) * dtype.itemsize != len(data):
                raise ConversionError(f"says that an array has shape {shape}, for which it has {len(data)} bytes")
            budget.spend_tensor(len(data))
            if dtype == np.bool_:
                return np.frombuffer(data, np.uint8).reshape(shape, order=order) != 0
            flat = np.frombuffer(data, dtype)
            return flat.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def _scalar(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (np.dtype() as dtype, data):
            array = _from_buffer((data, dtype, (), "C"), budget)
            return None if array is None else array.item()


# torch

STORAGES = {
    Name("torch", "FloatStorage"): torch.float32,
    Name("torch", "DoubleStorage"): torch.float64,
    Name("torch", "HalfStorage"): torch.float16,
    Name("torch", "BFloat16Storage"): torch.bfloat16,
    Name("torch", "LongStorage"): torch.int64,
    Name("torch", "IntStorage"): torch.int32,
    Name("torch", "ShortStorage"): torch.int16,
    Name("torch", "CharStorage"): torch.int8,
    Name("torch", "ByteStorage"): torch.uint8,
    Name("torch", "BoolStorage"): torch.bool,
}


def _tensor(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (Storage(values), int(offset), tuple(size), tuple(stride), *rest) if len(rest) in (0, 2):
            if not (_whole((offset,)) and _whole(size) and _whole(stride) and len(size) == len(stride)):
                raise ConversionError(f"says that a tensor has the shape {printable(str(size))}, which none can have")
            count = math.prod(size)
            last = offset + sum((length - 1) * step for length, step in zip(size, stride))
            if count > len(values) or count and last >= len(values):
                raise ConversionError(
                    f"says that a tensor has the shape {printable(str(size))}, for which it has {len(values)} numbers"
                )
            budget.spend_tensor(count * values.element_size())
            return values.as_strided(size, stride, offset) if count else values.new_empty(size)


def _parameter(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (Tensor() as tensor, bool(), dict()):
            return tensor


def _loaded(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (Storage() as storage,):  # the nested archive was read where its bytes were met
            return storage


def _size(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (tuple(size),):
            return size


# Python, and the programs themselves


def key(value: Any) -> Any:
    """A value that may be a key of a dictionary or a member of a set: one that is quick to hash.

    A tuple of tuples of tuples may take for ever, and so may many huge integers, which all hash alike if one wants.
    """
    if isinstance(value, str | float | None) or isinstance(value, int) and abs(value) < 2**64:
        return value
    raise ConversionError(f"has a key of type {type(value).__name__}, which no checkpoint has")


def put(target: dict[Any, Any], name: Any, value: Any) -> None:
    """Add to a dictionary what it does not hold yet."""
    if key(name) in target:
        raise ConversionError(f"names the key {printable(repr(name))} twice")
    target[name] = value


def _dictionary(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case ():
            return {}
        case (list(pairs),):  # as Python 2 does it
            made: dict[Any, Any] = {}
            for pair in pairs:
                match pair:
                    case [name, value]:
                        put(made, name, value)
                    case _:
                        return None
            return made


def _set(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case ():
            return set()
        case (list(members),):
            return {key(member) for member in members}


def _bytes(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case ():
            return bytearray()
        case (bytearray() as data,):
            return data


def _encode(arguments: Arguments, budget: Budget) -> Any:
    match arguments:
        case (str(text), "latin1") if not text or max(text) < "\u0100":
            budget.spend_text(len(text))  # a text can be encoded again and again
            return bytearray(text, "latin1")


def _reconstruct(arguments: Arguments, budget: Budget) -> Any:
    """Objects in protocols 0 and 1."""
    match arguments:
        case (Name() as kind, Name("builtins", "object"), None) if kind in CLASSES:
            return CLASSES[kind]((), budget)
        case (Name("dnnlib.util", "EasyDict"), Name("builtins", "dict"), dict(items)):
            return dict(items)


def _persistent(arguments: Arguments, budget: Budget) -> Any:
    """A module of NVIDIA's PyTorch programs; its source text, which their loader runs, is dropped."""
    match arguments:
        case ({"type": "class", "class_name": str(name), "state": dict(state)},):
            return Record("torch_utils.persistence", name, (), state)


def _empty(module: str, name: str) -> Make:
    """Makes a record whose state comes later."""

    def make(arguments: Arguments, budget: Budget) -> Any:
        match arguments:
            case ():
                return Record(module, name)

    return make


# What may be made without its `__init__`.
CLASSES = {
    Name("collections", "OrderedDict"): _dictionary,
    Name("dnnlib.util", "EasyDict"): _dictionary,
    Name("dnnlib.tflib.network", "Network"): _empty("dnnlib.tflib.network", "Network"),
    Name("argparse", "Namespace"): _empty("argparse", "Namespace"),
}
# What may be called.
CALLS = {
    Name("_codecs", "encode"): _encode,
    Name("builtins", "bytearray"): _bytes,
    Name("builtins", "bytes"): _bytes,
    Name("builtins", "set"): _set,
    Name("collections", "OrderedDict"): _dictionary,
    Name("copyreg", "_reconstructor"): _reconstruct,
    Name("numpy", "dtype"): _dtype,
    Name("torch", "Size"): _size,
    Name("torch._utils", "_rebuild_parameter"): _parameter,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch.storage", "_load_from_bytes"): _loaded,
    Name("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
}
for _core in ("numpy.core", "numpy._core"):  # before and since numpy 2
    CALLS[Name(f"{_core}.multiarray", "_reconstruct")] = _array
    CALLS[Name(f"{_core}.multiarray", "scalar")] = _scalar
    CALLS[Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer
ARGUMENTS = {Name("numpy", "ndarray"), Name("builtins", "object"), Name("builtins", "dict")}
ALLOWED = CALLS.keys() | CLASSES.keys() | STORAGES.keys() | ARGUMENTS
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def find(module: str, name: str) -> Name | Unknown:
    """What stands for a function or class that a pickle names."""
    found = Name(PYTHON_2.get(module, module), name)
    return found if found in ALLOWED else Unknown()
