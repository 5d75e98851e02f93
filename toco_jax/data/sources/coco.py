"""Opens COCO 2014 from the official files, after `toco prepare coco`.

<root>/train2014/*.jpg, <root>/val2014/*.jpg          the official images (or in <root>/images)
<root>/prepared/train2014.npz, val2014.npz            names and image-level labels
<root>/prepared/masks/train2014/*.png, val2014/*.png  VOC-style masks
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from toco_jax.data.classes import COCO_CLASSES
from toco_jax.data.files import (
    FileSource,
    OnProblem,
    evenly_spaced,
    raise_problem,
    refuse_empty,
    those_there,
)
from toco_jax.data.image_files import image_of_each
from toco_jax.data.labelling.label_files import classes_in_mask
from toco_jax.data.labelling.lists import read_names
from toco_jax.data.labels import INDICES, MaskFormat, read_bytes, stored_mask
from toco_jax.data.mask_formats import foreground_format, refuse_two_valued
from toco_jax.data.npz_files import read_npz
from toco_jax.runtime.errors import DataError, clipped, is_inside, shown

PARTS = {"train": "train2014", "val": "val2014"}
VAL_PART = 5_000
PREPARED = "prepared"

# The official category ids leave out these numbers of 1..90; labels 1..80 leave out none.
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _UNUSED_IDS)

_UNKNOWN = 254  # what an index that stands for no label becomes; above every label, not 255
_PROBES = 64


def open_coco(
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
    """Opens one split of a prepared COCO 2014 folder.

    Args:
        root: the folder that holds train2014, val2014 and `prepared`.
        split: train, val, val_part (5,000 images of val, evenly spaced in the order of image ids)
            or a list of names <split>.txt in the prepared folder.
        masks: whether records carry "mask".
        partial_masks: whether images may lack a mask.
        labels: the prepared folder if it is not <root>/prepared.
        mask_folder: folder of ready-made masks, NAME.png or train2014/NAME.png, in place of the
            prepared ones. What they store (labels, official ids, colours) is found out by
            comparing some of them with the image-level labels.
        mask_foreground: must be 0, as there are several classes.
        on_problem: not used, as labels come from one file.

    Raises:
        DataError: the folder is not prepared, an unknown split, or masks that cannot be recognised.
    """
    del on_problem
    root = pathlib.Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the one that holds train2014 and val2014")
    prepared = root / (labels or PREPARED)
    names, cls_labels, parts = _members(root, prepared, split)
    pairs = list(zip(parts, names, strict=True))
    mask_paths: tuple[pathlib.Path | None, ...] | None = None
    mask_format = INDICES
    if masks and mask_foreground:
        mask_format = foreground_format(mask_foreground, COCO_CLASSES)
    if masks:
        paths = (
            _given_masks(root / mask_folder, pairs)
            if mask_folder
            else tuple(prepared / "masks" / part / f"{name}.png" for part, name in pairs)
        )
        mask_paths = those_there(paths) if partial_masks else paths
        if mask_folder:
            mask_format = recognise(mask_paths, cls_labels)
    return FileSource(
        class_names=COCO_CLASSES,
        split=split,
        names=names,
        images=_images(root, pairs),
        cls_labels=cls_labels,
        masks=mask_paths,
        mask_format=mask_format,
        list_folder=prepared,
    )


def _members(
    root: pathlib.Path, prepared: pathlib.Path, split: str
) -> tuple[tuple[str, ...], np.ndarray, list[str]]:
    """Reads names, labels uint8 [N, 80] and part (train2014 or val2014) of a split's images."""
    if split in PARTS or split == "val_part":
        part = PARTS.get(split, PARTS["val"])
        names, cls_labels = _read_index(root, prepared, part)
        if split == "val_part":
            chosen = evenly_spaced(len(names), VAL_PART)
            names, cls_labels = names[chosen], cls_labels[chosen]
        refuse_empty(names.tolist(), split, str(prepared / f"{part}.npz"))
        return tuple(names.tolist()), cls_labels, [part] * len(names)
    path = prepared / f"{split}.txt"
    if not path.is_file():
        raise DataError(
            f"unknown split {split!r} of COCO: use {', '.join(PARTS)}, val_part or add the list "
            f"{path}"
        )
    listed = read_names(path)
    refuse_empty(listed, split, str(path))
    known: dict[str, tuple[str, np.ndarray]] = {}
    for part in PARTS.values():
        if (prepared / f"{part}.npz").is_file():
            names, cls_labels = _read_index(root, prepared, part)
            known |= {n: (part, row) for n, row in zip(names.tolist(), cls_labels, strict=True)}
    for name in listed:
        if name not in known:
            raise DataError(
                f"list {path} has {shown(name)}, which is no annotated image; take the line out"
            )
    return listed, np.stack([known[n][1] for n in listed]), [known[n][0] for n in listed]


