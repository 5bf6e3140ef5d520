"""Follows the opcodes of a pickle and makes plain values of them. It can call nothing but the functions of `foreign`.

Python's own unpickler can be told which names a pickle may use, but calls them with whatever arguments the file has, lets
objects set their own state, and knows no limits. torch's weights-only reader refuses most of what these files hold.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, TypeVar

from sharingan_hub.checkpoints.strict import printable
from sharingan_hub.convert.errors import ConversionError
from sharingan_hub.convert.foreign import (
    CALLS,
    CLASSES,
    Budget,
    Make,
    Name,
    Pending,
    Record,
    Storage,
    Unknown,
    find,
    key,
    put,
)

MAX_PROTOCOL = 5
MAX_INTEGER = 2**128
MAX_NAMES = 8  # that a sentence lists
LOAD_FROM_BYTES = Name("torch.storage", "_load_from_bytes")


class Stream:
    """Bytes of a file up to an end that is known.

    Args:
        file: to read, standing where the bytes begin.
        left: how many bytes there are.
        budget: of the file.
    """

    def __init__(self, file: BinaryIO, left: int, budget: Budget) -> None:
        self._file = file
        self.left = left
        self.budget = budget

    def take(self, count: int) -> None:
        """Count bytes that are about to be read, before anything is allocated for them."""
        if count > self.left:
            raise ConversionError(f"is damaged or cut short: {count} bytes should follow, and {self.left} do")
        self.left -= count

    def read(self, count: int) -> bytes:
        """Bytes of an opcode or a text. `pickletools` reads with this method and the next."""
        self.take(count)
        self.budget.spend_text(count)
        return self._file.read(count)

    def readline(self) -> bytes:
        """Bytes up to the end of a line."""
        line = self._file.readline(min(self.left, self.budget.text) + 1)
        self.take(len(line))
        self.budget.spend_text(len(line))
        return line

    def fill(self, memory: memoryview) -> None:
        """Read as many bytes as `memory` has, which `take` has counted."""
        if self._file.readinto(memory) != len(memory):  # type: ignore[attr-defined]
            raise ConversionError("became shorter while it was read")

    def blob(self, count: int) -> bytearray:
        """Raw bytes."""
        self.take(count)
        data = bytearray(count)
        self.fill(memoryview(data))
        return data

    def part(self, count: int) -> Stream:
        """The next bytes as a stream of their own."""
        self.take(count)
        return Stream(self._file, count, self.budget)


CODES: dict[bytes, Any] = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
# Opcodes with raw bytes, and what reads how many these are.
BLOBS: dict[str, Callable[[Any], int]] = {
    "SHORT_BINBYTES": pickletools.read_uint1,
    "BINBYTES": pickletools.read_uint4,
    "BINBYTES8": pickletools.read_uint8,
    "BYTEARRAY8": pickletools.read_uint8,
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}

Action = Callable[["Machine", Any], object]
SomeAction = TypeVar("SomeAction", bound=Action)
# What the other opcodes do, by their names in pickletools. One that is missing needs what lies outside of the file.
ACTIONS: dict[str, Action] = {}


def _opcodes(*names: str) -> Callable[[SomeAction], SomeAction]:
    def add(action: SomeAction) -> SomeAction:
        ACTIONS.update(dict.fromkeys(names, action))
        return action

    return add


class Machine:
    """One pickle.

    Args:
        stream: that the pickle is read from, up to its STOP.
        load: makes the value that a persistent id stands for; None where a file has none.
        load_nested: reads an archive of torch within a pickle; None where a file has none.
    """

    def __init__(
        self,
        stream: Stream,
        load: Callable[[Any], Any] | None = None,
        load_nested: Callable[[Stream], Storage] | None = None,
    ) -> None:
        self._stream = stream
        self._load = load
        self._load_nested = load_nested
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # what lies below each mark
        self._memo: dict[int, Any] = {}
        self._unknown: set[str] = set()

    def run(self) -> Any:
        """The value that the pickle stands for.

        Names that are not allowed stay inert, so that all of them can be told in the end.

        Raises:
            ConversionError: it has such names, is damaged, or uses something that no checkpoint does.
        """
        try:
            value = self._run()
        except (LookupError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            if not self._unknown:
                if isinstance(error, ConversionError):
                    raise
                raise ConversionError(f"is damaged: {printable(str(error), 100)}") from error
        if self._unknown:
            names = sorted(map(printable, self._unknown))
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            raise ConversionError(
                f"asks for {', '.join(names[:MAX_NAMES])}{more}: no StyleGAN2 checkpoint needs that, so nothing of it was run"
            )
        return value

    def _run(self) -> Any:
        stream, budget = self._stream, self._stream.budget
        while True:
            budget.spend_opcode()
            code = CODES.get(stream.read(1))
            name = code.name if code else "that does not exist"
            if name == "STOP":
                value = self._stack.pop()
                if self._stack or self._below:
                    raise ConversionError("is damaged: its pickle ends too early")
                return value
            if name in CONSTANTS:
                self._stack.append(CONSTANTS[name]())
            elif name in BLOBS:
                self._blob(BLOBS[name](stream))
            elif code and name in ACTIONS:
                ACTIONS[name](self, code.arg and code.arg.reader(stream))
            else:
                raise ConversionError(f"is damaged or hostile: it uses the opcode {name}, which no checkpoint does")

    # Values

    @_opcodes("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE")
    @_opcodes("SHORT_BINUNICODE", "BINUNICODE8")
    def _push(self, value: Any) -> None:
        self._stack.append(value)

    @_opcodes("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
    def _integer(self, value: int) -> None:
        if abs(value) >= MAX_INTEGER:
            raise ConversionError("holds an integer of very many digits, which no checkpoint does")
        self._stack.append(value)

    def _blob(self, count: int) -> None:
        top = self._stack[-1] if self._stack else None
        if self._load_nested and isinstance(top, Name) and top == LOAD_FROM_BYTES:
            self._stack.append(self._load_nested(self._stream.part(count)))
        else:
            self._stack.append(self._stream.blob(count))

    # The stack, its marks and the memo

    @_opcodes("MARK")
    def _mark(self, _: object) -> None:
        self._below.append(self._stack)
        self._stack = []

    @_opcodes("POP_MARK")
    def _pop_mark(self, _: object = None) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    @_opcodes("POP")
    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    @_opcodes("DUP")
    def _duplicate(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    @_opcodes("GET", "BINGET", "LONG_BINGET")
    def _get(self, index: int) -> None:
        value = self._memo[index]
        self._stack.append(value.made if isinstance(value, Pending) and value.made is not None else value)

    @_opcodes("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
    def _put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    # Collections

    @_opcodes("TUPLE")
    def _tuple(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    @_opcodes("TUPLE1")
    def _tuple_of_1(self, _: object) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    @_opcodes("TUPLE2")
    def _tuple_of_2(self, _: object) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    @_opcodes("TUPLE3")
    def _tuple_of_3(self, _: object) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    @_opcodes("LIST")
    def _list(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append(items)

    @_opcodes("DICT")
    def _dictionary(self, _: object) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._fill(items)

    @_opcodes("APPEND")
    def _append(self, _: object) -> None:
        self._extend([self._stack.pop()])

    @_opcodes("APPENDS")
    def _append_all(self, _: object) -> None:
        self._extend(self._pop_mark())

    @_opcodes("SETITEM")
    def _set_item(self, _: object) -> None:
        value, name = self._stack.pop(), self._stack.pop()
        self._fill([name, value])

    @_opcodes("SETITEMS")
    def _set_items(self, _: object) -> None:
        self._fill(self._pop_mark())

    @_opcodes("ADDITEMS")
    def _add_items(self, _: object) -> None:
        items = self._pop_mark()
        self._target(set).update(map(key, items))

    def _extend(self, items: list[Any]) -> None:
        self._target(list).extend(items)

    def _fill(self, items: list[Any]) -> None:
        target = self._target(dict)
        for name, value in zip(items[::2], items[1::2], strict=True):
            put(target, name, value)

    def _target(self, kind: type) -> Any:
        """The collection on top of the stack; of one that is unknown, an empty one that nobody keeps."""
        target = self._stack[-1]
        if isinstance(target, Unknown):
            return kind()
        if not isinstance(target, kind):
            raise ConversionError(f"is damaged: it takes a {type(target).__name__} for a {kind.__name__}")
        return target

    # Names and objects

    @_opcodes("GLOBAL")
    def _global(self, names: str) -> None:
        self._stack.append(self._find(*names.split(" ", 1)))

    @_opcodes("STACK_GLOBAL")
    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._find(module, name))

    def _find(self, module: Any, name: Any) -> Name | Unknown:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ConversionError("is damaged: it names a function by something that is no text")
        found = find(module, name)
        if isinstance(found, Unknown):
            self._unknown.add(f"{module}.{name}")
        return found

    @_opcodes("REDUCE")
    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._call(function, arguments, CALLS)

    @_opcodes("NEWOBJ")
    def _new(self, _: object) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, arguments, CLASSES)

    # No checkpoint uses these three; they are followed to tell which name they are used with.

    @_opcodes("NEWOBJ_EX")
    def _new_with_keywords(self, _: object) -> None:
        self._stack.pop()
        arguments, kind = self._stack.pop(), self._stack.pop()
        self._call(kind, arguments, {})

    @_opcodes("INST")
    def _instance(self, names: str) -> None:
        arguments = self._pop_mark()
        self._call(self._find(*names.split(" ", 1)), tuple(arguments), {})

    @_opcodes("OBJ")
    def _object(self, _: object) -> None:
        kind, *arguments = self._pop_mark()
        self._call(kind, tuple(arguments), {})

    def _call(self, function: Any, arguments: Any, allowed: Mapping[Name, Make]) -> None:
        made = None
        if isinstance(function, Unknown):
            made = function
        elif isinstance(function, Name) and function in allowed and isinstance(arguments, tuple):
            made = allowed[function](arguments, self._stream.budget)
        if made is None:
            called = function if isinstance(function, Name) else f"a {type(function).__name__}"
            raise ConversionError(f"is damaged or hostile: it calls {called} as no checkpoint does")
        self._stack.append(made)

    @_opcodes("BUILD")
    def _build(self, _: object) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        match target, state:
            case (Unknown(), _) | (dict(), dict()):  # the attributes of a dictionary, such as versions, are dropped
                return
            case Record(state=None), dict():
                target.state = state
                return
            case Pending(made=None), _:
                target.made = target.build(state)
                if target.made is not None:
                    self._stack[-1] = target.made
                    return
        raise ConversionError(
            f"is damaged or hostile: it gives a {type(target).__name__} a state as no checkpoint does"
        )

    @_opcodes("BINPERSID")
    def _persistent(self, _: object) -> None:
        if self._load is None:
            raise ConversionError("is damaged or hostile: it refers to something outside of itself")
        self._stack.append(self._load(self._stack.pop()))

    # About the file

    @_opcodes("PROTO")
    def _protocol(self, number: int) -> None:
        if number > MAX_PROTOCOL:
            raise ConversionError(f"is damaged, or a pickle of protocol {number}, which does not exist")

    @_opcodes("FRAME")
    def _frame(self, count: int) -> None:
        if count > self._stream.left:
            raise ConversionError("is damaged or cut short: it ends before its frame does")
