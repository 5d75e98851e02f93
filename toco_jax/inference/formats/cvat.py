"""CVAT's "Segmentation mask 1.1": `cvat.zip`, to be uploaded as annotations of a task.

The folder holds what is in the archive: `labelmap.txt`, the list of the pictures, and for each of
them a mask of its classes and a mask of its instances, which are the connected components. See
"Segmentation mask" of CVAT's documentation, and PASCAL VOC.
"""

import io
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from toco_jax.data.classes import palette
from toco_jax.data.mask_files import encode_mask
from toco_jax.inference.formats.components import components
from toco_jax.inference.formats.pictures import Picture, Task, frame_file
from toco_jax.runtime.errors import UserError, shown

FILE = "cvat.zip"
_LABELS = "labelmap.txt"
_LIST = "ImageSets/Segmentation/default.txt"
_FOLDERS = ("SegmentationClass", "SegmentationObject")
# Values of a mask of instances, without 0.
_MOST = 255


def problem(names: Sequence[str]) -> str:
    """Returns which name `labelmap.txt` cannot hold, or ""."""
    for name in names:
        if ":" in name:
            return f"ends the name of a class at a colon, and there is {shown(name)}"
        if name.startswith("#") or name != name.strip():
            return f"takes a line that begins with # or white space apart, as of {shown(name)}"
    if len(names) >= _MOST:
        return f"holds {_MOST - 1} classes at most, and there are {len(names)}"
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], str]:
    """Returns both masks; the entry is the picture's name.

    Raises:
        UserError: the list cannot hold the name.
    """
    # The names in an archive are UTF-8.
    name = picture.name.encode(errors="surrogateescape").decode(errors="replace")
    if len(name.splitlines()) != 1 or name.startswith("#") or name != name.strip():
        raise UserError(
            f"--format=cvat lists pictures by name, and cannot hold {shown(name)}, which begins "
            "with #, or begins or ends with white space, or has a line break: rename the picture"
        )
    mask = np.where(picture.mask <= len(task.names), picture.mask, 0)
    masks = (mask, _instances(mask, len(task.names)))
    files = {
        f"{folder}/{name}.png": encode_mask(labels)
        for folder, labels in zip(_FOLDERS, masks, strict=True)
    }
    return files | frame_file(picture), name


def of_all(
    entries: Callable[[], Iterator[Any]], task: Task
) -> dict[str, Iterator[str] | Iterator[bytes]]:
    """Returns the labels, the list and the archive, which reads the masks from the disk."""

    def labels() -> Iterator[str]:
        yield "# label:color_rgb:parts:actions\n"
        for name, colour in zip(("background", *task.names), palette(), strict=False):
            yield f"{name}:{','.join(map(str, colour.tolist()))}::\n"

    listed = (f"{name}\n" for name in entries())
    return {_LABELS: labels(), _LIST: listed, FILE: _archive(entries, task.folder)}


def _instances(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Numbers the components of a mask from 1, uint8.

    If there are more than 255, the smallest ones of a class get a number together.
    """
    found = sorted(components(mask, num_classes), key=lambda part: -part.area)
    alone = _MOST if len(found) <= _MOST else _MOST - len({part.label for part in found})
    numbers: dict[int, int] = {}
    numbered = np.zeros(mask.shape, np.uint8)
    for number, part in enumerate(found, start=1):
        if number > alone:
            numbers.setdefault(part.label, alone + 1 + len(numbers))
        left, top, width, height = part.box
        own = number if number <= alone else numbers[part.label]
        numbered[top : top + height, left : left + width][part.inside] = own
    return numbered


def _archive(entries: Callable[[], Iterator[Any]], folder: pathlib.Path) -> Iterator[bytes]:
    """Yields a zip file piece by piece; its masks are those in the folder."""
    stream = _Stream()
    # Stored as they are: a PNG is compressed already.
    with zipfile.ZipFile(stream, "w") as archive:
        for name in (_LABELS, _LIST):
            archive.write(folder / name, name)
        for name in entries():
            for kind in _FOLDERS:
                archive.write(folder / kind / f"{name}.png", f"{kind}/{name}.png")
            yield stream.taken()
    yield stream.taken()


class _Stream(io.RawIOBase):
    """Takes what a zip file is written to, and hands it on in pieces."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._pieces.append(bytes(content))
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        """Returns what was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)
