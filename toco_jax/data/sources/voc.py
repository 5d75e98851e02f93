"""Opens PASCAL VOC devkits (2007 to 2012), with the augmented masks laid beside."""

import functools
import pathlib

import numpy as np

from toco_jax.data.classes import VOC_CLASSES
from toco_jax.data.files import (
    FileSource,
    OnProblem,
    labels_of,
    raise_problem,
    refuse_empty,
    those_there,
)
from toco_jax.data.image_files import image_of_each
from toco_jax.data.labelling.annotations import read_annotation
from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.labelling.label_files import classes_in_mask, read_label_file
from toco_jax.data.labelling.lists import read_names
from toco_jax.data.labels import INDICES
from toco_jax.data.mask_formats import recognise
from toco_jax.data.remarks import as_remarks
from toco_jax.runtime.errors import DataError, shown

LISTS = pathlib.PurePath("ImageSets", "Segmentation")
MASK_FOLDERS = ("SegmentationClassAug", "SegmentationClass")


def open_voc(
    root: str | pathlib.Path,
    split: str,
    *,
    masks: bool,
    partial_masks: bool = False,
    labels: str = "",
    mask_folder: str = "",
    mask_foreground: int = 0,
    on_problem: OnProblem = raise_problem,
) -> FileSource:
    """Opens one split of a devkit folder.

    The folder holds JPEGImages/*.jpg (or other endings), the list of the split
    ImageSets/Segmentation/<split>.txt, for image-level labels Annotations/*.xml and for masks
    SegmentationClassAug/*.png or else SegmentationClass/*.png.
    Without a train_aug.txt, the split `train_aug` is every name in SegmentationClassAug that is not
    in val.txt, sorted.

    Opening reads the split and all its labels. Images and masks are read and checked one record at
    a time.

    Args:
        root: the folder, .../VOCdevkit/VOC2012.
        split: train_aug, train, val or any other list in ImageSets/Segmentation.
        masks: whether records carry "mask"; without it no mask file is opened, unless for labels.
        partial_masks: whether images may lack a mask; not if labels come from them.
        labels: where image-level labels come from: "" the XML annotations, "masks" the classes in
            the masks, or a label file, see `label_files`.
        mask_folder: name or path of the masks' folder; "" takes the first of `MASK_FOLDERS`.
        mask_foreground: must be 0, as there are several classes.
        on_problem: called with an image's name and what is wrong with its label.

    Raises:
        DataError: a missing folder, split or file, an empty split, or a file that cannot be read as
            what it is; the message names the file and the remedy.
    """
    root = _devkit(pathlib.Path(root), annotations=not labels)
    names = _split_names(root, split)
    mask_paths: tuple[pathlib.Path | None, ...] | None = None
    mask_format, remarks = INDICES, ()
    recognised = functools.partial(
        recognise, class_names=VOC_CLASSES, foreground=mask_foreground, has_voc_colours=True
    )
    if masks or labels == "masks":
        folder = _mask_folder(root, mask_folder)
        paths = tuple(folder / f"{name}.png" for name in names)
        mask_paths = those_there(paths) if partial_masks and labels != "masks" else paths
    if labels == "masks":
        mask_format = recognised(mask_paths or (), None)

        def read(name: str) -> np.ndarray:
            return classes_in_mask(folder / f"{name}.png", len(VOC_CLASSES), mask_format)

    elif labels:
        file = read_label_file(root / labels, known=VOC_CLASSES, names=names)
        remarks = as_remarks(file.remarks)

        def read(name: str) -> np.ndarray:
            return as_vector(
                file.entry(name), VOC_CLASSES, f"label file {file.path}, {shown(name)}"
            )

    else:

        def read(name: str) -> np.ndarray:
            return read_annotation(root / "Annotations" / f"{name}.xml", VOC_CLASSES)

    cls_labels = labels_of(names, read, len(VOC_CLASSES), on_problem)
    if masks and labels != "masks":
        mask_format = recognised(mask_paths or (), cls_labels)
    return FileSource(
        class_names=VOC_CLASSES,
        split=split,
        names=names,
        images=image_of_each(root / "JPEGImages", names),
        cls_labels=cls_labels,
        masks=mask_paths if masks else None,
        mask_format=mask_format,
        list_folder=root / LISTS,
        remarks=remarks,
    )


def _devkit(root: pathlib.Path, *, annotations: bool) -> pathlib.Path:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the devkit's .../VOCdevkit/VOC2012 as root")
    needed = ["JPEGImages", *(["Annotations"] if annotations else []), str(LISTS)]
    missing = [str(part) for part in needed if not (root / part).is_dir()]
    if not missing:
        return root
    inside = sorted([*root.glob("VOC*/JPEGImages"), *root.glob("VOCdevkit/VOC*/JPEGImages")])
    if inside:
        raise DataError(
            f"{root} holds a devkit but is not its year's folder; give {inside[-1].parent} as root"
        )
    if missing == ["Annotations"]:
        raise DataError(
            f"{root} has no folder Annotations to take image-level labels from; unpack it, or set "
            "data.labels to 'masks' or to a label file"
        )
    raise DataError(
        f"{root} has no folder {missing[0]}; unpack the VOC 2012 devkit and give its "
        ".../VOCdevkit/VOC2012 as root"
    )


def _split_names(root: pathlib.Path, split: str) -> tuple[str, ...]:
    path = root / LISTS / f"{split}.txt"
    if split == "train_aug" and not path.is_file():
        names = derived_train_aug(root)
        path = root / "SegmentationClassAug"
    else:
        names = _listed_names(path)
    refuse_empty(names, split, str(path))
    return names


def derived_train_aug(root: pathlib.Path) -> tuple[str, ...]:
    """Returns every name in SegmentationClassAug that is not in val.txt, sorted."""
    folder = root / "SegmentationClassAug"
    if not folder.is_dir():
        raise DataError(
            f"{root / LISTS / 'train_aug.txt'} is missing, and so is {folder} to derive the split "
            "from; add either one (toco prepare voc --sbd makes the folder)"
        )
    held_out = set(_listed_names(root / LISTS / "val.txt"))
    return tuple(sorted({path.stem for path in folder.glob("*.png")} - held_out))


def _listed_names(path: pathlib.Path) -> tuple[str, ...]:
    names = read_names(path)
    for name in names:
        if "/" in name or "," in name or len(name.split()) > 1:
            raise DataError(
                f"list {path} has the line {shown(name)}; write one image name a line, without "
                "folder or a second column"
            )
    return names


def _mask_folder(root: pathlib.Path, chosen: str) -> pathlib.Path:
    for folder in [root / name for name in ([chosen] if chosen else MASK_FOLDERS)]:
        if folder.is_dir():
            return folder
    if chosen:
        raise DataError(f"{root / chosen} is not a folder; correct data.masks or data.train_masks")
    raise DataError(
        f"{root} has neither SegmentationClassAug nor SegmentationClass, and masks were asked for; "
        "unpack one of them there"
    )
