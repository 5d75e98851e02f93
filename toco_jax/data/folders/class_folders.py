"""Reads labels off folders: classes, splits, batches of one class, masks, unlabelled images.

The first folder on the way to an image is its class, after the folders of splits and a folder of
that sort that holds all images (`train/images/cat/x.jpg`). What lies deeper in it, such as
`cat/batch1/x.jpg`, is of that class too, unless the deeper folders may be the classes as well.
Folders that classes.txt lists are classes wherever they are.
"""

import pathlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from toco_jax.data.files import OnProblem
from toco_jax.data.folders.folder_names import (
    HOLDERS,
    MASK_NAMES,
    SPLIT_NAMES,
    UNLABELLED,
    looks_like_batch,
    looks_like_split,
    plain,
)
from toco_jax.data.picture_files import open_picture
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError, some_of

Entries = dict[str, list[str] | DataError]
# Names of images by class folder and by the folder in it, "" if they lie right in the class folder.
_Tree = dict[str, dict[str, list[str]]]


def read_class_folders(
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    *,
    listed: Collection[str],
    splits: Collection[str],
    in_folders: bool,
    in_lists: bool,
    on_problem: OnProblem,
) -> tuple[Entries, list[DataRemark]]:
    """Labels images by the folders that they lie in; see `folder_labels.read_labels`.

    `in_folders` and `in_lists` say whether splits are folders, outside of which images are left
    out, and whether they are lists. If no classes are `listed`, the folders decide.

    Returns:
        The label of each labelled image, or what is wrong with it, and remarks.
    """
    known = {plain(split) for split in splits} | set(SPLIT_NAMES)
    classes, outer = set(listed), {*known, *HOLDERS} - set(listed)
    inside = {name: _inner_folders(name, outer) for name in files}
    unlisted = {name: files[name] for name in files if classes.isdisjoint(inside[name])}
    masks = mask_folders(unlisted)
    for folder, names in masks.items():
        message = (
            f"folder {root / folder} ({count(len(names), 'picture')}) looks like masks, not like a "
            f"class; set data.masks={folder}, or list its name in {root / 'classes.txt'} if it is "
            "a class"
        )
        on_problem("", DataError(message))
    entries: Entries = {}
    tree: _Tree = {}
    outside, unlabelled = [], []
    of_masks = {name for names in masks.values() for name in names}
    for name, folders in inside.items():
        if name in of_masks:
            continue
        if in_folders and not _is_in_split(name, folders, known):
            outside.append(name)
        elif folders and folders[0] not in listed and plain(folders[0]) in UNLABELLED:
            unlabelled.append(name)
        else:
            entries[name] = _label(files[name], folders, listed)
            if name in unlisted and folders:
                held = len(folders) == 1 or plain(folders[1]) in HOLDERS
                second = tree.setdefault(folders[0], {})
                second.setdefault("" if held else folders[1], []).append(name)
    if not listed:
        for message in _ambiguous(root, tree, known, in_lists=in_lists):
            on_problem("", DataError(message))
    return entries, _remarks(tree, outside, unlabelled)


def _inner_folders(name: str, outer: Collection[str]) -> tuple[str, ...]:
    """The folders of an image after the first ones that are no classes."""
    folders = name.split("/")[:-1]
    while folders and plain(folders[0]) in outer:
        folders = folders[1:]
    return tuple(folders)


def _is_in_split(name: str, inner: Sequence[str], splits: Collection[str]) -> bool:
    """Whether a folder of an image, up to the first of its inner ones, is that of a split."""
    folders = name.split("/")[:-1]
    outer = folders[: len(folders) - len(inner) + 1]
    return any(plain(folder) in splits for folder in outer)


def _label(
    path: pathlib.Path, folders: Sequence[str], listed: Collection[str]
) -> list[str] | DataError:
    within = [folder for folder in folders if folder in listed]
    classes = list(dict.fromkeys(within)) or list(folders[:1])
    if len(classes) > 1:
        return DataError(
            f"image {path} lies in folders of several classes ({some_of(classes)}); take one of "
            "these folders out or write labels.csv"
        )
    folder = path.parent.name
    why = f" ({folder!r} is taken for a split unless classes.txt lists it)"
    return classes or DataError(
        f"image {path} lies in no class folder{why if plain(folder) in SPLIT_NAMES else ''}, and "
        "there are no labels.csv, labels.json or text files beside the images; add one of these"
    )


