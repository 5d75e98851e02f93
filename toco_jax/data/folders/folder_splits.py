"""Which images of a folder belong to a split: by a list, by a folder, or by lot."""

import hashlib
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

from toco_jax.data.files import refuse_empty
from toco_jax.data.folders.class_folders import SPLIT_NAMES, plain
from toco_jax.data.labelling.lists import read_names
from toco_jax.runtime.errors import DataError


def split_list(root: pathlib.Path, split: str) -> pathlib.Path | None:
    """The list of a split, in capitals or small letters, if there is one."""
    return _alike(root, f"{split}.txt", pathlib.Path.is_file)


def split_folder(root: pathlib.Path, split: str) -> pathlib.Path | None:
    """The folder of a split, in capitals or small letters, if there is one."""
    return _alike(root, split, pathlib.Path.is_dir)


def _alike(
    root: pathlib.Path, name: str, is_right: Callable[[pathlib.Path], bool]
) -> pathlib.Path | None:
    if is_right(root / name):
        return root / name
    alike = [p for p in root.iterdir() if p.name.casefold() == name.casefold() and is_right(p)]
    if len(alike) > 1:
        raise DataError(
            f"{alike[0]} and {alike[1]} differ in capitals alone, and either may be meant by "
            f"{name!r}; rename one of them"
        )
    return alike[0] if alike else None


def split_members(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    labelled: Collection[str],
    copies: Mapping[str, str],
    split: str,
    *,
    find: Callable[[str], str],
    val_fraction: float,
    split_seed: int,
) -> tuple[str, ...]:
    """The names of a split's images; of several files with the same content the first one.

    Args:
        root: the folder.
        files: the image files by name.
        labelled: the names of the images with a label, in order.
        copies: name of an image that other files hold too to the first of their names.
        split: the name of a list, of a folder, or train or val.
        find: the name of the image that a line of a list means.
        val_fraction: share of val in a split by lot.
        split_seed: draws that split.

    Raises:
        DataError: no such split, an empty one, a list that names something twice or more than
            names.
    """
    listed, folder = split_list(root, split), split_folder(root, split)
    if listed:
        names = read_names(listed, find)
        where = str(listed)
    elif folder:
        names = [name for name in labelled if name.startswith(f"{folder.name}/")]
        where = str(folder)
    else:
        _refuse_other_splits(root, split)
        images = [name for name in labelled if copies.get(name, name) == name]
        names = seeded_split(images, val_fraction, split_seed)[split]
        where = f"data.val_fraction={val_fraction} of {len(images)} images"
    refuse_empty(names, split, where)
    first = {}
    for name in names:
        first.setdefault(copies.get(name, name), name)
    return tuple(first.values())


def _refuse_other_splits(root: pathlib.Path, split: str) -> None:
    """Raises `DataError` unless this is train or val and there is no trace of the other."""
    other = {"train": "val", "val": "train"}.get(split)
    if other and not split_list(root, other) and not split_folder(root, other):
        return
    there = [
        path.name
        for path in sorted(root.iterdir())
        if path.is_dir() and plain(path.name) in SPLIT_NAMES and plain(path.name) != other
    ]
    key = "val_split" if split == "val" else "train_split"
    choose = f", set data.{key} to one of the folders there ({', '.join(there)})" if there else ""
    raise DataError(
        f"split {split!r}: {root} has neither a list {split}.txt nor a folder {split}; add one"
        f"{choose}, or use the names train and val without both for a seeded split"
    )


def seeded_split(
    names: Sequence[str], val_fraction: float, seed: int
) -> dict[str, tuple[str, ...]]:
    """{"train", "val"}: the `val_fraction` of the names with the smallest hash of seed and name.

    One name decides by itself and the share alone where it goes, so that adding images moves few.
    """
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed}\n{n}".encode()).digest())
    count = round(val_fraction * len(names))
    return {"val": tuple(sorted(ranked[:count])), "train": tuple(sorted(ranked[count:]))}
