"""Reads the zip files of `torch.save` without torch, nothing in them run: tensors as views."""

import mmap
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from toco_jax.data import safe_pickle
from toco_jax.runtime.errors import WeightsError

ZIP_MAGIC = b"PK\x03\x04"
# The integer that opens a file of torch before 1.6, as its pickle writes it.
LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
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
    """The file is of torch before 1.6; the message has the command that saves it anew."""


class _Storage(NamedTuple):
    """A flat run of `count` numbers in the file, from byte `start`."""

    start: int
    count: int
    dtype: np.dtype


def load(path: str | pathlib.Path) -> Any:
    """The object in a file of `torch.save`, tensors as read-only arrays that view the file.

    Tensors keep their type (bfloat16 as `ml_dtypes.bfloat16`), shape and strides; those that share
    storage share memory. Dictionaries, lists, tuples, numbers and text come as they are,
    `argparse.Namespace` as `safe_pickle.Opaque`. Checksums are verified. Memory use is that of the
    pickle; the tensors are pages of the file.

    Raises:
        LegacyFormatError: the file is in the format of torch before 1.6.
        WeightsError: the file is damaged or truncated, or its pickle asks for anything but plain
            data.
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
        return _load(buffer, _Archive(path, buffer))
    except ValueError as error:  # a damaged file can ask for anything that cannot be
        raise WeightsError(f"{path}: {error}") from error


_LEGACY = (
    "{path} is in the format of torch before 1.6. Re-save it where torch is installed: "
    "python -c \"import torch; torch.save(torch.load('{path}', map_location='cpu', "
    "weights_only=True), '{new}')\""
)


def _is_legacy_tar(file) -> bool:
    """Whether this is the tar of torch before 0.1.10."""
    file.seek(257)
    return file.read(5) == b"ustar"


def _load(buffer: mmap.mmap, archive: "_Archive") -> Any:
    if archive.text("byteorder", default=b"little") != b"little":
        raise ValueError("big-endian files are not supported: re-save it on a usual machine")
    storages: dict[str, tuple[int, int]] = {}

    def storage(identifier: Any) -> _Storage:
        kind, dtype, key, _, count = identifier
        if kind != "storage" or type(key) is not str or type(count) is not int:
            raise ValueError(f"a reference to something that is no storage: {kind!r}")
        dtype = np.dtype(_STORAGES[dtype.name.removeprefix("torch.")])
        if key not in storages:
            storages[key] = archive.verified(f"data/{key}")
        start, size = storages[key]
        if count < 0 or count * dtype.itemsize != size:
            raise ValueError(f"storage {key} has {size} bytes, not {count} of {dtype}")
        return _Storage(start, count, dtype)

    def tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple, *_attributes):
        return _view(buffer, storage, offset, shape, strides)

    constructors: dict[str, safe_pickle.Constructor] = {
        f"torch.{name}": safe_pickle.only_as_argument for name in _STORAGES
    }
    constructors["torch._utils._rebuild_tensor_v2"] = tensor
    constructors["torch._utils._rebuild_parameter"] = lambda data, *_attributes: data
    start, size = archive.verified("data.pkl")
    return safe_pickle.load(buffer[start : start + size], constructors, persistent=storage)


def _view(buffer, storage: _Storage, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    """A tensor's view of its storage, inside the storage's bounds."""
    if type(storage) is not _Storage or type(shape) is not tuple or type(strides) is not tuple:
        raise ValueError("a tensor without storage, shape or strides")
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape}, strides {strides} and offset {offset}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    is_empty = 0 in shape
    if last >= storage.count and not is_empty:
        raise ValueError(
            f"a tensor of shape {shape} and strides {strides} at {offset} reaches beyond its "
            f"storage of {storage.count} numbers"
        )
    size = storage.dtype.itemsize
    if is_empty:
        return np.empty(shape, storage.dtype)
    return np.ndarray(
        shape,
        storage.dtype,
        buffer,
        storage.start + offset * size,
        tuple(step * size for step in strides),
    )


class _Archive:
    """The records of an uncompressed zip file, found and verified without reading them in."""

    def __init__(self, path: pathlib.Path, buffer: mmap.mmap):
        self.buffer = buffer
        try:
            with zipfile.ZipFile(path) as archive:
                records = {info.filename: info for info in archive.infolist()}
        # What zipfile raises on a damaged directory depends on where the damage is.
        except Exception as error:
            raise ValueError(
                f"the zip file is damaged or cut short ({error!r}): download it again"
            ) from error
        indices = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(indices) != 1:
            raise ValueError("a zip file, but not one of torch.save: it has no single data.pkl")
        root = indices[0].removesuffix("data.pkl")
        self.records: Mapping[str, zipfile.ZipInfo] = {
            name.removeprefix(root): info for name, info in records.items()
        }

    def text(self, name: str, *, default: bytes) -> bytes:
        if name not in self.records:
            return default
        start, size = self.verified(name)
        return self.buffer[start : start + min(size, 64)]

    def verified(self, name: str) -> tuple[int, int]:
        """First byte and number of bytes of a record whose checksum was found right."""
        info = self.records.get(name)
        if info is None:
            raise ValueError(f"the record {name} is missing: the file is damaged")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(f"the record {name} is compressed, which torch.save never does")
        header_end = info.header_offset + _LOCAL_HEADER.size
        if info.header_offset < 0 or header_end > len(self.buffer):
            raise ValueError(f"the record {name} lies outside the file: the file is damaged")
        magic, *_, name_size, extra_size = _LOCAL_HEADER.unpack(
            self.buffer[info.header_offset : header_end]
        )
        stored_name = self.buffer[header_end : header_end + name_size]
        start = header_end + name_size + extra_size
        if (
            magic != ZIP_MAGIC
            or stored_name != info.orig_filename.encode()
            or start + info.file_size > len(self.buffer)
        ):
            raise ValueError(f"the record {name} is damaged or cut short: download the file again")
        with memoryview(self.buffer) as view, view[start : start + info.file_size] as record:
            if zlib.crc32(record) != info.CRC:
                raise ValueError(f"the record {name} has a wrong checksum: download the file again")
        return start, info.file_size
