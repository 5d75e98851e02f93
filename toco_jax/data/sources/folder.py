"""Your own images: a folder, its image-level labels, optional masks.

The labels of an image come from the first of these that is there, or from what `labels` names:

    labels.csv        a line `file,label;label` an image
    labels.json       {file: [labels]}
    a text file       beside each image, one label a line ("sidecars")
    sub-folders       one a class, the images inside ("folders", see `class_folders`)

and its split from the first of these:

    <split>.txt       a list, one image a line
    <split>/          a folder that holds the split's images (and, if so, the class folders)
    the names train and val: a share `val_fraction` of all images, drawn by a hash of seed and name

An image is named by its path within the root, without the ending. Files of the same content are
one image; where they lie in several class folders, it is of all these classes. An image that is
labelled background alone is one without any class. In masks, class k of classes.txt (one a line) or
of the class names in alphabetical order (in numeric order where they are numbers) has the value
k + 1.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from toco_jax.data.files import FileSource, OnProblem, labels_of, raise_problem
from toco_jax.data.folders.equal_files import equal_files
from toco_jax.data.folders.folder_classes import (
    class_names_of,
    listed_classes,
    take_out_backgrounds,
)
from toco_jax.data.folders.folder_labels import (
    CLASSES_FILE,
    LABEL_FILES,
    Labels,
    finder,
    read_labels,
)
from toco_jax.data.folders.folder_masks import MASKS, mask_files, mask_folder_of
from toco_jax.data.folders.folder_splits import split_members
from toco_jax.data.image_files import IMAGE_ENDINGS, Listing, image_files
from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.labels import INDICES
from toco_jax.data.mask_formats import recognise
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError


def open_folder(
    root: str | pathlib.Path,
    split: str,
    *,
    masks: bool,
    labels: str = "",
    label_separator: str = "",
    mask_folder: str = "",
    mask_foreground: int = 0,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    class_names: Sequence[str] = (),
    splits: Sequence[str] = ("train", "val"),
    on_problem: OnProblem = raise_problem,
) -> FileSource:
    """Opens one split of a folder.

    Args:
        root: the folder; images of any size and mode lie in it at any depth.
        split: a list, a sub-folder, or train or val of a seeded split.
        masks: whether records carry "mask"; all pixels are ignored where there are no masks.
        labels: "" for what is there, "sidecars", "folders", or a label file (see `label_files`).
        label_separator: what separates several labels in one text, "" to find it out.
        mask_folder: folder of masks NAME.png; "" for <root>/masks if that is there.
        mask_foreground: the value of the only class in the masks; 0 where they hold labels.
        val_fraction: share of the images that is val in a seeded split.
        split_seed: draws that split.
        class_names: all classes in label order; () for those of classes.txt or those that the
            labels name.
        splits: all splits that a run uses, so that none of their folders is taken for a class.
        on_problem: called with an image's name and what is wrong with its label or mask, and with
            "" and what is wrong with the folder as a whole.

    Returns:
        The source; its `remarks` say what was passed over, merged or guessed.

    Raises:
        DataError: a folder or file that is missing or not what it has to be, a label that is no
            class, an empty split.
    """
    root = pathlib.Path(root)
    folder = mask_folder_of(root, mask_folder)
    listing = _listing(root, folder)
    files = _images(root, listing, on_problem)
    chosen = tuple(class_names)
    listed = chosen or listed_classes(root, on_problem)
    found = read_labels(
        root,
        files,
        listing,
        labels,
        label_separator=label_separator,
        listed=listed,
        splits={*splits, split},
        masks=folder,
        on_problem=on_problem,
    )
    remarks = [*_passed_over(root, listing, labels), *found.remarks]
    backgrounds = set() if chosen else take_out_backgrounds(found, remarks, on_problem)
    if not listed:
        listed = class_names_of(root, found, remarks, on_problem, masks=folder is not None)
    groups = _same_files(files, found, remarks)
    labelled = [name for name in found.entries if name in files]
    copies = {name: group[0] for group in groups.values() for name in group}
    members = split_members(
        root,
        files,
        labelled,
        copies,
        split,
        find=finder(root, files),
        val_fraction=val_fraction,
        split_seed=split_seed,
    )
    taken = {copies.get(name, name) for name in members}

    def read(name: str) -> np.ndarray:
        return _label(name, groups.get(name, (name,)), found, listed, backgrounds)

    cls_labels = labels_of(members, read, len(listed), on_problem)
    mask_paths, mask_format = None, INDICES
    if masks:
        mask_paths = mask_files(
            folder,
            members,
            images=files,
            groups=groups,
            split=split,
            num_classes=len(listed),
            on_problem=on_problem,
        )
        mask_format = recognise(mask_paths, cls_labels, listed, foreground=mask_foreground)
    return FileSource(
        class_names=listed,
        split=split,
        names=members,
        images=tuple(files.get(name, root / name) for name in members),
        cls_labels=cls_labels,
        masks=mask_paths,
        mask_format=mask_format,
        list_folder=root,
        remarks=tuple(remarks),
        copies=copies,
        left_out=tuple(name for name in labelled if copies.get(name, name) not in taken),
    )


def _listing(root: pathlib.Path, masks: pathlib.Path | None) -> Listing:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the one that holds your images as data.root")
    return image_files(root, leave_out=[masks] if masks else [])


def _images(root: pathlib.Path, listing: Listing, on_problem: OnProblem) -> dict[str, pathlib.Path]:
    """Every image below the root by name, sorted."""
    files, twins, unspeakable = {}, [], []
    for path in listing.files:
        key = path.relative_to(root).with_suffix("").as_posix()
        if _no_text(key):
            unspeakable.append(key)
            continue
        if key in files:
            twins.append((files[key], path))
        files.setdefault(key, path)
    if unspeakable:
        message = (
            f"{count(len(unspeakable), 'image')} below {root} {are(len(unspeakable))} named in "
            f"letters that are no UTF-8 ({some(unspeakable)}); rename them"
        )
        on_problem("", DataError(message))
    if twins:
        one, other = twins[0]
        which = "them" if len(twins) == 1 else f"each of these {len(twins)} pairs"
        message = (
            f"{one} and {other} have the same name without ending; rename one of {which}, or move "
            f"it to {root / MASKS} if it is a mask"
        )
        on_problem("", DataError(message))
    if not files:
        passed = "".join(f"; {remark}" for remark in listing.remarks())
        raise DataError(
            f"{root} holds no image ({', '.join(IMAGE_ENDINGS)}); correct data.root{passed}"
        )
    return dict(sorted(files.items()))


def _no_text(name: str) -> bool:
    """Whether bytes of a name are letters of another encoding."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def _passed_over(root: pathlib.Path, listing: Listing, labels: str) -> list[DataRemark]:
    """Remarks on files that look like pictures and on those that do not and serve no purpose."""
    kind = "files passed over"
    remarks = [
        DataRemark(kind, remark, tuple(map(str, paths)))
        for remark, paths in zip(listing.remarks(), listing.passed_over.values(), strict=True)
    ]
    there = [name for name in LABEL_FILES if (root / name).is_file()]
    if not labels and len(there) > 1:
        message = (
            f"labels come from {there[0]}, so {there[1]} is passed over; remove the one that is "
            "out of date or set data.labels"
        )
        remarks.append(DataRemark(kind, message, tuple(there[1:])))
    known = {root / name for name in (*LABEL_FILES, CLASSES_FILE, labels)}
    others = [p for p in listing.others if p not in known and p.suffix.lower() != ".txt"]
    if others:
        names = tuple(str(path.relative_to(root)) for path in others)
        message = (
            f"{count(len(names), 'file')} passed over: {some(names)} {are(len(names))} no picture "
            "by the ending; convert or rename those that are"
        )
        remarks.append(DataRemark(kind, message, names))
    return remarks


