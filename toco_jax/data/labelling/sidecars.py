"""Reads labels from text files, one beside each image."""

import pathlib
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toco_jax.data.files import READERS
from toco_jax.data.labelling.label_entries import understand
from toco_jax.data.labelling.label_text import Positions
from toco_jax.data.labelling.other_content import NUMBER
from toco_jax.data.labelling.text_files import read_text
from toco_jax.runtime.errors import DataError, shown, some_of

# A row of boxes or outlines as YOLO's tools write them: a class and at least four numbers.
_BOXES = re.compile(rf"\s*\d{{1,9}}(\s+{NUMBER}){{4,}}\s*", re.IGNORECASE)


def read_sidecars(
    root: pathlib.Path,
    paths: Mapping[str, pathlib.Path],
    *,
    known: Collection[str],
    separator: str,
) -> tuple[dict[str, Any], list[str]]:
    """Reads the text file of every image, in `paths` by the image's name.

    A file lists labels, or has a row of numbers for each box, the first of which is its class. See
    `label_entries.understand` for `known` and `separator`.

    Returns:
        The labels of each image as in `LabelFile.entries`, or the `DataError` to raise for it if
        its file cannot be read; and remarks.

    Raises:
        DataError: boxes without a list of classes, or labels that may be read in two ways.
    """

    def attempt(path: pathlib.Path) -> str | DataError:
        try:
            return read_text(path, "label file")
        except DataError as error:
            return error

    with ThreadPoolExecutor(READERS) as threads:
        found = dict(zip(paths, threads.map(attempt, paths.values()), strict=True))
    texts = {name: text for name, text in found.items() if isinstance(text, str)}
    labels = _classes_of_boxes(root, paths, texts, known)
    if labels:
        remarks = [f"text files in {root} hold YOLO's boxes, whose numbers are classes from 0 on"]
        if empty := [name for name, label in labels.items() if not label.numbers]:
            one = len(empty) == 1
            remarks.append(
                f"text files in {root}: {len(empty)} {'is' if one else 'are'} empty "
                f"({some_of(empty, 3)}), and {'its image counts' if one else 'their images count'} "
                "as without any class; remove those of images that are not labelled yet"
            )
    else:
        entries, remarks = understand(
            list(texts.values()),
            list(texts),
            known=known,
            separator=separator,
            where=f"text files in {root}",
        )
        labels = dict(zip(texts, entries, strict=True))
    return found | labels, remarks


def _classes_of_boxes(
    root: pathlib.Path,
    paths: Mapping[str, pathlib.Path],
    texts: Mapping[str, str],
    known: Collection[str],
) -> dict[str, Positions]:
    """Returns the classes of the boxes in the texts; empty if they hold no boxes."""
    rows = {name: [line for line in t.splitlines() if line.strip()] for name, t in texts.items()}
    boxes = {name for name, lines in rows.items() if any(map(_BOXES.fullmatch, lines))}
    if not boxes:
        return {}
    first = paths[min(boxes)]
    for name, lines in rows.items():
        strange = [line for line in lines if not _BOXES.fullmatch(line)]
        if strange:
            raise DataError(
                f"label file {first} holds boxes, a class number and coordinates a row, but "
                f"{paths[name]} has {shown(strange[0])}; write either boxes or names everywhere"
            )
    if not known:
        raise DataError(
            f"label file {first} holds boxes, a class number and coordinates a row; list the "
            f"classes in {root / 'classes.txt'}, one a line in the order of their numbers, or as "
            "names in data.yaml"
        )
    return {
        name: Positions(tuple(sorted({int(line.split()[0]) for line in lines})))
        for name, lines in rows.items()
    }
