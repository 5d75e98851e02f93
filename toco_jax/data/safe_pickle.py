"""Unpickles plain data, arrays and tensors, and refuses every other object by its name.

A pickle is a program: it names functions and calls them. The unpickler below never imports what a
pickle names. It calls constructors from an allow-list and runs only the instructions that plain
data needs. It extends the standard library's unpickler written in Python, because the one written
in C allocates whatever size a file announces, hashes keys of any depth, and sets the state of an
object without asking.
"""

import collections
import io
import math
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from toco_jax.data.npz_files import check_text
from toco_jax.runtime.errors import clipped

Constructor = Callable[..., Any]


class Opaque(NamedTuple):
    """An object kept as data: the name of its class and the attributes stored in it."""

    name: str
    state: dict


class Global(NamedTuple):
    """The name of a class or function in a pickle, in place of the class or function."""

    name: str


class Refused(Exception):
    """The pickle asks for something that is not plain data."""


_KEY_TYPES = (str, int, float, bytes, bool, type(None))
_REFUSED = (
    *("PERSID", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "DUP"),
    *("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER"),
)
_MAX_AXES = 64
_DAMAGE = (
    *(pickle.UnpicklingError, struct.error, ValueError, TypeError, IndexError, KeyError),
    *(OverflowError, AttributeError),
)


def load(
    data: bytes,
    constructors: Mapping[str, Constructor],
    *,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Returns the object in a pickle.

    Args:
        data: the pickle.
        constructors: maps `module.name` to the function that is called in its place. Beside these,
            only `collections.OrderedDict` and `argparse.Namespace` are allowed.
        persistent: returns the object of a persistent identifier; None refuses them.

    Raises:
        ValueError: the pickle asks for another object, is damaged or truncated.
    """
    try:
        return _Unpickler(data, _PLAIN | dict(constructors), persistent).load()
    except Refused as error:
        raise ValueError(str(error)) from None
    except EOFError:
        raise ValueError("the pickle is truncated") from None
    except _DAMAGE as error:
        raise ValueError(f"the pickle is damaged: {clipped(error, 300)}") from error


def only_as_argument(*_arguments) -> Any:
    """Constructor for a name that a pickle may pass on but not call."""
    raise Refused("a type that may only be named is called")


def is_shape(value: Any) -> bool:
    """Whether `value` is a tuple of integers that can be the shape or the strides of an array."""
    return (
        type(value) is tuple
        and len(value) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < 2**63 for size in value)
    )


class _Unpickler(pickle._Unpickler):
    """Runs a pickle with the constructors of an allow-list."""

    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)
    # What the instructions work on, in the class that this one extends.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes, constructors: Mapping[str, Constructor], persistent):
        super().__init__(io.BytesIO(data), encoding="latin-1")
        self._constructors = constructors
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Global:
        found = Global(f"{module}.{name}")
        if found.name not in self._constructors:
            raise Refused(
                f"the pickle asks for {clipped(found.name)}, which is not on the list of plain "
                "data (tensors, arrays, dictionaries, lists, numbers, text); nothing of it was "
                "run. If you trust the file, open it with the program that wrote it and save its "
                "state_dict() alone"
            )
        return found

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise Refused("the pickle refers to an object outside of it")
        return self._persistent(pid)

    def load_call(self) -> None:
        arguments, target = self.stack.pop(), self.stack.pop()
        if type(target) is not Global or type(arguments) is not tuple:
            raise ValueError("a constructor call without constructor or arguments")
        self.append(self._constructors[target.name](*arguments))

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = load_call

    def load_build(self) -> None:
        state = self.stack.pop()
        _set_state(self.stack[-1], state)

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

    dispatch[pickle.DICT[0]] = load_dict

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(map(_checked_key, items))

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        self.append(frozenset(map(_checked_key, self.pop_mark())))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, collections.OrderedDict) or len(items) % 2:
            raise ValueError("items for a dictionary without one")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_checked_key(key)] = value


def _refusal(name: str) -> Callable[[_Unpickler], None]:
    def refuse(_unpickler: _Unpickler) -> None:
        raise Refused(f"the pickle uses the instruction {name}, which plain data does not need")

    return refuse


_Unpickler.dispatch |= {getattr(pickle, name)[0]: _refusal(name) for name in _REFUSED}


def _checked_key(key: Any) -> Any:
    """Returns `key` if its hash is quick; that of a tuple takes time exponential in its depth."""
    if type(key) not in _KEY_TYPES:
        raise Refused(f"a dictionary key or set element of type {type(key).__name__} is refused")
    return key


def _set_state(target: Any, state: Any) -> None:
    """Sets the state of an opaque object or an array, and ignores attributes of an OrderedDict."""
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
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or not is_shape(shape):
        raise ValueError("an array without type, shape or values")
    # Numpy compares the sizes too, but raises a MemoryError if the product is huge.
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for an array of shape {shape} and type {dtype}")
    filled: Any = (version, shape, dtype, bool(fortran), data)
    array.__setstate__(filled)
    check_text(array)


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
