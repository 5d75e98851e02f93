"""Reads pickles of plain data, arrays and tensors, and refuses every other object by name.

A pickle is a program. This runs it on a machine of its own that knows containers, numbers, text
and an allow-list of constructors; no name in the file is ever imported or called.
"""

import collections
import io
import math
import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Opaque(NamedTuple):
    """An object kept as data: the name of its class and what was stored in it."""

    name: str
    state: dict


class Global(NamedTuple):
    """A name the pickle asks for; not the thing itself."""

    name: str


Constructor = Callable[..., Any]

_MARK = object()
_KEY_TYPES = (str, int, float, bytes, bool, type(None))
_CONSTANTS = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
}
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("STRING", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def load(
    data: bytes,
    constructors: Mapping[str, Constructor],
    *,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The object in a pickle.

    Args:
        data: the pickle.
        constructors: `module.name` to the function that builds such an object from its arguments;
            beside `collections.OrderedDict` and `argparse.Namespace` nothing else is allowed.
        persistent: builds the object of a persistent identifier.

    Raises:
        ValueError: the pickle asks for another object, is damaged or truncated.
    """
    machine = _Machine(_PLAIN | dict(constructors), persistent)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.run(opcode.name, argument)
            if opcode.name == "STOP":
                return machine.result
    except Refused as error:
        raise ValueError(str(error)) from None
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, AttributeError) as error:
        raise ValueError(f"the pickle is damaged: {error}") from error
    raise ValueError("the pickle is truncated")


class Refused(Exception):
    """The pickle asks for something that is not plain data."""


def _without_arguments(name: str, make: Callable[[], Any]) -> Constructor:
    def construct(*arguments):
        if arguments:
            raise Refused(f"{name} with arguments is refused: plain data has it without")
        return make()

    return construct


_PLAIN: dict[str, Constructor] = {
    name: _without_arguments(name, make)
    for name, make in (
        ("collections.OrderedDict", collections.OrderedDict),
        ("argparse.Namespace", lambda: Opaque("argparse.Namespace", {})),
    )
}


def _checked_key(key: Any) -> Any:
    if type(key) not in _KEY_TYPES:
        raise Refused(f"a dictionary key or set element of type {type(key).__name__} is refused")
    return key


class _Machine:
    """A pickle machine: the stack, the memo, and one method call an instruction."""

    def __init__(self, constructors: Mapping[str, Constructor], persistent):
        self.constructors = constructors
        self.persistent = persistent
        self.stack: list = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[int(argument)])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack.append(tuple([self._pop() for _ in range(count)][::-1]))
        elif name == "STOP":
            self.result = self._pop()
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._since_mark()
        elif name not in ("PROTO", "FRAME"):
            self._run_container(name, argument)

    def _run_container(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "SETITEM":
            value, key = self._pop(), self._pop()
            self._update([key, value])
        elif name == "SETITEMS":
            self._update(self._since_mark())
        elif name == "APPEND":
            value = self._pop()
            self._top(list).append(value)
        elif name == "APPENDS":
            items = self._since_mark()
            self._top(list).extend(items)
        elif name == "ADDITEMS":
            items = self._since_mark()
            self._top(set).update(map(_checked_key, items))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            items = self._since_mark()
            stack.append({})
            self._update(items)
        elif name == "FROZENSET":
            stack.append(frozenset(map(_checked_key, self._since_mark())))
        else:
            self._run_object(name, argument)

    def _run_object(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name == "GLOBAL":
            stack.append(self._allowed(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            stack.append(self._allowed(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, target = self._pop(), self._pop()
            if type(target) is not Global or type(arguments) is not tuple:
                raise ValueError("a constructor call without constructor or arguments")
            stack.append(self.constructors[target.name](*arguments))
        elif name == "BUILD":
            state = self._pop()
            _built(stack[-1], state)
        elif name == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(self._pop()))
        else:
            raise Refused(f"the pickle uses the instruction {name}, which plain data does not need")

    def _allowed(self, name: str) -> Global:
        if name not in self.constructors:
            raise Refused(
                f"the pickle asks for {name}, which is not on the list of plain data (tensors, "
                "arrays, dictionaries, lists, numbers, text); nothing of it was run. If you trust "
                "the file, open it with the program that wrote it and save its state_dict() alone"
            )
        return Global(name)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"items for a {kind.__name__} without one")
        return self.stack[-1]

    def _since_mark(self) -> list:
        items = []
        while (value := self.stack.pop()) is not _MARK:
            items.append(value)
        return items[::-1]

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, collections.OrderedDict) or len(items) % 2:
            raise ValueError("items for a dictionary without one")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value


def _built(target: Any, state: Any) -> None:
    """Sets the state of an opaque object or an array; the attributes that a module's
    `state_dict` carries are passed over.
    """
    if type(target) is Opaque and type(state) is dict:
        target.state.update(state)
    elif type(target) is np.ndarray and type(state) is tuple:
        _fill(target, *state)
    elif isinstance(target, np.dtype) and type(state) is tuple:
        if state[1] == ">":
            raise Refused("big-endian arrays are not supported")
    elif type(target) is not collections.OrderedDict:
        raise ValueError(f"a state for a {type(target).__name__}")


def _fill(
    array: np.ndarray, version: int, shape: tuple, dtype: np.dtype, fortran: bool, data: bytes
) -> None:
    if dtype == np.dtype(object):
        if shape != () or type(data) is not list or len(data) != 1:
            raise Refused("an array of objects is refused")
        array.__setstate__((version, (), dtype, False, data))
        return
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or type(shape) is not tuple:
        raise ValueError("an array without type, shape or values")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {dtype}")
    array.__setstate__((version, shape, dtype, bool(fortran), data))


def only_as_argument(*_arguments) -> Any:
    """Constructor of a name that a pickle may pass on but not call."""
    raise Refused("a type that may only be named is called")
