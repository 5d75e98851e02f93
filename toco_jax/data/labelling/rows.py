"""Joins the entries of a label file that are of one image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.data.files import OnProblem
from toco_jax.data.labelling.csv_labels import Written
from toco_jax.data.labelling.label_entries import is_names
from toco_jax.data.labelling.label_text import Positions
from toco_jax.data.remarks import count, some
from toco_jax.runtime.errors import DataError, shown

# In a table of one row per label at least two images have several, and so has one in so many.
_FEWEST, _ONE_IN = 2, 20


def joined(
    where: str,
    written: Sequence[Written],
    names: Sequence[str],
    entries: Sequence[Any],
    on_problem: OnProblem,
) -> tuple[dict[str, Any], dict[str, Written], list[str]]:
    """Joins entries of the same image, which must agree unless the file has one row per label.

    Args:
        where: begins the message of a `DataError`.
        written: the entries as they stand in the file.
        names: the image of each.
        entries: the labels of each.
        on_problem: called with "" and a `DataError` for entries that contradict each other.

    Returns:
        The entries by name, the first `Written` of each name, and remarks.
    """
    found: dict[str, Any] = {}
    first: dict[str, Written] = {}
    others: list[tuple[Written, str, Any]] = []
    for item, name, entry in zip(written, names, entries, strict=True):
        if name in found and not agree(found[name], entry):
            others.append((item, name, entry))
        found.setdefault(name, entry)
        first.setdefault(name, item)
    remarks = []
    several = list(dict.fromkeys(name for _, name, _ in others))
    alike = all(item.name == first[name].name for item, name, _ in others)
    if alike and _is_row_per_label(entries, len(several), len(found)):
        for _, name, entry in others:
            found[name] = _union(found[name], entry)
        remarks.append(
            f"{where} has one row for each label: {count(len(several), 'image')} "
            f"with several rows ({some(several)}) get the labels of all of them"
        )
    elif others:
        item, name, _ = others[0]
        place = f", {item.place}" if item.place else ""
        before = f" ({first[name].place})" if first[name].place else ""
        more = f" ({count(len(others) - 1, 'other image')} likewise)" if others[1:] else ""
        message = (
            f"{where}{place}: {shown(item.name)} is there twice with other labels, first as "
            f"{shown(first[name].name)}{before}; join the labels of one image in one entry{more}"
        )
        on_problem("", DataError(message))
    extra = len(names) - len(found)
    if extra and not (others and remarks):
        remarks.append(f"{where}: {extra} image{'s are' if extra > 1 else ' is'} there twice")
    return found, first, remarks


def _is_row_per_label(entries: Sequence[Any], several: int, images: int) -> bool:
    """Whether all entries are one label each, and enough images have several of them."""
    return (
        several >= _FEWEST
        and several * _ONE_IN >= images
        and all(_labels(entry) is not None and len(_labels(entry) or ()) == 1 for entry in entries)
    )


def _labels(entry: Any) -> Sequence[Any] | None:
    if isinstance(entry, Positions):
        return entry.numbers
    return entry if is_names(entry) else None


def _union(one: Any, other: Any) -> Any:
    if isinstance(one, Positions):
        return Positions(tuple(dict.fromkeys((*one.numbers, *other.numbers))))
    return list(dict.fromkeys([*one, *other]))


def agree(one: Any, other: Any) -> bool:
    """Whether two entries are the same labels."""
    if isinstance(one, list) and isinstance(other, list) and is_names(one) and is_names(other):
        return set(one) == set(other)
    return type(one) is type(other) and np.array_equal(one, other)
