"""The results folder of `predict`: `predictions.json` and the folders beside it."""

import argparse
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

from toco_jax.data import photos
from toco_jax.inference.formats.writer import FORMATS, MaskWriter, refuse_present
from toco_jax.inference.segmenter import Segmenter
from toco_jax.runtime.console import say
from toco_jax.runtime.journal import Journal
from toco_jax.runtime.json_text import object_text
from toco_jax.runtime.outputs import OutputError, make_folder, open_atomically

REPORT_FILE = "predictions.json"
FOLDERS = ("masks", "overlays", "cams")
# Folders that a call may have written.
ALL_FOLDERS = (*FOLDERS, *FORMATS)
_SAVE_EVERY = 10  # seconds
# Saving, which takes the longer the more pictures there are, takes one part in so many of the time.
_SAVE_SHARE = 20
_SLUG_LENGTH = 60


def claim_results(
    out: pathlib.Path, words: Sequence[str], formats: Sequence[str] = ()
) -> list[pathlib.Path]:
    """Creates the results folder, checks it, and returns the paths of the folders within it.

    Args:
        out: the folder.
        words: the words that name pictures.
        formats: formats in which masks are written, too, each to the folder of its name.

    Raises:
        OutputError: the folder cannot be written, it holds folders that this command did not
            write, a word names a file among the results, which would be overwritten, or masks of a
            format are there, which may have been corrected.
    """
    folders = [out / name for name in (*FOLDERS, *formats)]
    for word in words:
        path = pathlib.Path(word).resolve()
        if any(folder.resolve() in (path, *path.parents) for folder in folders):
            raise OutputError(
                f"{word} lies among the results of --out={out}, which would overwrite it: give "
                "another folder"
            )
    if not (out / REPORT_FILE).exists():
        for folder in folders:
            if folder.exists():
                raise OutputError(
                    f"{folder} is there already and is not of this command (there is no "
                    f"{out / REPORT_FILE}): give another folder as --out, or move it"
                )
    for name in formats:
        refuse_present(out / name, "--out")
    for folder in (out, *filter(pathlib.Path.exists, folders)):
        make_folder(folder, "--out")
    return folders


class Report:
    """The content of `predictions.json`, saved now and then in case the command is stopped.

    The files of `writers` that describe all pictures are saved with it.

    Attributes:
        path: path of the file.
        entries: the entry of each picture, by its position in the input; they are on the disk.
        failed: `{"file": path, "error": message}` for each file that could not be segmented.
        complete: whether all files have been processed.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        segmenter: Segmenter,
        writers: Sequence[MaskWriter] = (),
    ):
        self.path = options.out / REPORT_FILE
        self.entries = Journal(options.out)
        self._writers = writers
        self.failed: list[dict[str, str]] = []
        self.complete = False
        self._about = {
            "checkpoint": str(options.checkpoint),
            "step": segmenter.step,
            "classes": ["background", *segmenter.class_names],
            "from": options.source,
            "threshold": options.threshold,
            "max_side": segmenter.max_side,
        }

    def fail(self, path: str | os.PathLike, error: Exception) -> None:
        """Records and prints that a file could not be segmented."""
        say(f"error: {error}", error=True)
        self.failed.append({"file": str(path), "error": str(error)})

    def read(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Returns a job with its image added, or None, after `fail`, if the file cannot be read."""
        if "image" in job:
            return job
        try:
            image, notes = photos.read_photo(job["path"])
        except photos.PhotoError as error:
            self.fail(job["path"], error)
            return None
        return job | {"image": image, "notes": notes}

    def add(self, order: int, entry: dict[str, Any]) -> None:
        """Records a picture's entry and prints its predicted classes and notes."""
        self.entries.add(order, entry)
        say("  ".join([entry["file"], ", ".join(entry["predicted"]) or "-", *entry["notes"]]))
        if time.monotonic() > self._next_save:
            self.save()

    def save(self) -> None:
        """Writes the files with the entries so far."""
        began = time.monotonic()
        content = {"complete": self.complete, "images": iter(self.entries), "failed": self.failed}
        with open_atomically(self.path) as file:
            for piece in object_text(self._about | content, indent=1):
                file.write(piece.encode())
        for writer in self._writers:
            writer.save()
        saved = time.monotonic()
        self._next_save = saved + max(_SAVE_EVERY, _SAVE_SHARE * (saved - began))


def class_slugs(names: Sequence[str]) -> list[str]:
    """Returns a unique part of a file name for each class: letters, digits, `-` and `_`.

    It holds no dot, so that dots separate it from the rest of the file's name.
    """
    slugs: list[str] = []
    for name in names:
        base = slug = re.sub(r"[^\w-]", "_", name)[:_SLUG_LENGTH]
        number = 2
        while slug.casefold() in (other.casefold() for other in slugs):
            slug, number = f"{base}-{number}", number + 1
        slugs.append(slug)
    return slugs
