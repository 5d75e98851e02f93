"""Image-level labels out of label files and out of masks.

A label file gives every image name its classes:

    .npy    a pickled dictionary {name: vector of C zeros and ones}, as the community shares it
    .npz    one such vector a name, or the arrays `names` [N] and `labels` [N, C]
    .json   {name: vector}, {name: [class names]} or {name: [numbers of classes]}
    .csv    a line `name,class;class` an image, or a column of 0 and 1 for each class

The pickle of a `.npy` is read without running anything in it.
"""

import csv
import dataclasses
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from toco_jax import npy_object
from toco_jax.data import DataError
from toco_jax.data.csv_labels import IMAGE_HEADINGS, LABEL_HEADINGS, Written, heading_word, read_csv
from toco_jax.data.label_text import (
    Positions,
    is_missing,
    labels_among,
    none_of,
    split_texts,
)
from toco_jax.data.labels import INDICES, MaskFormat, read_mask
from toco_jax.data.lists import image_name
from toco_jax.data.text_files import read_text

ENDINGS = (".npy", ".npz", ".json", ".csv")


def classes_in_mask(
    path: pathlib.Path, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """uint8 [C], 1 for every class with a pixel in the mask file."""
    mask = read_mask(path, num_classes, mask_format)
    return (np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """What a label file says.

    Attributes:
        path: the file.
        entries: the labels of each image: a list of class names, `Positions`, or a vector whose
            values are unchecked.
        remarks: what a user should know of how the file was read.
    """

    path: pathlib.Path
    entries: Mapping[str, Any]
    remarks: Sequence[str]

    def entry(self, name: str) -> Any:
        """The labels of an image; raises `DataError` for one that has none."""
        if name not in self.entries:
            raise DataError(
                f"label file {self.path} has no entry for image {name!r} (its first one is "
                f"{next(iter(self.entries))!r}); add it or take the image out of the split"
            )
        return self.entries[name]


def read_label_file(
    path: pathlib.Path,
    *,
    known: Collection[str] = (),
    separator: str = "",
    name_of: Callable[[str], str] = image_name,
) -> LabelFile:
    """Reads a label file.

    Args:
        path: the file.
        known: all classes, empty if the file is to tell them.
        separator: what separates labels in a text, "" to find it out (see `split_texts`).
        name_of: the image's name for what the file writes.

    Raises:
        DataError: the file is missing, damaged or no label file, contradicts itself, or has labels
            that may be read in two ways.
    """
    where = f"label file {path}"
    written, remarks = _written(path)
    if not written:
        raise DataError(f"{where} is empty; give every image its labels")
    names, renamed = _names(where, written, name_of)
    values = [item.value for item in written]
    entries, more = understand(values, names, known=known, separator=separator, where=where)
    entries, repeated = _joined(where, written, names, entries)
    return LabelFile(path, entries, [*remarks, *renamed, *more, *repeated])


def _written(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    """What a label file says of each image, as it stands there, and remarks."""
    readers = {".npy": _read_npy, ".npz": _read_npz, ".json": _read_json, ".csv": read_csv}
    ending = path.suffix.lower()
    if ending not in readers:
        raise DataError(f"label file {path} ends in none of {', '.join(ENDINGS)}; convert it")
    if not path.exists():
        raise DataError(
            f"label file {path} is missing; give data.labels as a full path or one within data.root"
        )
    try:
        return readers[ending](path)
    except DataError:
        raise
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(
            f"label file {path} cannot be read ({error}); replace it or make it anew"
        ) from error


def _names(
    where: str, written: Sequence[Written], name_of: Callable[[str], str]
) -> tuple[list[str], list[str]]:
    """The image names of a file, which may be text or numbers, and a remark on numbers."""
    names, numbers = [], []
    for item in written:
        name = item.name
        if isinstance(name, bytes):
            name = name.decode("ascii", "replace")
        if isinstance(name, int) and not isinstance(name, bool):
            name = _name_of_number(item.name)
            numbers.append(f"{item.name} as {name!r}")
        if not isinstance(name, str):
            raise DataError(
                f"{where} has the key {name!r}, which is no name of an image; save {{name: label}}"
            )
        names.append(name_of(name))
    if not numbers:
        return names, []
    return names, [f"{where}: {len(numbers)} keys are numbers and read as names, {numbers[0]}"]


def _name_of_number(number: int) -> str:
    """VOC's name of an image from which a tool took the line: 2007000032 is 2007_000032."""
    digits = f"{number:06d}"  # VOC 2007 has names such as 000032
    return f"{digits[:4]}_{digits[4:]}" if len(digits) == 10 else digits


def understand(
    values: Sequence[Any],
    names: Sequence[str],
    *,
    known: Collection[str],
    separator: str,
    where: str,
) -> tuple[list[Any], list[str]]:
    """The labels of images from what files say, looked at together.

    Args:
        values: of each image: a text, a list of names, numbers of classes, a vector, or nothing.
        names: the images.
        known: all classes, empty if the labels are to tell them.
        separator: what separates labels in a text, "" to find it out.
        where: begins the message of a `DataError`.

    Returns:
        Each image's labels as in `LabelFile.entries`, and remarks.
    """
    texts = {k: v for k, v in enumerate(values) if isinstance(v, str) and not is_missing(v)}
    split, remarks = split_texts(texts, known, separator, where)
    entries = [
        split[k] if k in split else _entry(value, f"{where}, {names[k]!r}")
        for k, value in enumerate(values)
    ]
    empty = [
        names[k]
        for k, value in enumerate(values)
        if is_missing(value) or (k in split and not split[k])
    ]
    if empty:
        remarks.append(
            f"{where}: {len(empty)} images have no label, the first one {empty[0]!r}, and count as "
            "images without any class; take them out of the splits if they are not labelled yet"
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


def _entry(value: Any, where: str) -> Any:
    if isinstance(value, (dict, _Pairs)) or (
        isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)
    ):
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
    """The entries that give classes by number, none if the entries are names or vectors.

    Lists of one length are vectors if that is the number of classes, or if there is nothing but
    0 and 1 in them; what one list is, all are.
    """
    named = [labels for labels in split.values() if labels]
    if named and all(label.isdecimal() for labels in named for label in labels):
        return {k: Positions(tuple(map(int, labels))) for k, labels in split.items() if labels}
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
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_is_number, value))


def _joined(
    where: str, written: Sequence[Written], names: Sequence[str], entries: Sequence[Any]
) -> tuple[dict[str, Any], list[str]]:
    """Entries by name; those of one image are joined if they agree."""
    joined, first = {}, {}
    for item, name, entry in zip(written, names, entries, strict=True):
        if name in joined and not _agree(joined[name], entry):
            place = f", {item.place}" if item.place else ""
            before = f" ({first[name].place})" if first[name].place else ""
            raise DataError(
                f"{where}{place}: {item.name!r} is there twice with other labels, first as "
                f"{first[name].name!r}{before}; join the labels of one image in one entry"
            )
        joined.setdefault(name, entry)
        first.setdefault(name, item)
    extra = len(names) - len(joined)
    if not extra:
        return joined, []
    return joined, [f"{where}: {extra} image{'s are' if extra > 1 else ' is'} there twice"]


def _agree(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list) and is_names(one) and is_names(other):
        return set(one) == set(other)
    return type(one) is type(other) and np.array_equal(one, other)


def as_vector(entry: Any, class_names: Sequence[str], where: str) -> np.ndarray:
    """One entry as uint8 [C]; `where` begins the message of a `DataError`."""
    label = np.zeros(len(class_names), np.uint8)
    if isinstance(entry, Positions):
        label[[_position(number, class_names, where) for number in entry.numbers]] = 1
        return label
    if is_names(entry):
        for name in entry:
            if name not in class_names:
                raise DataError(f"{where}: {name!r} is {none_of(class_names, name)}")
            label[class_names.index(name)] = 1
        return label
    try:
        vector = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        vector = None
    if vector is None or vector.shape != label.shape:
        shape = "no vector" if vector is None else f"a vector of shape {vector.shape}"
        raise DataError(
            f"{where}: {shape}, but there are {len(class_names)} classes; give one value for each "
            "and none for the background"
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
        count = f"{len(class_names)} class" + ("es" if len(class_names) > 1 else "")
        raise DataError(
            f"{where}: {number} is no position among the {count}, counted from 0; correct it or "
            "write class names"
        )
    return number


def is_names(entry: Any) -> bool:
    """Whether an entry lists class names."""
    return isinstance(entry, list) and all(isinstance(item, str) for item in entry)


def _read_npy(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    content = npy_object.load(path)
    if not isinstance(content, dict):
        _refuse_content(path, content)
    return [Written(name, value, "") for name, value in content.items()], []


def _read_npz(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    arrays = load_arrays(path)
    if set(arrays) == {"names", "labels"}:
        names, labels = arrays["names"], arrays["labels"]
        if names.ndim != 1 or len(names) != len(labels):
            raise ValueError(f"names of shape {names.shape}, labels of shape {labels.shape}")
        return [Written(*pair, "") for pair in zip(names.tolist(), labels, strict=True)], []
    return [Written(name, array, "") for name, array in arrays.items()], []


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file; `ValueError` or `OSError` if it is damaged."""
    try:
        # A file of our own is closed in every case; numpy leaves a damaged one open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, AttributeError) as error:
        raise ValueError(f"damaged or no .npz file: {error}") from error


class _Pairs(list):
    """The items of a JSON object, which may name one key twice."""


def _read_json(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    content = json.loads(read_text(path, "label file"), object_pairs_hook=_Pairs)
    if isinstance(content, _Pairs):
        return [Written(name, value, "") for name, value in content], []
    if not content or not isinstance(content, list) or not isinstance(content[0], _Pairs):
        _refuse_content(path, content)
    return [_record(path, number, item) for number, item in enumerate(content, start=1)], []


def _record(path: pathlib.Path, number: int, item: Any) -> Written:
    """An item {"file": name, "label": labels} of a list."""
    fields = item if isinstance(item, _Pairs) else []
    names = [value for key, value in fields if heading_word(key) in IMAGE_HEADINGS]
    labels = [value for key, value in fields if heading_word(key) in LABEL_HEADINGS]
    if len(names) != 1 or len(labels) != 1:
        raise DataError(
            f"label file {path}: entry {number} has not one name of an image and one label; write "
            '{"file": name, "label": label}'
        )
    return Written(names[0], labels[0], f"entry {number}")


def _refuse_content(path: pathlib.Path, content: Any) -> None:
    raise DataError(
        f"label file {path} holds {type(content).__name__}, not a dictionary from image names to "
        "labels; save {name: label}"
    )
