"""Finds the images of a split of a folder: by a list, by a sub-folder, or by lot."""

import hashlib
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence

from toco_jax.data.files import refuse_empty
from toco_jax.data.folders.folder_names import HOLDERS, in_any_case, looks_like_split, plain
from toco_jax.data.labelling.lists import read_names
from toco_jax.runtime.errors import DataError


def split_list(root: pathlib.Path, split: str) -> pathlib.Path | None:
    """Finds the list of a split, <split>.txt in capitals or small letters."""
    return in_any_case(root, f"{split}.txt", pathlib.Path.is_file)


def split_folder(root: pathlib.Path, split: str, classes: Collection[str]) -> pathlib.Path | None:
    """Finds the folder of a split, in the root or in a folder of all images (`images/train`).

    A folder with the name of one of the listed `classes` is that of a split only if there are
    folders of classes in it.
    """
    for place in _places(root):
        folder = in_any_case(place, split, pathlib.Path.is_dir)
        if folder and (
            folder.name not in classes or any((folder / name).is_dir() for name in classes)
        ):
            return folder
    return None


def _places(root: pathlib.Path) -> list[pathlib.Path]:
    holders = [path for path in root.iterdir() if plain(path.name) in HOLDERS and path.is_dir()]
    return [root, *sorted(holders)]


def split_members(
    root: pathlib.Path,
    labelled: Collection[str],
    copies: Mapping[str, str],
    split: str,
    *,
    classes: Collection[str],
    find: Callable[[str], str],
    val_fraction: float,
    split_seed: int,
) -> tuple[str, ...]:
    """Names the images of a split. Of several files with the same content the first one counts.

    Args:
        root: see `sources.folder.open_folder`, as for `split`, `val_fraction` and `split_seed`.
        labelled: names of the images with a label, in order.
        copies: for each image that other files hold too, the first of their names.
        split: name of a list, of a folder, or train or val.
        classes: names of the classes if they are folders.
        find: returns the name of the image that a line of a list means.
        val_fraction: see there.
        split_seed: see there.

    Raises:
        DataError: there is no such split, it is empty, or its list names something twice or holds
            more than names.
    """
    listed, folder = split_list(root, split), split_folder(root, split, classes)
    if listed:
        names = read_names(listed, find)
        refuse_empty(names, split, str(listed))
    elif folder:
        inside = f"{folder.relative_to(root).as_posix()}/"
        names = [name for name in labelled if name.startswith(inside)]
        refuse_empty(names, split, str(folder))
    else:
        _refuse_other_splits(root, split, classes)
        images = [name for name in labelled if copies.get(name, name) == name]
        names = seeded_split(images, val_fraction, split_seed)[split]
        if not names:
            raise DataError(
                f"split {split!r} is empty with data.val_fraction={val_fraction} of "
                f"{len(images)} images; change that share or add images"
            )
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(copies.get(name, name), name)
    return tuple(first.values())


def _refuse_other_splits(root: pathlib.Path, split: str, classes: Collection[str]) -> None:
    """Raises `DataError` unless the split is train or val and there is no trace of the other."""
    other = {"train": "val", "val": "train"}.get(split)
    if other and not split_list(root, other) and not split_folder(root, other, classes):
        return
    there = [
        path.name
        for place in _places(root)
        for path in sorted(place.iterdir())
        if path.is_dir() and looks_like_split(path.name) and plain(path.name) != other
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
    """Draws {"train", "val"}: val gets the names with the smallest hash of seed and name.

    Where a name goes depends on that name and the share alone, so adding images moves few others.
    """
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed}\n{n}".encode()).digest())
    count = round(val_fraction * len(names))
    return {"val": tuple(sorted(ranked[:count])), "train": tuple(sorted(ranked[count:]))}
