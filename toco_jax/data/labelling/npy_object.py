"""Reads `.npy` files that hold one pickled object, such as a dictionary, without running it."""

import pathlib
import re
from typing import Any

import numpy as np

from toco_jax.data import safe_pickle
from toco_jax.data.npz_files import check_text
from toco_jax.data.safe_pickle import Refused
from toco_jax.runtime.errors import clipped, shown


def _empty_array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    if kind != safe_pickle.Global("numpy.ndarray"):
        raise Refused("an array of a class of its own is refused")
    return np.ndarray((0,), np.uint8)


def _dtype(name: Any, *_flags) -> np.dtype:
    if name == "O8":  # numpy wraps a single pickled object in a 0-d array of objects
        return np.dtype(object)
    if type(name) is not str or not re.fullmatch(r"[biufSU]\d{1,6}", name):
        raise Refused(
            f"arrays of type {shown(name)} are refused: numbers, truth values and text only"
        )
    return np.dtype(name)


def _scalar(dtype: Any, data: Any) -> Any:
    """Returns a numpy scalar as a Python number or text, so that it may be a dictionary's key."""
    if not isinstance(dtype, np.dtype) or type(data) is not bytes or len(data) != dtype.itemsize:
        raise ValueError("a number without type or value")
    values = np.frombuffer(data, dtype)
    check_text(values)
    return values[0].item()


_NUMPY: dict[str, safe_pickle.Constructor] = {
    "numpy.ndarray": safe_pickle.only_as_argument,
    "numpy.dtype": _dtype,
    **{
        f"numpy.{core}.multiarray.{name}": function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _empty_array), ("scalar", _scalar))
    },
}


def load(path: str | pathlib.Path) -> Any:
    """Returns the object that `numpy.save` pickled into an `.npy` file.

    Raises:
        ValueError: the file is damaged, holds a plain array, or its pickle asks for more than
            plain data.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
        # What numpy raises on a damaged header depends on where the damage is.
        except Exception as error:
            raise ValueError(
                f"{path} is not a .npy file, or is damaged: {clipped(error)}"
            ) from error
        if dtype != np.dtype(object) or shape != ():
            raise ValueError(
                f"{path} holds an array of shape {shape} and type {dtype}, not one pickled "
                "dictionary; save {name: label} with numpy.save"
            )
        data = file.read()
    try:
        value = safe_pickle.load(data, _NUMPY)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if type(value) is not np.ndarray or value.dtype != np.dtype(object):
        raise ValueError(f"{path} is damaged: its pickle is not the one its header announces")
    return value.item()
