"""Your own images: a folder, its image-level labels, optional masks.

The labels of an image come from the first of these that is there, or from what `labels` names:

    labels.csv        a line `file,label;label` an image
    labels.json       {file: [labels]}
    a text file       beside each image, one label a line ("sidecars")
    sub-folders       one a class, the images inside ("folders")

and its split from the first of these:

    <split>.txt       a list, one image a line
    <split>/          a folder that holds the split's images (and, if so, the class folders)
    the names train and val: a share `val_fraction` of all images, drawn by a hash of seed and name

An image is named by its path within the root, without the ending. In masks, class k of the sorted
class names, or of classes.txt (one a line), has the value k + 1.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from toco_jax.data import DataError
from toco_jax.data.files import (
    READERS,
    FileSource,
    OnProblem,
    labels_of,
    raise_problem,
    read_list,
    refuse_empty,
    refuse_repeats,
)
from toco_jax.data.label_files import ENDINGS, as_vector, is_names, read_entries
from toco_jax.data.labels import read_bytes
from toco_jax.image_files import IMAGE_ENDINGS, image_files

LABEL_FILES = ("labels.csv", "labels.json")
CLASSES_FILE = "classes.txt"
MASKS = "masks"
MAX_CLASSES = 254  # of 8-bit masks, where 0 is the background and 255 ignored

Reader = Callable[[str], Any]


def open_folder(
    root: str | pathlib.Path,
    split: str,
    *,
    masks: bool,
    labels: str = "",
    mask_folder: str = "",
    val_fraction: float = 0.1,
    seed: int = 0,
    class_names: Sequence[str] = (),
    on_problem: OnProblem = raise_problem,
) -> FileSource:
    """Opens one split of a folder.

    Args:
        root: the folder; images of any size and mode lie in it at any depth.
        split: a list, a sub-folder, or train or val of a seeded split.
        masks: whether records carry "mask"; all pixels are ignored where there are no masks.
        labels: "" for what is there, "sidecars", "folders", or a label file (see `label_files`).
        mask_folder: folder of masks NAME.png; "" for <root>/masks if that is there.
        val_fraction: share of the images that is val in a seeded split.
        seed: of that split.
        class_names: all classes in label order; () for those of classes.txt or, in alphabetical
            order, those that the labels name.
        on_problem: called with an image's name and what is wrong with its label.

    Raises:
        DataError: a folder or file that is missing or not what it has to be, a label that is no
            class, an empty split.
    """
    root = pathlib.Path(root)
    folder = _mask_folder(root, mask_folder)
    files = _images(root, folder)
    kind = labels or _labels_there(root, files)
    names, reader = _labels(root, files, kind)
    members = _split_members(root, names, split, val_fraction, seed)
    class_names = tuple(class_names) or _class_names(root, names, reader)

    def read(name: str) -> np.ndarray:
        return as_vector(reader(name), class_names, f"labels of image {name!r}")

    return FileSource(
        class_names=class_names,
        split=split,
        names=members,
        images=tuple(files.get(name, root / name) for name in members),
        cls_labels=labels_of(members, read, len(class_names), on_problem),
        masks=_masks(folder, members, len(class_names)) if masks else None,
        list_folder=root,
    )


def _images(root: pathlib.Path, masks: pathlib.Path | None) -> dict[str, pathlib.Path]:
    """Every image below the root by name, sorted; those in the masks' folder are none."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the one that holds your images as data.root")
    files = {}
    for path in image_files(root, leave_out=[masks] if masks else []).files:
        key = path.relative_to(root).with_suffix("").as_posix()
        if key in files:
            raise DataError(
                f"{files[key]} and {path} have the same name without ending; rename one of them"
            )
        files[key] = path
    if not files:
        raise DataError(f"{root} holds no image ({', '.join(IMAGE_ENDINGS)}); correct data.root")
    return dict(sorted(files.items()))


def _split_members(
    root: pathlib.Path, names: Sequence[str], split: str, val_fraction: float, seed: int
) -> tuple[str, ...]:
    listed = root / f"{split}.txt"
    if listed.is_file():
        members = tuple(without_ending(line) for line in read_list(listed))
        refuse_repeats(members, f"list {listed}")
        refuse_empty(members, split, str(listed))
        return members
    if (root / split).is_dir():
        members = tuple(name for name in names if name.startswith(f"{split}/"))
        refuse_empty(members, split, str(root / split))
        return members
    other = {"train": "val", "val": "train"}.get(split)
    if other is None or (root / f"{other}.txt").is_file() or (root / other).is_dir():
        raise DataError(
            f"split {split!r}: {root} has neither a list {split}.txt nor a folder {split}; add "
            "one, or use the names train and val without both for a seeded split"
        )
    members = seeded_split(names, val_fraction, seed)[split]
    refuse_empty(members, split, f"data.val_fraction={val_fraction} of {len(names)} images")
    return members


