"""Reads one split of a data set for `toco_jax.data.check` and notes what is wrong with it."""

import dataclasses
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.data import open_configured, reads_masks
from toco_jax.data.files import FileSource
from toco_jax.data.folders.folder_masks import MaskError
from toco_jax.data.labels import load_photo
from toco_jax.data.photos import Photo
from toco_jax.data.remarks import some
from toco_jax.runtime.errors import DataError

_MASK_SHOWS_MORE = "mask shows more"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is wrong with a data set.

    Attributes:
        kind: a few words that problems of this sort share.
        split: name of the split, "" if the problem is not in one split.
        name: name of the record, "" if the problem is not in one record.
        message: names the file and the remedy.
        fatal: whether training or its evaluation would stop at it.
        unusable: whether a clean list leaves the record out.
        names: names of all images, files or classes, if there are several.
    """

    kind: str
    split: str
    name: str
    message: str
    fatal: bool = False
    unusable: bool = False
    names: tuple[str, ...] = ()


@dataclasses.dataclass
class Split:
    """What was found in one split.

    Attributes:
        source: the record source.
        problems: what is wrong.
        images: the images that can be read, by name.
    """

    source: Any
    problems: list[Problem]
    images: dict[str, "Image"] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the readable images: uint8 [N, C]."""
        rows = [image.label for image in self.images.values()]
        return np.reshape(rows, (len(rows), len(self.source.class_names))).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Image:
    """A readable image.

    Attributes:
        size: height and width.
        digest: hash of the pixels.
        label: float32 [C] of 0 and 1.
    """

    size: tuple[int, int]
    digest: bytes
    label: np.ndarray


def open_split(config: ConfigDict, part: str, problems: list[Problem]) -> Split | None:
    """Opens the split `part` ("train" or "val"), with masks if there are some.

    Returns:
        The split; None if it cannot be opened, in which case `problems` receives the reasons.
    """
    name = config.data[f"{part}_split"]
    found = []

    def note(image: str, error: DataError) -> None:
        if not image:
            found.append(Problem("folder", "", "", str(error), fatal=True))
        elif isinstance(error, MaskError):
            if reads_masks(config, part):
                found.append(Problem("mask", name, image, str(error), fatal=True, unusable=True))
        else:
            found.append(Problem("label", name, image, str(error), fatal=True, unusable=True))

    def attempt(*, masks: bool) -> Any:
        found.clear()
        return open_configured(config, part=part, masks=masks, on_problem=note)

    try:
        source = attempt(masks=True)
        return Split(source, [*found, *_without_masks(config, part, source)])
    except DataError as error:
        if reads_masks(config, part):
            problems += [*found, Problem("split", name, "", str(error), fatal=True)]
            return None
        without = error
    try:
        return Split(attempt(masks=False), [*found, Problem("masks", name, "", str(without))])
    except DataError as error:
        problems += [*found, Problem("split", name, "", str(error), fatal=True)]
        return None


def _without_masks(config: ConfigDict, part: str, source: Any) -> list[Problem]:
    """Counts the training images without a mask, if the loss term `sup` is trained on masks."""
    masks = getattr(source, "masks", None)
    if part == "val" or not reads_masks(config, part) or not isinstance(masks, tuple):
        return []
    names = tuple(name for name, mask in zip(source.names, masks, strict=True) if mask is None)
    if not names:
        return []
    are_without = f"{len(names)} of the {len(masks)} images of {source.split!r} have no mask"
    if len(names) == len(masks):
        message = f"{are_without}, and the loss term sup needs some; set data.train_masks"
        return [Problem("masks", source.split, "", message, fatal=True)]
    message = f"{are_without} ({some(names)}) and contribute nothing to the loss term sup"
    return [Problem("masks", source.split, "", message, names=names)]


def read_images(
    config: ConfigDict, part: str, split: Split, threads: int
) -> Iterator[tuple[int, int]]:
    """Reads all records of a split into its `images` and `problems`.

    Yields:
        After each record, how many were read and how many there are.
    """
    skipping = part == "train" and config.data.on_error == "skip"
    needed = {"image", "mask"} if reads_masks(config, part) else {"image"}
    total = len(split.source)
    unlabelled = {problem.name for problem in split.problems if problem.kind == "label"}
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda i: _read_one(split.source, i), range(total))
        for i, (image, problems) in enumerate(found):
            name = split.source.names[i]
            if image is not None:
                split.images[name] = image
            for kind, message in problems:
                if kind == _MASK_SHOWS_MORE and name in unlabelled:
                    continue
                unusable = kind in needed
                fatal = unusable and not skipping
                split.problems.append(
                    Problem(kind, split.source.split, name, message, fatal, unusable)
                )
            yield i + 1, total


def _read_one(source: Any, i: int) -> tuple[Image | None, list[tuple[str, str]]]:
    """Reads a record: the image, None if it cannot be read, and (kind, message) of its problems."""
    try:
        photo, label = _photo_and_label(source, i)
    except DataError as error:
        return None, [("image", str(error))]
    size = photo.pixels.shape[:2]
    digest = hashlib.blake2b(photo.pixels.tobytes(), salt=b"%dx%d" % size, digest_size=16).digest()
    image = Image(size, digest, label)
    remarks = [("image not as stored", f"{source.names[i]}: {note}") for note in photo.notes]
    if not isinstance(source, FileSource) or source.masks is None or source.masks[i] is None:
        return image, remarks
    try:
        mask, on_mask = source.mask(i, photo)
    except DataError as error:
        return image, [*remarks, ("mask", str(error))]
    return image, remarks + on_mask + _contradictions(source, i, mask)


def _photo_and_label(source: Any, i: int) -> tuple[Photo, np.ndarray]:
    """Reads the image of a record without its mask, and its label float32 [C]."""
    if isinstance(source, FileSource):
        return load_photo(source.images[i]), source.cls_labels[i].astype(np.float32)
    record = source[i]
    return Photo(record["image"]), record["cls_label"]


def _contradictions(source: FileSource, i: int, mask: np.ndarray) -> list[tuple[str, str]]:
    """(kind, message) for the classes that only the mask or only the label of a record has."""
    assert source.masks is not None
    num_classes = len(source.class_names)
    in_mask = np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0
    in_label = source.cls_labels[i].astype(bool)

    def named(which: np.ndarray) -> str:
        return ", ".join(source.class_names[c] for c in np.flatnonzero(which))

    problems = []
    if (in_mask & ~in_label).any():
        problems.append(
            (
                _MASK_SHOWS_MORE,
                f"mask {source.masks[i]} shows {named(in_mask & ~in_label)}, which the label "
                "lacks; add it to the label or correct the mask",
            )
        )
    if (in_label & ~in_mask).any():
        problems.append(
            (
                "label says more",
                f"{source.names[i]} is labelled {named(in_label & ~in_mask)}, which mask "
                f"{source.masks[i]} lacks; look whether it is there",
            )
        )
    return problems
