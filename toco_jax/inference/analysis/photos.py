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


class Photos:
    """The photos that words of a command line name, read one after the other.

    Iteration yields path, name of its results, and image uint8 `[H, W, 3]`.

    Attributes:
        failed: `{"file": path, "error": message}` for each file that could not be used.

    Args:
        words: words of a command line.
        leave_out: the picture, or the folder of pictures, that the command writes.
    """

    def __init__(self, words: Sequence[str], *, leave_out: pathlib.Path):
        self.failed: list[dict[str, str]] = []
        self._found = inputs.find_files(words, results=[leave_out])
        self._leave_out = leave_out.resolve()

    def __iter__(self) -> Iterator[tuple[pathlib.Path, str, np.ndarray]]:
        for remark in self._found.remarks:
            say(f"remark: {remark}", error=True)
        for word, error in self._found.problems:
            self.fail(word, error)
        for path, name in self._found.files:
            if path.resolve() == self._leave_out:
                continue
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


def claim(picture: pathlib.Path, words: Sequence[str]) -> pathlib.Path:
    """Checks that a figure can be written, and returns the path of its numbers beside it.

    Args:
        picture: the picture, or the folder of pictures.
        words: words that name photos.

    Raises:
        OutputError: its folder cannot be written to, something that this command did not write is
            at its place, or a word names it.
    """
    numbers = picture.with_suffix(".json")
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
