"""Reads the photos that a command line names, and checks where the figures go."""

import pathlib
from collections.abc import Iterator, Sequence, Sized

import numpy as np

from toco_jax.data.photos import read_photo
from toco_jax.data.picture_files import PhotoError
from toco_jax.inference import inputs
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import OutputError, make_folder

# What is drawn: a picture, or a folder of pictures. The numbers lie beside it, with .json.
RESULTS = ("similarity.png", "attention", "layers.png", "step.png")


class Photos:
    """The photos that words of a command line name, read one after the other.

    Iteration yields path, name of its results, and image uint8 `[H, W, 3]`.

    Attributes:
        failed: `{"file": path, "error": message}` for each file that could not be used.

    Args:
        words: words of a command line.
    """

    def __init__(self, words: Sequence[str]):
        self.failed: list[dict[str, str]] = []
        self._found = inputs.find_files(words)

    def __iter__(self) -> Iterator[tuple[pathlib.Path, str, np.ndarray]]:
        for remark in self._found.remarks:
            say(f"remark: {remark}", error=True)
        for word, error in self._found.problems:
            self.fail(word, error)
        files = [(path, name) for path, name in self._found.files if not is_result(path)]
        if left_out := len(self._found.files) - len(files):
            say(f"remark: {left_out} results of toco analyze are left out", error=True)
        for path, name in files:
            try:
                if inputs.is_video(path):
                    raise PhotoError(f"{path} is a video: give pictures")
                image, notes = read_photo(path)
            except PhotoError as error:
                self.fail(path, error)
                continue
            for note in notes:
                say(f"{path}: {note}")
            yield path, name, image

    def fail(self, path: str | pathlib.Path, error: Exception) -> None:
        """Records and prints that a file could not be used."""
        say(f"error: {error}", error=True)
        self.failed.append({"file": str(path), "error": str(error)})

    def refuse_none(self, used: Sized) -> None:
        """Raises `UserError` if no photo could be used."""
        if not used:
            raise UserError("none of the files could be used, nothing is written: give photos")


def is_result(path: pathlib.Path) -> bool:
    """Whether a picture is one that `toco analyze` drew, in this call or an earlier one."""
    path = path.absolute()
    places = (place for place in (path, *path.parents) if place.name in RESULTS)
    return any(_numbers_of(place).is_file() for place in places)


def _numbers_of(picture: pathlib.Path) -> pathlib.Path:
    return picture.with_suffix(".json")


def claim(picture: pathlib.Path, words: Sequence[str]) -> pathlib.Path:
    """Checks that a figure can be written, and returns the path of its numbers beside it.

    Args:
        picture: the picture, or the folder of pictures.
        words: words that name photos.

    Raises:
        OutputError: its folder cannot be written to, something that this command did not write is
            at its place, or a word names it.
    """
    numbers = _numbers_of(picture)
    make_folder(picture.parent, "--out")
    for word in words:
        path = pathlib.Path(word).resolve()
        if picture.resolve() in (path, *path.parents):
            raise OutputError(
                f"{word} is a result of --out={picture.parent}, which would overwrite it: give "
                "another folder"
            )
    if picture.exists() and not numbers.exists():
        raise OutputError(
            f"{picture} is there already and is not of this command (there is no {numbers}): give "
            "another folder as --out, or move it"
        )
    return numbers
