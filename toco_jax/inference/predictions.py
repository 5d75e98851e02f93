"""The results folder of `predict`: `predictions.json` and the folders beside it."""

import argparse
import json
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

from toco_jax.data import photos
from toco_jax.inference.segmenter import Segmenter
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import OutputError, make_folder, write_atomically

REPORT_FILE = "predictions.json"
FOLDERS = ("masks", "overlays", "cams")
_SAVE_EVERY = 10  # seconds
_SLUG_LENGTH = 60


def claim_results(out: pathlib.Path, words: Sequence[str]) -> list[pathlib.Path]:
    """Creates the results folder, checks it, and returns the paths of the folders within it.

    Raises:
        OutputError: the folder cannot be written, it holds folders that this command did not
            write, or a word names a file among the results, which would be overwritten.
    """
    folders = [out / name for name in FOLDERS]
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
    for folder in (out, *filter(pathlib.Path.exists, folders)):
        make_folder(folder, "--out")
    return folders


class Report:
    """The content of `predictions.json`, saved every few seconds in case the command is stopped.

    Attributes:
        path: path of the file.
        entries: the entry of each picture, by its position in the input.
        failed: `{"file": path, "error": message}` for each file that could not be segmented.
        complete: whether all files have been processed.
    """

    def __init__(self, options: argparse.Namespace, segmenter: Segmenter):
        self.path = options.out / REPORT_FILE
        self.entries: dict[int, dict[str, Any]] = {}
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
        self.entries[order] = entry
        say("  ".join([entry["file"], ", ".join(entry["predicted"]) or "-", *entry["notes"]]))
        if time.monotonic() - self._saved > _SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Writes the file with the entries so far."""
        images = [self.entries[order] for order in sorted(self.entries)]
        content = {"complete": self.complete, "images": images, "failed": self.failed}
        write_atomically(self.path, json.dumps(self._about | content, indent=1) + "\n")
        self._saved = time.monotonic()


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