def seeded_split(
    names: Sequence[str], val_fraction: float, seed: int
) -> dict[str, tuple[str, ...]]:
    """{"train", "val"}: the `val_fraction` of the names with the smallest hash of seed and name.

    One name decides by itself and the share alone where it goes, so that adding images moves few.
    """
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed}\n{n}".encode()).digest())
    count = round(val_fraction * len(names))
    return {"val": tuple(sorted(ranked[:count])), "train": tuple(sorted(ranked[count:]))}


def _labels_there(root: pathlib.Path, files: dict[str, pathlib.Path]) -> str:
    for name in LABEL_FILES:
        if (root / name).is_file():
            return name
    if any(path.with_suffix(".txt").is_file() for path in list(files.values())[:100]):
        return "sidecars"
    return "folders"


def _labels(
    root: pathlib.Path, files: dict[str, pathlib.Path], kind: str
) -> tuple[tuple[str, ...], Reader]:
    """The labelled images, and what the labels of one of them are."""
    if kind == "folders":
        return tuple(files), functools.partial(_folder_label, root)
    if kind == "sidecars":
        return tuple(files), functools.partial(_sidecar_labels, root)
    if pathlib.PurePath(kind).suffix not in ENDINGS:
        raise DataError(
            f"data.labels={kind!r} is none of sidecars, folders or a label file "
            f"({', '.join(ENDINGS)}); correct it"
        )
    path = root / kind
    entries = {without_ending(name): entry for name, entry in read_entries(path).items()}

    def read(name: str) -> Any:
        if name not in entries:
            raise DataError(
                f"label file {path} has no entry for image {name!r} (its first one is "
                f"{next(iter(entries))!r}); add it or take the image out of the split"
            )
        return entries[name]

    return tuple(sorted(entries)), read


def _folder_label(root: pathlib.Path, name: str) -> list[str]:
    folder = pathlib.PurePosixPath(name).parent.name
    if folder in ("", "train", "val", "test", "images"):
        raise DataError(
            f"image {root / name} lies in no class folder, and there are no labels.csv, "
            "labels.json or text files beside the images; add one of these"
        )
    return [folder]


def _sidecar_labels(root: pathlib.Path, name: str) -> list[str]:
    path = root / f"{name}.txt"
    try:
        text = read_bytes(path, "label file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"label file {path} is not UTF-8 text ({error}); save it so") from error
    return [line.strip() for line in text.replace(";", "\n").splitlines() if line.strip()]


def without_ending(name: str) -> str:
    """A file's name as images are named here: `./a/b.jpg` to `a/b`."""
    path = pathlib.PurePosixPath(name)
    if path.suffix.lower() in IMAGE_ENDINGS:
        path = path.with_suffix("")
    return path.as_posix()


def _class_names(root: pathlib.Path, names: Sequence[str], reader: Reader) -> tuple[str, ...]:
    if (root / CLASSES_FILE).is_file():
        listed = read_list(root / CLASSES_FILE)
        if not listed:
            raise DataError(f"{root / CLASSES_FILE} is empty; write one class a line")
        return listed

    def named(name: str) -> list[str]:
        try:
            labels = reader(name)
        except DataError:  # raised, or reported, when the labels of a split are read
            return []
        return ([labels] if isinstance(labels, str) else list(labels)) if is_names(labels) else []

    with ThreadPoolExecutor(READERS) as threads:
        found = sorted({label for labels in threads.map(named, names) for label in labels})
    if not found:
        reader(names[0])  # names the file where it is the files that are wrong
        raise DataError(
            f"the labels of {root} name no class; write class names, or list them in "
            f"{root / CLASSES_FILE} where labels are vectors"
        )
    return tuple(found)


def _mask_folder(root: pathlib.Path, chosen: str) -> pathlib.Path | None:
    folder = root / (chosen or MASKS)
    if folder.is_dir():
        return folder
    if chosen:
        raise DataError(f"data.masks={chosen!r}: {folder} is not a folder; correct the path")
    return None


def _masks(
    folder: pathlib.Path | None, names: Sequence[str], num_classes: int
) -> tuple[pathlib.Path | None, ...]:
    if folder is None:
        return (None,) * len(names)
    if num_classes > MAX_CLASSES:
        raise DataError(
            f"{num_classes} classes do not fit 8-bit masks, which hold {MAX_CLASSES}; remove "
            f"{folder} or use fewer classes"
        )
    return tuple(folder / f"{name}.png" for name in names)
