"""Reads lists of images, and names of images as lists and label files write them."""

import pathlib
import re
import unicodedata
from collections.abc import Callable, Mapping

from toco_jax.data.files import read_list, refuse_repeats
from toco_jax.data.image_files import IMAGE_ENDINGS
from toco_jax.runtime.errors import DataError, is_inside, shown


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


def finder(root: pathlib.Path, files: Mapping[str, pathlib.Path]) -> Callable[[str], str]:
    """Returns a function that finds the image which a name in a list or label file means.

    If no image has exactly this name, the name may have backslashes, letters of another encoding or
    no white space at its end, be a full path, or begin with the `data/` of YOLO's lists.
    """

    def loosely(name: str) -> str:
        return unicodedata.normalize("NFC", name).strip()

    meant: dict[str, list[str]] = {}
    for name in files:
        meant.setdefault(loosely(name), []).append(name)

    def find(text: str) -> str:
        name = without_ending(text)
        slashes = text.replace("\\", "/")
        for spelling in dict.fromkeys((text, slashes, slashes.removeprefix("data/"))):
            path = pathlib.PurePosixPath(without_ending(spelling))
            if path.is_relative_to(root.absolute()):
                path = path.relative_to(root.absolute())
            if path.as_posix() in files:
                return path.as_posix()
            if len(meant.get(loosely(path.as_posix()), ())) == 1:
                return meant[loosely(path.as_posix())][0]
        return name

    return find


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
                f"list {path} has the line {shown(line)}, which is more than the name of an image; "
                "write one image name a line, without a second column"
            )
        name = name_of(line)
        if not is_inside(name):
            raise DataError(
                f"list {path} has the line {shown(line)}, which is not below the data set's "
                "folder; write names relative to it"
            )
        names.append(name)
    refuse_repeats(names, f"list {path}")
    return tuple(names)