def _same_files(
    files: Mapping[str, pathlib.Path], found: Labels, remarks: list[DataRemark]
) -> dict[str, tuple[str, ...]]:
    """For each image that other files hold too, the names of all of them."""
    names = [n for n in found.entries if n in files and not isinstance(found.entries[n], DataError)]
    equal = [
        tuple(names[i] for i in group) for group in equal_files([files[name] for name in names])
    ]
    if equal:
        number = sum(map(len, equal))
        shown = some([" = ".join(group[:3]) for group in equal])
        how = "with the classes of all folders" if found.joined else "with their common label"
        message = (
            f"{number} files hold {count(len(equal), 'picture')} ({shown}), which a split takes "
            f"once each, {how}; remove the copies or write labels.csv to say it yourself"
        )
        remarks.append(DataRemark("equal files", message, tuple(n for g in equal for n in g)))
    return {name: group for group in equal for name in group}


def _label(
    name: str,
    group: Sequence[str],
    found: Labels,
    class_names: Sequence[str],
    backgrounds: set[str],
) -> np.ndarray:
    """The label uint8 [C] of an image whose files have the names of the group."""
    rows = []
    for each in group:
        entry = found.entries.get(each)
        if entry is None:
            raise found.missing(each)
        if isinstance(entry, DataError):
            raise entry
        rows.append(as_vector(entry, class_names, f"labels of image {each!r}"))
    rows = np.stack(rows)
    contradictory = backgrounds.intersection(group) and rows.any()
    if contradictory or (not found.joined and (rows != rows[0]).any()):
        said = [
            f"{each} ({', '.join(class_names[c] for c in np.flatnonzero(row)) or 'no class'})"
            for each, row in zip(group, rows, strict=True)
        ]
        raise DataError(
            f"the same picture has several labels: {', '.join(said)}; remove all files but one of "
            "them and label that one with all of its classes"
        )
    return rows.max(axis=0)