def _read_index(
    root: pathlib.Path, prepared: pathlib.Path, part: str
) -> tuple[np.ndarray, np.ndarray]:
    path = prepared / f"{part}.npz"
    if not path.is_file():
        raise DataError(f"{path} is missing: run toco prepare coco --root {root} once")
    try:
        index = read_npz(path)
        names, cls_labels = index["names"], index["labels"]
        if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) < len(names):
            raise ValueError("names are no list of different names")
        if not all(is_inside(name) and "/" not in name for name in names.tolist()):
            raise ValueError("names are not those of images in a folder")
        if (
            cls_labels.shape != (len(names), len(COCO_CLASSES))
            or not np.isin(cls_labels, (0, 1)).all()
        ):
            raise ValueError(f"labels are no 0 and 1 of shape {(len(names), len(COCO_CLASSES))}")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read ({clipped(error, 300)}); remove it and run toco prepare coco "
            f"--root {root} again"
        ) from error
    return names, cls_labels


def _images(root: pathlib.Path, members: list[tuple[str, str]]) -> tuple[pathlib.Path, ...]:
    """Finds the image of each (part, name); parts lie in the root or in its `images`."""
    found: dict[tuple[str, str], pathlib.Path] = {}
    for part in PARTS.values():
        inside = root / "images" / part
        names = [name for where, name in members if where == part]
        images = image_of_each(inside if inside.is_dir() else root / part, names)
        found |= {(part, name): path for name, path in zip(names, images, strict=True)}
    return tuple(found[member] for member in members)


def _given_masks(folder: pathlib.Path, members: list[tuple[str, str]]) -> tuple[pathlib.Path, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; correct data.masks or data.train_masks")
    parts = {part: folder / part for part in PARTS.values()}
    return tuple(
        (parts[part] if parts[part].is_dir() else folder) / f"{name}.png" for part, name in members
    )


def recognise(paths: Sequence[pathlib.Path | None], cls_labels: np.ndarray) -> MaskFormat:
    """Finds out what ready-made masks store by comparing some of them with image-level labels.

    It recognises labels 0..80, official ids 1..90 (which have gaps), both also as grey RGB or RGBA,
    and VOC's colours of the labels.

    Args:
        paths: mask files, of which 64 evenly spaced ones are read; None for an image without one.
        cls_labels: labels of the images, uint8 [N, 80].

    Raises:
        DataError: none of these agrees with the labels; says what was found.
    """
    there = [(i, path) for i, path in enumerate(paths) if path is not None]
    chosen = [there[k] for k in evenly_spaced(len(there), _PROBES)]
    probes = [(i, path, stored_mask(read_bytes(path, "mask"), path)) for i, path in chosen]
    for _, path, stored in probes:
        if stored.mode not in _MODES:
            raise DataError(
                f"mask {path} is stored as {stored.mode}; save 8-bit palette PNGs or run "
                "toco prepare coco and leave data.masks empty"
            )
    refuse_two_valued(probes, cls_labels, COCO_CLASSES)
    failures = []
    for what, mask_format in _formats():
        numbers = [i for i, _ in chosen]
        failure = _disagreement(mask_format, [path for _, path in chosen], cls_labels[numbers])
        if failure is None:
            return mask_format
        failures.append(f"{what}: {failure}")
    raise DataError(
        f"the masks in {chosen[0][1].parent} are not recognised. As {'; as '.join(failures)}. Run "
        "toco prepare coco and leave data.masks empty"
    )


_MODES = ("P", "L", "RGB", "RGBA")


def _formats() -> list[tuple[str, MaskFormat]]:
    """Lists what masks may store, the likeliest first."""
    ids = np.full(256, _UNKNOWN, np.uint8)
    ids[[0, 255]] = 0, 255
    ids[list(CATEGORY_IDS)] = np.arange(1, len(CATEGORY_IDS) + 1)
    stored_as = {"labels 0..80": None, "official ids 1..90": ids}
    return [
        *((what, MaskFormat(table=table)) for what, table in stored_as.items()),
        *((f"grey {what}", MaskFormat("grey", table)) for what, table in stored_as.items()),
        ("VOC's colours", MaskFormat("palette")),
    ]


def _disagreement(
    mask_format: MaskFormat, paths: list[pathlib.Path], cls_labels: np.ndarray
) -> str | None:
    """Says why masks do not fit a format; None if all classes they show are among the labels."""
    for path, label in zip(paths, cls_labels, strict=True):
        try:
            shown = classes_in_mask(path, len(COCO_CLASSES), mask_format)
        except DataError as error:
            return str(error).split(";", maxsplit=1)[0]
        foreign = np.flatnonzero(shown > label)
        if foreign.size:
            return f"{path.name} shows {COCO_CLASSES[foreign[0]]}, which its image is not labelled"
    return None
