"""What folders of images mean: classes, splits, batches of one class, masks, unlabelled images.

The first folder on the way to an image is its class, after the folders of splits and a folder of
that sort that holds all images (`train/images/cat/x.jpg`). What lies deeper in it, such as
`cat/batch1/x.jpg`, is of that class too, unless it might as well be meant the other way round.
Folders that classes.txt lists are classes wherever they are.
"""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import PIL.Image

from toco_jax.data.files import OnProblem
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
_HOLDERS = ("images", "imgs", "jpegimages")
_UNLABELLED = ("unlabeled", "unlabelled")
_MASK_NAMES = (
    *("mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "gt", "gts"),
    *("groundtruth", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug"),
    *("segmentationobject", "segmentationmask", "segmentationmasks", "labelmasks", "labelids"),
)

Entries = dict[str, list[str] | DataError]


def plain(folder: str) -> str:
    """A folder's name in small letters and figures alone."""
    return "".join(c for c in folder.casefold() if c.isalnum())


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
    """The labels of images by the folders that they lie in.

    Args:
        root: the folder of all of them.
        files: the image files by name.
        listed: the classes where they are known, empty where the folders decide.
        splits: the names of splits.
        in_folders: whether these are folders, outside of which images count for nothing.
        in_lists: whether these are lists.
        on_problem: called with "" and a `DataError` for folders that may mean one thing or another.

    Returns:
        The label of each labelled image, or what is wrong with it, and remarks.
    """
    known = {plain(split) for split in splits} | set(SPLIT_NAMES)
    classes, outer = set(listed), {*known, *_HOLDERS} - set(listed)
    inside = {name: _inner_folders(name, outer) for name in files}
    unlisted = {name: files[name] for name in files if classes.isdisjoint(inside[name])}
    masks = mask_folders(unlisted)
    for folder, names in masks.items():
        on_problem("", DataError(_looks_like_masks(root, folder, len(names))))
    entries: Entries = {}
    tree: dict[str, dict[str, list[str]]] = {}  # first folder: second folder: images
    outside, unlabelled = [], []
    of_masks = {name for names in masks.values() for name in names}
    for name, folders in inside.items():
        if name in of_masks:
            continue
        if in_folders and plain(name.partition("/")[0]) not in known:
            outside.append(name)
        elif folders and folders[0] not in listed and plain(folders[0]) in _UNLABELLED:
            unlabelled.append(name)
        else:
            entries[name] = _label(files[name], folders, listed)
            if name in unlisted and folders:
                held = len(folders) == 1 or plain(folders[1]) in _HOLDERS
                second = tree.setdefault(folders[0], {})
                second.setdefault("" if held else folders[1], []).append(name)
    if not listed:
        for message in _ambiguous(root, tree, known, in_lists=in_lists):
            on_problem("", DataError(message))
    return entries, _remarks(tree, outside, unlabelled)


def _inner_folders(name: str, outer: Collection[str]) -> tuple[str, ...]:
    """The folders of an image without those, to begin with, that are no classes."""
    folders = name.split("/")[:-1]
    while folders and plain(folders[0]) in outer:
        folders = folders[1:]
    return tuple(folders)


def _label(
    path: pathlib.Path, folders: Sequence[str], listed: Collection[str]
) -> list[str] | DataError:
    classes = [folder for folder in folders if folder in listed] or list(folders[:1])
    if len(classes) > 1:
        return DataError(
            f"image {path} lies in folders of several classes ({', '.join(classes)}); take one of "
            "these folders out or write labels.csv"
        )
    return classes or DataError(
        f"image {path} lies in no class folder, and there are no labels.csv, labels.json or text "
        "files beside the images; add one of these"
    )


def _looks_like_masks(root: pathlib.Path, folder: str, number: int) -> str:
    return (
        f"folder {root / folder} ({count(number, 'picture')}) looks like masks, not like a class; "
        f"set data.masks={folder}, or list its name in {root / 'classes.txt'} if it is a class"
    )


def mask_folders(files: Mapping[str, pathlib.Path]) -> dict[str, list[str]]:
    """Folders that seem to hold masks, by their name or since each of their files is a picture of
    indices named like a photo elsewhere, with their images."""
    by_folder: dict[str, list[str]] = {}
    endings: dict[str, set[str]] = {}
    for name, path in files.items():
        folder, _, stem = name.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
        endings.setdefault(stem, set()).add(path.suffix.lower())
    found: dict[str, list[str]] = {}
    for folder, names in by_folder.items():
        parts = folder.split("/")
        named = [k for k, part in enumerate(parts, start=1) if plain(part) in _MASK_NAMES]
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
        with PIL.Image.open(path) as picture:
            return picture.mode in ("P", "L", "1")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return False  # named when the image is read


def _ambiguous(
    root: pathlib.Path,
    tree: Mapping[str, Mapping[str, Sequence[str]]],
    splits: Collection[str],
    *,
    in_lists: bool,
) -> list[str]:
    """Sub-folders of class folders that may be classes or splits themselves."""
    messages = []
    places: dict[str, int] = {}
    for inside in tree.values():
        for inner in inside:
            places[inner] = places.get(inner, 0) + 1
    for top, inside in tree.items():
        inner = [name for name in inside if name]
        like_splits = [name for name in inner if plain(name) in splits]
        if like_splits and not in_lists:
            messages.append(
                f"class folder {top!r} has sub-folders named like splits "
                f"({some(like_splits)}); put the split first ({like_splits[0]}/{top}), or write "
                "the lists train.txt and val.txt"
            )
        # A class of its own images, or sub-folders that come again elsewhere, tell the classes.
        elif inner and "" not in inside and all(places[name] == 1 for name in inner):
            messages.append(
                f"all images of folder {top!r} lie in its sub-folders ({some(inner)}), and "
                f"either {top!r} or these may be the classes; list the ones that you mean, one a "
                f"line, in {root / 'classes.txt'}"
            )
    return messages


def _remarks(
    tree: Mapping[str, Mapping[str, Sequence[str]]], outside: list[str], unlabelled: list[str]
) -> list[DataRemark]:
    remarks = []
    nested = {
        f"{top}/{inner}": len(names)
        for top, inside in tree.items()
        for inner, names in inside.items()
        if inner
    }
    if nested:
        number = sum(nested.values())
        message = (
            f"{count(number, 'image')} in sub-folders of class folders ({some(nested)}) "
            f"{are(number)} taken as of the class of the first folder; list the classes in "
            "classes.txt if the sub-folders are meant"
        )
        remarks.append(DataRemark("sub-folders", message, tuple(nested)))
    if unlabelled:
        message = (
            f"{count(len(unlabelled), 'image')} in a folder of unlabelled images "
            f"{are(len(unlabelled))} left out ({some(unlabelled)}); sort them into the "
            "folders of their classes to use them"
        )
        remarks.append(DataRemark("images without a label", message, tuple(unlabelled)))
    if outside:
        message = (
            f"{count(len(outside), 'image')} outside of the folders of splits "
            f"{are(len(outside))} left out ({some(outside)}); move them into one "
            "of these folders to use them"
        )
        remarks.append(DataRemark("in no split", message, tuple(outside)))
    return remarks
