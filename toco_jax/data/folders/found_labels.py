"""The image-level labels of a folder, wherever they come from."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toco_jax.data.folders.class_folders import mask_folders
from toco_jax.data.labelling.label_entries import is_names
from toco_jax.data.remarks import DataRemark, some
from toco_jax.runtime.errors import DataError


@dataclasses.dataclass
class Labels:
    """The labels of a folder.

    Attributes:
        entries: by the name of an image, or of an entry without an image, its label as in a label
            file or what is wrong with it.
        missing: returns the error to raise for an image without a label.
        joined: whether files of the same content get all of their labels together.
        order: the classes as a list in the labels' file has them; empty if there is none.
        paths: the files that hold the labels, except texts beside images.
        remarks: on how the labels were read.
    """

    entries: dict[str, Any]
    missing: Callable[[str], DataError]
    joined: bool = False
    order: Sequence[str] = ()
    paths: frozenset[pathlib.Path] = frozenset()
    remarks: list[DataRemark] = dataclasses.field(default_factory=list)

    def names(self) -> tuple[str, ...]:
        """Returns the names of all classes that the entries name, in no order."""
        found: dict[str, None] = {}
        for entry in self.entries.values():
            if is_names(entry):
                found |= dict.fromkeys(entry)
        return tuple(found)


def without_label(
    files: Mapping[str, pathlib.Path], entries: Mapping[str, Any], what: str, empty: str
) -> list[DataRemark]:
    """Remarks on images without an entry, which are in no split."""
    lacking = unlabelled(files, entries)
    masks = {name for names in mask_folders(lacking).values() for name in names}
    names = tuple(name for name in lacking if name not in masks)
    if not names:
        return []
    have = "has" if len(names) == 1 else "have"
    message = (
        f"{len(names)} of {len(files)} images {have} no {what} ({some(names)}); add it, or {empty} "
        "for an image without any class"
    )
    return [DataRemark("images without a label", message, names)]


def unlabelled(
    files: Mapping[str, pathlib.Path], entries: Mapping[str, Any]
) -> dict[str, pathlib.Path]:
    """Returns the images without an entry."""
    return {name: path for name, path in files.items() if name not in entries}
