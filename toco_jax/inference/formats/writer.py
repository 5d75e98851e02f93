"""`MaskWriter`: writes masks in the format of another tool, picture by picture."""

import pathlib
from collections.abc import Sequence
from types import ModuleType

from toco_jax.inference.formats import (
    coco,
    coco_panoptic,
    cvat,
    fiftyone,
    label_studio,
    labelme,
    ultralytics,
)
from toco_jax.inference.formats.pictures import Picture, Task
from toco_jax.runtime.errors import UserError, shown, some_of
from toco_jax.runtime.journal import Journal
from toco_jax.runtime.outputs import (
    OutputError,
    make_folder,
    open_atomically,
    write_atomically,
)

FORMATS: dict[str, ModuleType] = {
    "ultralytics": ultralytics,
    "coco": coco,
    "coco_panoptic": coco_panoptic,
    "cvat": cvat,
    "label_studio": label_studio,
    "labelme": labelme,
    "fiftyone": fiftyone,
}
WITH_POLYGONS = ("coco", "label_studio", "labelme")
# The index PNGs that are written anyway.
PLAIN = "png"


def parse(text: str, *, polygons: bool = False) -> tuple[str, ...]:
    """Returns the formats that `--format` names, with commas between them, without `PLAIN`.

    `polygons` tells whether `--polygons` is given.

    Raises:
        UserError: a name is no format, or no format knows polygons.
    """
    names = dict.fromkeys(name.strip() for name in text.split(","))
    for name in names.keys() - {PLAIN}:
        _format_of(name)
    if polygons and not set(WITH_POLYGONS) & names.keys():
        raise UserError(
            f"--polygons is for {some_of(WITH_POLYGONS)}, and --format={text} has none of them: "
            "add one, or leave --polygons out"
        )
    return tuple(name for name in names if name != PLAIN)


def refuse_present(folder: pathlib.Path, option: str) -> None:
    """Raises `OutputError` if a format's folder holds anything, such as masks that were corrected.

    `option` names the option that chooses another folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder} is there already, perhaps with masks that were corrected: move it away, or "
            f"give another {option}"
        )


def refuse_names(name: str, classes: Sequence[str]) -> None:
    """Raises `UserError` if a format cannot hold the names of the classes, or is none."""
    if problem := _format_of(name).problem(classes):
        raise UserError(f"--format={name} {problem}: rename the class, or use another format")


def _format_of(name: str) -> ModuleType:
    if name not in FORMATS:
        known = some_of([PLAIN, *FORMATS])
        raise UserError(f"--format has {shown(name)}, which is no format: use {known}")
    return FORMATS[name]


class MaskWriter:
    """Writes masks in the format of another tool.

    Files of one picture are written at once. What the files of all pictures need of one is kept on
    the disk until `save`, which may be called at any time and again.

    Args:
        name: one of `FORMATS`.
        folder: the format's folder; it is created.
        task: what all pictures share.

    Raises:
        UserError: the format cannot hold the names of the classes.
        OutputError: the folder cannot be created.
    """

    def __init__(self, name: str, folder: pathlib.Path, task: Task):
        refuse_names(name, task.names)
        self._format = FORMATS[name]
        self.folder = make_folder(folder, "--out")
        self._task = task
        self._entries = Journal(folder)

    def add(self, number: int, picture: Picture) -> None:
        """Writes the files of a picture, whose number is its position among all pictures."""
        files, entry = self._format.of_picture(picture, self._task)
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        self._entries.add(number, entry)

    def save(self) -> None:
        """Writes the files that describe all pictures so far."""
        for name, pieces in self._format.of_all(lambda: iter(self._entries), self._task).items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with open_atomically(path) as file:
                for piece in pieces:
                    file.write(piece.encode() if isinstance(piece, str) else piece)
