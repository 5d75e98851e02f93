"""Reads the zip files of `torch.save` without torch and without running what they hold."""

import contextlib
import mmap
import pathlib
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from toco_jax.data import safe_pickle
from toco_jax.runtime.errors import WeightsError, clipped, shown

ZIP_MAGIC = b"PK\x03\x04"
# A file of torch before 1.6 starts with a pickle of this integer.
LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

_CHUNK = 2**16
_LARGEST_PICKLE = 2**24  # bytes; that of a network with its optimiser has a tenth of it
# Tensors may share storage, or repeat it. All of them together may have so many times the size of
# the file, and so many bytes whatever that is.
_MOST_TIMES = 16
_FREE = 2**24
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class LegacyFormatError(WeightsError):
    """The file was written by torch before 1.6; the message has the command that converts it."""


class _Storage(NamedTuple):
    """A flat array of `length` numbers in the file, from byte `start`."""

    start: int
    length: int
    dtype: np.dtype


def load(path: str | pathlib.Path) -> Any:
    """Returns the object in a file of `torch.save`, with read-only arrays for its tensors.

    An array is a view of the file, so that only the pickle takes memory. Tensors keep their type
    (bfloat16 as `ml_dtypes.bfloat16`), shape and strides; those that share storage share memory.
    `argparse.Namespace` becomes `safe_pickle.Opaque`; dictionaries, lists, tuples, numbers and text
    stay what they are. Checksums are verified.

    Raises:
        LegacyFormatError: the file is in the format of torch before 1.6.
        WeightsError: the file is damaged or truncated, or its pickle asks for more than plain data.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        start = file.read(64)
        if LEGACY_MAGIC in start[:16] or _is_legacy_tar(file):
            raise LegacyFormatError(_LEGACY.format(path=path, new=path.with_suffix(".zip.pth")))
        if not start.startswith(ZIP_MAGIC):
            raise WeightsError(f"{path} is not a file of torch.save: it starts with {start[:8]!r}")
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        with contextlib.closing(_Archive(path, buffer)) as archive:
            return _load(buffer, archive)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


_LEGACY = (
    "{path} is in the format of torch before 1.6. Re-save it where torch is installed: "
    "python -c \"import torch; torch.save(torch.load('{path}', map_location='cpu', "
    "weights_only=True), '{new}')\""
)


def _is_legacy_tar(file) -> bool:
    """Whether this is a tar file, which torch wrote before 0.1.10."""
    file.seek(257)
    return file.read(5) == b"ustar"


def _load(buffer: mmap.mmap, archive: "_Archive") -> Any:
    if archive.byte_order() != b"little":
        raise ValueError("big-endian files are not supported: re-save it on a usual machine")
    storages: dict[str, tuple[int, int]] = {}
    room = _MOST_TIMES * len(buffer) + _FREE

    def storage(identifier: Any) -> _Storage:
        kind, dtype, key, _, count = identifier
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise ValueError("a reference to something that is no storage")
        dtype = np.dtype(_STORAGES[dtype.name.removeprefix("torch.")])
        if key not in storages:
            storages[key] = archive.verified(f"data/{key}")
        start, size = storages[key]
        if count < 0 or count * dtype.itemsize != size:
            raise ValueError(
                f"storage {clipped(key)} has {size} bytes, not {shown(count)} of {dtype}"
            )
        return _Storage(start, count, dtype)

    def tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_attributes):
        nonlocal room
        view = _view(buffer, storage, offset, shape, strides)
        room -= view.nbytes
        if room < 0:
            raise ValueError("its tensors repeat their storage until they are far larger than it")
        return view

    constructors: dict[str, safe_pickle.Constructor] = {
        f"torch.{name}": safe_pickle.only_as_argument for name in _STORAGES
    }
    constructors["torch._utils._rebuild_tensor_v2"] = tensor
    constructors["torch._utils._rebuild_parameter"] = lambda data, *_attributes: data
    start, size = archive.verified("data.pkl")
    if size > _LARGEST_PICKLE:
        raise ValueError(
            f"its pickle of {size:,} bytes is no network's; save its state_dict() alone"
        )
    return safe_pickle.load(buffer[start : start + size], constructors, persistent=storage)


def _view(buffer, storage: _Storage, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    """Returns a tensor as a view of its storage, within the bounds of the storage."""
    are_sizes = all(map(safe_pickle.is_shape, ((offset,), shape, strides)))
    if type(storage) is not _Storage or not are_sizes or len(shape) != len(strides):
        # Their values stay out of the message: a pickle can make them of any length.
        raise ValueError("a tensor without storage, shape, strides or offset")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= storage.length:
        raise ValueError(
            f"a tensor of shape {shape} and strides {strides} at {offset} reaches beyond its "
            f"storage of {storage.length} numbers"
        )
    size = storage.dtype.itemsize
    return np.ndarray(
        shape,
        storage.dtype,
        buffer,
        storage.start + offset * size,
        tuple(step * size for step in strides),
    )


class _Archive:
    """Finds and verifies the records of an uncompressed zip file without keeping their content."""

    def __init__(self, path: pathlib.Path, buffer: mmap.mmap):
        self._buffer = buffer
        self._room = len(buffer)
        with _damage_as_value_error("the zip file"):
            self._zip = zipfile.ZipFile(path)
        names = self._zip.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError("a zip file, but not one of torch.save: it has no single data.pkl")
        self._root = pickles[0].removesuffix("data.pkl")

    def close(self) -> None:
        self._zip.close()

    def byte_order(self) -> bytes:
        """Returns the content of the record `byteorder`; files without it are little-endian."""
        if f"{self._root}byteorder" not in self._zip.namelist():
            return b"little"
        start, size = self.verified("byteorder")
        return self._buffer[start : start + min(size, 64)]

    def verified(self, name: str) -> tuple[int, int]:
        """Returns the first byte and the size of a record after it has verified the checksum."""
        try:
            info = self._zip.getinfo(self._root + name)
        except KeyError:
            raise ValueError(f"the record {shown(name)} is missing: the file is damaged") from None
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"the record {shown(name)} is compressed, which torch.save never does")
        # Records that lie in each other would be read over and over.
        self._room -= info.file_size
        if self._room < 0:
            raise ValueError("its records overlap, which those of torch.save never do")
        with _damage_as_value_error(f"the record {shown(name)}"), self._zip.open(info) as record:
            while record.read(_CHUNK):  # zipfile compares the header and the checksum
                pass
        # The local header ends with the sizes of the name and of the extra field, which follow it.
        sizes = struct.unpack_from("<2H", self._buffer, info.header_offset + 26)
        return info.header_offset + 30 + sum(sizes), info.file_size


@contextlib.contextmanager
def _damage_as_value_error(what: str) -> Iterator[None]:
    try:
        yield
    # What zipfile raises depends on where the damage is.
    except Exception as error:
        raise ValueError(
            f"{what} is damaged or cut short ({clipped(error)}): download the file again"
        ) from error
