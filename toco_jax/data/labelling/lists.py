"""Reads lists of images, and names of images as lists and label files write them."""

import pathlib
import re
import unicodedata
from collections.abc import Callable

from toco_jax.data.files import read_list, refuse_repeats
from toco_jax.data.image_files import IMAGE_ENDINGS
from toco_jax.runtime.errors import DataError


def image_name(written: str, root: pathlib.Path | None = None) -> str:
    """Returns the name of the image: a/b for `./a/b.jpg`, `a\\b.JPG` and `<root>/a/b.jpg`.

    Letters with accents are composed.
    """
    path = pathlib.PurePosixPath(unicodedata.normalize("NFC", written.replace("\\", "/")))
    if root is not None and path.is_absolute():
        for folder in (root.absolute(), root.resolve()):
            if path.is_relative_to(folder.as_posix()):
                path = path.relative_to(folder.as_posix())
                break
    return without_ending(path.as_posix())


def without_ending(name: str) -> str:
    """Removes the ending of a picture from a name: `./a/b.jpg` becomes `a/b`."""
    path = pathlib.PurePosixPath(name)
    if path.suffix.lower() in IMAGE_ENDINGS:
        path = path.with_suffix("")
    return path.as_posix()


def read_names(path: pathlib.Path, name_of: Callable[[str], str] = image_name) -> tuple[str, ...]:
    """Reads the names of images in a list, one per line.

    Args:
        path: the list.
        name_of: returns the name of the image that a line means.

    Raises:
        DataError: no list, a line of several columns or with a path that is not below the data
            set's folder, or an image that comes twice.
    """
    names = []
    for line in read_list(path):
        columns = re.split(r"[\s,;]+", line)
        if any(column.lower().endswith(IMAGE_ENDINGS) for column in columns[:-1]):
            raise DataError(
                f"list {path} has the line {line!r}, which is more than the name of an image; "
                "write one image name a line, without a second column"
            )
        name = name_of(line)
        if pathlib.PurePosixPath(name).is_absolute():
            raise DataError(
                f"list {path} has the line {line!r}, which is not below the data set's folder; "
                "write names relative to it"
            )
        names.append(name)
    refuse_repeats(names, f"list {path}")
    return tuple(names)
