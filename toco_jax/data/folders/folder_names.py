"""What the names of files and folders in a data set tell, however they are spelt."""

import pathlib
import re
from collections.abc import Callable

from toco_jax.runtime.errors import DataError

# Folders with these names are splits, never classes, unless classes.txt lists them.
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
# Folders that hold all images, or all of a split.
HOLDERS = ("images", "imgs", "jpegimages")
UNLABELLED = ("unlabeled", "unlabelled")
MASK_NAMES = (
    *("mask", "masks", "label", "labels", "annotation", "annotations", "ann", "anns", "gt", "gts"),
    *("groundtruth", "segmentation", "segmentations", "segmentationclass", "segmentationclassaug"),
    *("segmentationobject", "segmentationmask", "segmentationmasks", "labelmasks", "labelids"),
)
# train2017, training_set, seg_test, valImages, trainA
_LIKE_A_SPLIT = re.compile(
    "(seg|img|imgs|image|images|data)?"
    f"({'|'.join(SPLIT_NAMES)}|eval|evaluation|dev)"
    "(set|sets|data|img|imgs|image|images|split|a|b|[0-9]+)?"
)
# 2021, batch_1, Day2
_LIKE_A_BATCH = re.compile(
    "(batch|part|set|fold|group|day|session|shot|camera|cam|site|scene|seq|sequence|video|clip|run)?"
    "[0-9]+"
)


def plain(name: str) -> str:
    """Returns the letters and digits of a name, in small letters."""
    return "".join(c for c in name.casefold() if c.isalnum())


def looks_like_split(name: str) -> bool:
    """Whether a folder's name is one that people give to splits."""
    return _LIKE_A_SPLIT.fullmatch(plain(name)) is not None


def looks_like_batch(name: str) -> bool:
    """Whether a folder's name is one that people give to parts of a collection, not to a class."""
    return _LIKE_A_BATCH.fullmatch(plain(name)) is not None


def in_any_case(
    folder: pathlib.Path, name: str, is_right: Callable[[pathlib.Path], bool]
) -> pathlib.Path | None:
    """Finds a file or folder for which `is_right` holds, by its name in any case.

    The entry that has exactly this name is preferred.

    Raises:
        DataError: several entries have this name but for capitals.
    """
    if is_right(folder / name):
        return folder / name
    alike = [p for p in folder.iterdir() if p.name.casefold() == name.casefold() and is_right(p)]
    if len(alike) > 1:
        raise DataError(
            f"{alike[0]} and {alike[1]} differ in capitals alone, and either may be meant by "
            f"{name!r}; rename one of them"
        )
    return alike[0] if alike else None
