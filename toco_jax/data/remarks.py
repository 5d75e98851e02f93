"""Remarks: sentences on a data set that its owner should read, each with a count.

Record sources carry remarks. Training prints them before the first step, and so does
`toco_jax.data.check`. A remark stops nothing; a `DataError` does.
"""

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from toco_jax.runtime.errors import shown, some_of

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class DataRemark:
    """A sentence about a data set.

    Attributes:
        kind: a few words that remarks of this sort share.
        message: says what was found, how often, and what to do about it.
        names: all images, files or classes concerned; the message names a few.
    """

    kind: str
    message: str
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.message


def as_remarks(messages: Sequence[str], kind: str = "labels as read") -> tuple[DataRemark, ...]:
    """Makes remarks of one kind from sentences."""
    return tuple(DataRemark(kind, message) for message in messages)


def some(names: Collection[Any]) -> str:
    """Lists the first few names and says how many more there are."""
    return some_of(names, _SHOWN)


def count(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def are(number: int) -> str:
    """`is` after 1, else `are`."""
    return "is" if number == 1 else "are"


def own(*sources: Any) -> list[DataRemark]:
    """Returns the remarks of sources, each once."""
    return list(dict.fromkeys(r for source in sources for r in getattr(source, "remarks", ())))


def of_splits(source: Any, val_source: Any) -> list[DataRemark]:
    """Returns the remarks of a training and a validation source, and on the two together."""
    labels = [getattr(s, "cls_labels", None) for s in (source, val_source)]
    counts = [label.sum(axis=0, dtype=np.int64) for label in labels if label is not None]
    if len(counts) < 2:  # scenes or records, whose makers saw to it
        return own(source, val_source)
    return [
        *own(source, val_source),
        *in_both(source, val_source),
        *in_neither(source, val_source),
        *without_images(source.class_names, *counts),
    ]


def without_images(
    class_names: Sequence[str], train: np.ndarray, val: np.ndarray | None
) -> list[DataRemark]:
    """Remarks on classes that cannot be learnt.

    Args:
        class_names: the C classes.
        train: number of training images with each class, [C].
        val: number of validation images with each class, [C], or None.
    """
    names = np.array(class_names, dtype=object)
    val = np.zeros(len(names), np.int64) if val is None else val
    if not len(names) == len(train) == len(val):
        return []  # the splits differ in their classes, which is refused
    kind, remarks = "class without images", []
    nowhere = tuple(names[(train == 0) & (val == 0)].tolist())
    if nowhere:
        have = "has" if len(nowhere) == 1 else "have"
        message = (
            f"{_classes(nowhere)} {have} no training image and cannot be learnt; add some or leave "
            "the class out"
        )
        remarks.append(DataRemark(kind, message, nowhere))
    unlearnt = tuple(names[(train == 0) & (val > 0)].tolist())
    if unlearnt:
        have = "has" if len(unlearnt) == 1 else "have"
        message = (
            f"{_classes(unlearnt)} {have} validation images ({int(val[train == 0].sum())}) but no "
            "training image and will score 0; move some to the training split or leave the class "
            "out"
        )
        remarks.append(DataRemark(kind, message, unlearnt))
    return remarks


def _classes(names: Sequence[str]) -> str:
    return (
        f"class {shown(names[0])}" if len(names) == 1 else f"{len(names)} classes ({some(names)})"
    )


def in_both(source: Any, val_source: Any) -> list[DataRemark]:
    """Remarks on training images that are in validation too, by name or by content."""
    copies = getattr(val_source, "copies", {})
    in_val = {copies.get(name, name): name for name in val_source.names}
    pairs = [
        (name, in_val[copies.get(name, name)])
        for name in source.names
        if copies.get(name, name) in in_val
    ]
    if not pairs:
        return []
    shown = some([a if a == b else f"{a} = {b}" for a, b in pairs])
    message = (
        f"{count(len(pairs), 'training image')} of {source.split!r} {are(len(pairs))} in "
        f"{val_source.split!r} too ({shown}), so the scores are too good; take them out "
        "of one of the two"
    )
    return [DataRemark("in both splits", message, tuple(a for a, _ in pairs))]


def in_neither(source: Any, val_source: Any) -> list[DataRemark]:
    """Remarks on labelled images of a folder that are in neither split."""
    unused = set(getattr(val_source, "left_out", ()))
    names = tuple(name for name in getattr(source, "left_out", ()) if name in unused)
    if not names:
        return []
    message = (
        f"{count(len(names), 'labelled image')} {are(len(names))} in neither {source.split!r} nor "
        f"{val_source.split!r} ({some(names)}) and not used; list them if they should be"
    )
    return [DataRemark("in no split", message, names)]