def mask_folders(files: Mapping[str, pathlib.Path]) -> dict[str, list[str]]:
    """Finds folders that seem to hold masks, and the names of the images in them.

    A folder of masks has a name for masks, or each of its files is a PNG of indices with the name
    of a photo elsewhere.
    """
    by_folder: dict[str, list[str]] = {}
    endings: dict[str, set[str]] = {}
    for name, path in files.items():
        folder, _, stem = name.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
        endings.setdefault(stem, set()).add(path.suffix.lower())
    found: dict[str, list[str]] = {}
    for folder, names in by_folder.items():
        parts = folder.split("/")
        named = [k for k, part in enumerate(parts, start=1) if plain(part) in MASK_NAMES]
        if named:
            found.setdefault("/".join(parts[: named[0]]), []).extend(names)
        elif all(
            files[name].suffix.lower() == ".png" and len(endings[name.rpartition("/")[2]]) > 1
            for name in names
        ) and _is_indexed(files[names[0]]):
            found[folder] = names
    return found


def _is_indexed(path: pathlib.Path) -> bool:
    try:
        with open_picture(path) as picture:
            return picture.mode in ("P", "L", "1")
    except (OSError, SyntaxError, ValueError):
        return False  # named when the image is read


def _ambiguous(
    root: pathlib.Path, tree: _Tree, splits: Collection[str], *, in_lists: bool
) -> list[str]:
    """Sentences on class folders that may be splits, or whose sub-folders may be classes."""
    messages = []
    like_splits = [top for top in tree if looks_like_split(top)]
    if like_splits:
        messages.append(
            f"these folders look like splits, not like classes: {some(like_splits)}; set "
            "data.train_split and data.val_split to the ones that you mean, or list the classes in "
            f"{root / 'classes.txt'}"
        )
    places: dict[str, int] = {}
    for inside in tree.values():
        for inner in inside:
            places[inner] = places.get(inner, 0) + 1
    for top, inside in tree.items():
        inner = [name for name in inside if name]
        inner_splits = [n for n in inner if plain(n) in splits or looks_like_split(n)]
        if top in like_splits:
            continue
        if inner_splits and not in_lists:
            is_only = len(tree) == 1 and (root / top).is_dir()
            other = f"give {root / top} as data.root, " if is_only else ""
            messages.append(
                f"class folder {top!r} has sub-folders named like splits "
                f"({some(inner_splits)}); {other}put the split first ({inner_splits[0]}/{top}), "
                "or write the lists train.txt and val.txt"
            )
        # Images of its own, or sub-folders with names that come again elsewhere, make it a class.
        elif (
            inner
            and "" not in inside
            and (
                all(places[name] == 1 for name in inner)
                or (looks_like_batch(top) and not all(map(looks_like_batch, inner)))
            )
        ):
            messages.append(
                f"all images of folder {top!r} lie in its sub-folders ({some(inner)}), and "
                f"either {top!r} or these may be the classes; list the ones that you mean, one a "
                f"line, in {root / 'classes.txt'}"
            )
    return messages


def _remarks(tree: _Tree, outside: list[str], unlabelled: list[str]) -> list[DataRemark]:
    nested = {
        f"{top}/{inner}": len(names)
        for top, inside in tree.items()
        for inner, names in inside.items()
        if inner
    }
    remarks = []
    if nested:
        remarks.append(
            _remark(
                "sub-folders",
                sum(nested.values()),
                nested,
                where="in sub-folders of class folders",
                outcome="taken as of the class of the first folder",
                remedy="list the classes in classes.txt if the sub-folders are meant",
            )
        )
    if unlabelled:
        remarks.append(
            _remark(
                "images without a label",
                len(unlabelled),
                unlabelled,
                where="in a folder of unlabelled images",
                outcome="left out",
                remedy="sort them into the folders of their classes to use them",
            )
        )
    if outside:
        remarks.append(
            _remark(
                "in no split",
                len(outside),
                outside,
                where="outside of the folders of splits",
                outcome="left out",
                remedy="move them into one of these folders to use them",
            )
        )
    return remarks


def _remark(
    kind: str, number: int, names: Iterable[str], *, where: str, outcome: str, remedy: str
) -> DataRemark:
    """A remark on a number of images, with the names of the first ones or of their folders."""
    names = tuple(names)
    message = f"{count(number, 'image')} {where} {are(number)} {outcome} ({some(names)}); {remedy}"
    return DataRemark(kind, message, names)
