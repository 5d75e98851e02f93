"""Turns the entries of label files into class names, positions or vectors."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from toco_jax.data.classes import several_names
from toco_jax.data.labelling.label_text import (
    Positions,
    is_missing,
    labels_among,
    none_of,
    number_of_classes,
    split_texts,
)
from toco_jax.data.labelling.other_content import refuse_other_content
from toco_jax.runtime.errors import DataError, shown

_WHOLE = re.compile(r"[0-9]{1,18}(\.0)?")  # pandas adds the point where some are missing


def understand(
    values: Sequence[Any],
    names: Sequence[str],
    *,
    known: Collection[str],
    separator: str,
    where: str,
) -> tuple[list[Any], list[str]]:
    """Interprets the entries of all images together.

    Args:
        values: entry of each image: a text, a list of names, numbers of classes, a vector, or
            nothing.
        names: names of the images.
        known: all classes, empty if the labels are to tell them.
        separator: what separates labels in a text; "" finds it out.
        where: begins the message of a `DataError`.

    Returns:
        The labels of each image as in `LabelFile.entries`, and remarks.
    """
    texts = {k: v for k, v in enumerate(values) if isinstance(v, str) and not is_missing(v)}
    split, remarks = split_texts(texts, known, separator, where)
    entries = [
        split[k] if k in split else _entry(value, f"{where}, {shown(names[k])}")
        for k, value in enumerate(values)
    ]
    if not separator:
        _refuse_odd_items(values, entries, known, where)
    empty = [
        names[k]
        for k, value in enumerate(values)
        if is_missing(value) or (k in split and not split[k])
    ]
    if empty:
        one = len(empty) == 1
        remarks.append(
            f"{where}: {len(empty)} {'image has' if one else 'images have'} no label, the first "
            f"one {shown(empty[0])}, and {'counts as an image' if one else 'count as images'} "
            f"without any class; take {'it' if one else 'them'} out of the splits if "
            f"{'it is' if one else 'they are'} not labelled yet"
        )
    positions = _positions(entries, split, len(known))
    if positions:
        if not known:
            raise DataError(
                f"{where}: labels are numbers; list the classes in classes.txt, one a line, the "
                "class of number 0 first"
            )
        entries = [positions.get(k, entry) for k, entry in enumerate(entries)]
        remarks.append(
            f"{where}: labels are numbers, taken for positions in the list of classes, counted "
            "from 0, unless classes are called by numbers"
        )
    return entries, remarks


def _refuse_odd_items(
    values: Sequence[Any], entries: Sequence[Any], known: Collection[str], where: str
) -> None:
    """Raises `DataError` for items of lists that are no names, or several at once."""
    lists = [e for v, e in zip(values, entries, strict=True) if isinstance(v, list) and is_names(e)]
    items = {item for names in lists for item in names}
    refuse_other_content(sorted(items), known, where)
    named = {name for entry in entries if is_names(entry) for name in entry}
    found = None if known else several_names(named)
    if found and found[0] in items:
        raise DataError(
            f"{where}: {shown(found[0])} may be one class or several; write several as items of "
            "their own, or list the classes in classes.txt if it is one"
        )


def _entry(value: Any, where: str) -> Any:
    parts = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(part, (dict, list, tuple)) for part in parts):
        raise DataError(
            f"{where}: a nested list or object is no label; save {{name: label}}, each label a "
            "name, a list of names or a vector"
        )
    if is_missing(value):
        return []
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        return labels_among(value)
    return value


def _positions(
    entries: Sequence[Any], split: Mapping[int, list[str]], num_classes: int
) -> dict[int, Positions]:
    """Returns the entries that give classes by number; none if entries are names or vectors.

    Lists of equal length are vectors if that is the number of classes, or if they hold only 0 and
    1. All lists are of one kind.
    """
    named = [labels for labels in split.values() if labels]
    if named and all(_WHOLE.fullmatch(label) for labels in named for label in labels):
        return {
            k: Positions(tuple(int(label.partition(".")[0]) for label in labels))
            for k, labels in split.items()
            if labels
        }
    single = {k: (int(e),) for k, e in enumerate(entries) if _is_number(e)}
    lists = {k: tuple(e) for k, e in enumerate(entries) if _is_list_of_numbers(e)}
    lengths = {len(numbers) for numbers in lists.values()}
    if lists and not single and len(lengths) == 1:
        length = lengths.pop()
        bits = length > 1 and {n for numbers in lists.values() for n in numbers} <= {0, 1}
        if bits or length == num_classes or not num_classes:
            return {}
    found = single | lists
    if any(min(numbers) < 0 or len(set(numbers)) < len(numbers) for numbers in found.values()):
        return {}
    return {k: Positions(numbers) for k, numbers in found.items()}


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_number and int(value).bit_length() <= 64


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def as_vector(entry: Any, class_names: Sequence[str], where: str) -> np.ndarray:
    """Returns the label of an entry, uint8 [C].

    Args:
        entry: class names, `Positions` or a vector.
        class_names: the C classes.
        where: begins the message of a `DataError`.

    Raises:
        DataError: a class is unknown, or the vector has another shape or other values than 0 and 1.
    """
    label = np.zeros(len(class_names), np.uint8)
    if isinstance(entry, Positions):
        label[[_position(number, class_names, where) for number in entry.numbers]] = 1
        return label
    if is_names(entry):
        for name in entry:
            if name not in class_names:
                raise DataError(f"{where}: {shown(name)} is {none_of(class_names, name)}")
            label[class_names.index(name)] = 1
        return label
    try:
        vector = np.asarray(entry, np.float64)
    except (TypeError, ValueError, OverflowError):
        vector = None
    if vector is None or vector.shape != label.shape:
        shape = "no vector" if vector is None else f"a vector of shape {vector.shape}"
        raise DataError(
            f"{where}: {shape}, but there {'is' if len(class_names) == 1 else 'are'} "
            f"{number_of_classes(class_names)}; give one value for each and none for the background"
        )
    if not np.isin(vector, (0, 1)).all():
        raise DataError(f"{where}: values other than 0 and 1; give one-hot sums, not counts")
    return vector.astype(np.uint8)


def _position(number: int, class_names: Sequence[str], where: str) -> int:
    if any(name.isdecimal() for name in class_names):
        if str(number) in class_names:
            return class_names.index(str(number))
        raise DataError(f"{where}: {number} is {none_of(class_names, str(number))}")
    if number >= len(class_names):
        raise DataError(
            f"{where}: {number} is no position among the {number_of_classes(class_names)}, counted "
            "from 0; correct it or write class names"
        )
    return number


def is_names(entry: Any) -> bool:
    """Whether an entry lists class names."""
    return isinstance(entry, list) and all(isinstance(item, str) for item in entry)
