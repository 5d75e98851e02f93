"""Reads `.npz` files, of which nothing is unpacked before its size has been checked."""

import math
import pathlib
import zipfile

import numpy as np

from toco_jax.runtime.errors import clipped, shown

# What arrays may unpack to: so many times the size of the file, and so many bytes whatever that is.
# One-hot labels are packed about a hundredfold, a file of zeros a thousandfold.
_MOST_TIMES = 64
_FREE = 2**26
_LAST_CHARACTER = 0x10FFFF


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz` file by their names; two unnamed bytes stay `V2`.

    Raises:
        ValueError: the file is damaged, holds other things than arrays of numbers and text, or
            would unpack to far more than its size.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _check_sizes(records, size)
            return {
                record.filename.removesuffix(".npy"): _read_npy(archive, record)
                for record in records
            }
    # What zipfile and zlib raise on a damaged file depends on where the damage is.
    except Exception as error:
        raise ValueError(f"damaged or no .npz file: {clipped(error)}") from error


def check_text(values: np.ndarray) -> None:
    """Raises `ValueError` for an array of text with numbers that stand for no character.

    Python ends with an error of its own inside if it is to make text of them.
    """
    if values.dtype.kind != "U" or not values.size:
        return
    characters = np.frombuffer(
        values.tobytes(), np.dtype("u4").newbyteorder(values.dtype.byteorder)
    )
    if characters.max(initial=0) > _LAST_CHARACTER:
        raise ValueError("its text holds numbers that stand for no character")


def _check_sizes(records: list[zipfile.ZipInfo], size: int) -> None:
    for record in records:
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{shown(record.filename)} is packed in a way that numpy never uses")
    unpacked = sum(record.file_size for record in records)
    if unpacked > _MOST_TIMES * size + _FREE:
        raise ValueError(
            f"{size:,} bytes would unpack to {unpacked:,}; save it by numpy.savez, unpacked"
        )


def _read_npy(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> np.ndarray:
    """Reads an array of an archive after it has compared the announced size with the real one."""
    name = shown(record.filename)
    with archive.open(record) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} is of the unknown version {version}")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, is_fortran, dtype = read_header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != record.file_size - file.tell():
            raise ValueError(f"{name} does not hold what its header says")
        values = np.frombuffer(file.read(), dtype)
    check_text(values)
    return values.reshape(shape, order="F" if is_fortran else "C")
