"""A folder with most faults that people's folders have, all at once."""

import os
import pathlib
import shutil

import numpy as np
from data.conftest import pictures, write_mask

# Folder: names of its pictures.
_PICTURES = {
    "Train/Cat": ("1", "2"),  # Cat and cat are two classes
    "Train/cat": ("1", "2", "3", "4"),
    "Train/dog": ("1", "2"),
    "Train/dog/batch1": ("3", "4"),  # a batch, not a class
    "Train/cow/batch1": ("1", "2"),
    "Train/farm/hen": ("1",),  # a class farm, or classes hen and goose?
    "Train/farm/goose": ("1",),
    "Train/sheep/val": ("1",),  # a split in a class
    "Train/background": ("1", "2"),  # shares the key of label 0
    "Train/_unlabeled": ("1", "2", "3"),
    "Train/c2": ("1",),  # before or after c10?
    "Train/c10": ("1",),
    "Train/cat+dog": ("1",),  # two classes, or one?
    "Train/@eaDir": ("1",),  # made by a network drive
    "Train/.old": ("1", "2"),
    "Train/line\nbreak": ("1",),
    "Train": ("stray",),  # of no class
    "Val/cat": ("v1", "v2", "v3"),
    "Val/dog": ("v1",),
    "Val/yak": ("v1",),  # never in training
    "test/cat": ("t1",),  # in no split
    "extra/cat": ("x1",),
}


def make(root: pathlib.Path) -> pathlib.Path:
    """Makes the folder: for class folders and, with data.labels=tags.csv, for a label file."""
    pictures(root, *(f"{f}/{n}.jpg" for f, names in _PICTURES.items() for n in names))
    _copy_pictures(root)
    _add_links(root)
    _add_files_to_pass_over(root)
    _add_masks(root)
    _add_label_file(root)
    return root


def _copy_pictures(root: pathlib.Path) -> None:
    for one, other in (
        ("Train/cat/1", "Train/dog/cat1"),  # a cat and a dog
        ("Train/cat/2", "Train/background/cat2"),  # a cat, and nothing
        ("Train/cat/3", "Val/cat/copied"),  # seen in training
    ):
        shutil.copy(root / f"{one}.jpg", root / f"{other}.jpg")


def _add_links(root: pathlib.Path) -> None:
    pictures(root.parent, f"{root.name}_store/emu/1.jpg", f"{root.name}_store/emu/2.jpg")
    os.symlink(root.parent / f"{root.name}_store" / "emu", root / "Train" / "emu")
    os.symlink(root / "Train", root / "Train" / "dog" / "circle")
    os.symlink(root / "gone.jpg", root / "Train" / "dog" / "gone.jpg")


def _add_files_to_pass_over(root: pathlib.Path) -> None:
    for name in ("cat/._1.jpg", "dog/._1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/scan.pdf"):
        (root / "Train" / name).write_bytes(b"\0")
    (root / "Train" / "dog" / "raw.NEF").write_bytes(b"\0")
    (root / "Train" / "cat" / "4.txt").write_text("taken in the evening\n")  # no label
    (root / "labels.txt").write_text("cat\ndog\n")  # of no use
    (root / "Train" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    pictures(root, "Train/dog/1.png")  # dog/1.jpg has the same name


def _add_masks(root: pathlib.Path) -> None:
    for folder, names in (("masks/Val/cat", ("v1", "v2")), ("Train/annotations", ("1", "2"))):
        (root / folder).mkdir(parents=True)
        for name in names:
            write_mask(root / folder / f"{name}.png", np.zeros((4, 5), np.uint8))


def _add_label_file(root: pathlib.Path) -> None:
    rows = (
        *("Train/cat/1.jpg,cat", "Train/dog/cat1.jpg,dog"),  # the same picture
        *("./Train/cat/2.jpg,cat", "Train/cat/2,dog"),  # the same name
        *("Train\\cat\\3.jpg,cat", "Train/cat/4.jpg,Cat"),
        *("Train/Cat/1.jpg,background", "Train/Cat/2.jpg,cat;Background"),
        *("Train/dog/2.jpg,dog", "Train/dog/gone.jpg,dog", "Train/dog/9.jpg,dog"),
        *("Val/cat/v1.jpg,cat", "Val/cat/copied.jpg,cat", "Val/yak/v1.jpg,yak"),
    )
    (root / "tags.csv").write_text("".join(f"{row}\n" for row in rows))
