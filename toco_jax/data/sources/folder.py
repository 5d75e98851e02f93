"""Opens a folder of your own images, their image-level labels and, if there are some, masks.

The labels of an image come from the first of these that is there, or from what `labels` names:

    labels.csv        a line `file,label;label` per image
    labels.json       {file: [labels]}, or the export of an annotation tool, as are the other
                      names in `folder_label_files`
    a text file       beside each image, one label per line ("sidecars")
    a JSON file       beside each image, written by labelme ("labelme")
    sub-folders       one per class, with the images inside ("folders", see `class_folders`)

and its split from the first of these:

    <split>.txt       a list, one image per line
    <split>/          a folder with the images, or with class folders; also in a folder `images`
    the names train and val: a share `val_fraction` of all images, drawn by a hash of seed and name

An image is named by its path within the root, without the ending. Files of the same content are
one image; where they lie in several class folders, it is of all these classes. An image that is
labelled background alone is one without any class. In masks, class k of classes.txt (one per line)
or of the class names in alphabetical order (in numeric order if they are numbers) has the value
k + 1.
"""

import pathlib
from collections.abc import Sequence

from toco_jax.data.files import FileSource, OnProblem, labels_of, raise_problem
from toco_jax.data.folders.folder_classes import (
    NAMES_FILE,
    YAML_FILE,
    class_names_of,
    listed_classes,
    take_out_backgrounds,
)
from toco_jax.data.folders.folder_label_files import label_files
from toco_jax.data.folders.folder_labels import read_labels
from toco_jax.data.folders.folder_masks import MASKS, folders_there, mask_files, mask_folder_of
from toco_jax.data.folders.folder_splits import split_members
from toco_jax.data.folders.labelled_images import LabelledImages
from toco_jax.data.image_files import IMAGE_ENDINGS, Listing, image_files
from toco_jax.data.labelling.lists import finder
from toco_jax.data.labelling.text_files import is_unicode
from toco_jax.data.labels import INDICES
from toco_jax.data.mask_formats import recognise
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError


def open_folder(
    root: str | pathlib.Path,
    split: str,
    *,
    masks: bool,
    partial_masks: bool = False,
    labels: str = "",
    label_separator: str = "",
    mask_folder: str = "",
    mask_foreground: int = 0,
    all_masks: Sequence[str] = (),
    val_fraction: float = 0.1,
    split_seed: int = 0,
    class_names: Sequence[str] = (),
    splits: Sequence[str] = ("train", "val"),
    on_problem: OnProblem = raise_problem,
) -> FileSource:
    """Opens one split of a folder; see `data.open_source` for the arguments.

    Images of any size and mode lie in the folder at any depth. A split is a list, a sub-folder, or
    train or val of a seeded split. `labels` is "" for what is there, "sidecars", "labelme",
    "folders", or a label file (see `label_files`) or a pattern of such. Masks are NAME.png in
    `mask_folder`, by default <root>/masks; if there are none, all pixels are ignored. `class_names`
    are by default those of classes.txt or those that the labels name.

    Returns:
        The source; its `remarks` say what was passed over, merged or guessed.

    Raises:
        DataError: a folder or file that is missing or not what it has to be, a label that is no
            class, an empty split.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the one that holds your images as data.root")
    mask_root = mask_folder_of(root, mask_folder)
    images, remarks = _labelled_images(
        root,
        mask_root,
        labels,
        leave_out=folders_there(root, (mask_folder, *all_masks)),
        label_separator=label_separator,
        class_names=tuple(class_names),
        splits=(*splits, split),
        on_problem=on_problem,
    )
    members = split_members(
        root,
        images.names,
        images.copies,
        split,
        classes=images.class_names if images.labels.joined else (),
        find=finder(root, images.files),
        val_fraction=val_fraction,
        split_seed=split_seed,
    )
    taken = {images.copies.get(name, name) for name in members}
    cls_labels = labels_of(members, images.vector, len(images.class_names), on_problem)
    mask_paths, mask_format = None, INDICES
    if masks:
        mask_paths = mask_files(
            mask_root,
            members,
            images=images.files,
            groups=images.groups,
            split=split,
            num_classes=len(images.class_names),
            partial=partial_masks,
            on_problem=on_problem,
        )
        names = images.class_names
        mask_format = recognise(mask_paths, cls_labels, names, foreground=mask_foreground)
    return FileSource(
        class_names=tuple(images.class_names),
        split=split,
        names=members,
        images=tuple(images.files.get(name, root / name) for name in members),
        cls_labels=cls_labels,
        masks=mask_paths,
        mask_format=mask_format,
        list_folder=root,
        remarks=tuple(remarks),
        copies=images.copies,
        left_out=tuple(n for n in images.names if images.copies.get(n, n) not in taken),
    )


def _labelled_images(
    root: pathlib.Path,
    masks: pathlib.Path | None,
    labels: str,
    *,
    leave_out: Sequence[pathlib.Path],
    label_separator: str,
    class_names: tuple[str, ...],
    splits: Sequence[str],
    on_problem: OnProblem,
) -> tuple[LabelledImages, list[DataRemark]]:
    """Reads the labels of all images, whatever their split; the arguments are `open_folder`'s."""
    listing = image_files(root, leave_out=leave_out)
    files = _images(root, listing, on_problem)
    listed = class_names or listed_classes(root, on_problem)
    found = read_labels(
        root,
        files,
        listing,
        labels,
        label_separator=label_separator,
        listed=listed,
        splits=set(splits),
        masks=masks,
        on_problem=on_problem,
    )
    remarks = [*_passed_over(root, listing, labels, found.paths), *found.remarks]
    backgrounds = set() if class_names else take_out_backgrounds(found, remarks, on_problem)
    if not listed:
        listed = class_names_of(root, found, remarks, on_problem, masks=masks is not None)
    images = LabelledImages(files, found, listed, frozenset(backgrounds))
    return images, [*remarks, *images.remarks()]


def _images(root: pathlib.Path, listing: Listing, on_problem: OnProblem) -> dict[str, pathlib.Path]:
    """Returns the path of every image below the root by its name, sorted."""
    files: dict[str, pathlib.Path] = {}
    twins: list[tuple[pathlib.Path, pathlib.Path]] = []
    unspeakable: list[str] = []
    for path in listing.files:
        key = path.relative_to(root).with_suffix("").as_posix()
        if not is_unicode(key):
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


def _passed_over(
    root: pathlib.Path, listing: Listing, labels: str, used: frozenset[pathlib.Path]
) -> list[DataRemark]:
    """Remarks on files that are not used, except texts."""
    kind = "files passed over"
    remarks = [
        DataRemark(kind, remark, tuple(map(str, paths)))
        for remark, paths in zip(listing.remarks(), listing.passed_over.values(), strict=True)
    ]
    there = label_files(root)
    if not labels and len(there) > 1:
        message = (
            f"labels come from {there[0]}, so {there[1]} is passed over; remove the one that is "
            "out of date or set data.labels"
        )
        remarks.append(DataRemark(kind, message, tuple(there[1:])))
    known = used.union(root / name for name in (*there, NAMES_FILE, YAML_FILE))
    others = [p for p in listing.others if p not in known and p.suffix.lower() != ".txt"]
    if others:
        names = tuple(str(path.relative_to(root)) for path in others)
        message = (
            f"{count(len(names), 'file')} passed over: {some(names)} {are(len(names))} no picture "
            "by the ending; convert or rename those that are"
        )
        remarks.append(DataRemark(kind, message, names))
    return remarks
