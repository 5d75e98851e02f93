"""Image-level labels out of label files and out of masks.

A label file gives every image name its classes:

    .npy    a pickled dictionary {name: vector of C zeros and ones}, as the community shares it
    .npz    one such vector a name, or the arrays `names` [N] and `labels` [N, C]
    .json   {name: vector} or {name: [class names]}
    .csv    a line `name,class;class` an image

The pickle of a `.npy` is read without running anything in it.
"""

import csv
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from toco_jax import npy_object
from toco_jax.data import DataError
from toco_jax.data.labels import INDICES, MaskFormat, read_mask

ENDINGS = (".npy", ".npz", ".json", ".csv")
_HEADINGS = ("file", "filename", "image", "name", "path")


def classes_in_mask(
    path: pathlib.Path, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """uint8 [C], 1 for every class with a pixel in the mask file."""
    mask = read_mask(path, num_classes, mask_format)
    return (np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0).astype(np.uint8)


def labels_from_file(path: pathlib.Path, class_names: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Reader of a label file: a name to uint8 [C]; raises `DataError` for an unknown name."""
    entries = read_entries(path)

    def read(name: str) -> np.ndarray:
        if name not in entries:
            raise DataError(
                f"label file {path} has no entry for {name!r}; add it or take the image out of the "
                "split"
            )
        return as_vector(entries[name], class_names, f"label file {path}, {name!r}")

    return read


def read_entries(path: pathlib.Path) -> dict[str, Any]:
    """A label file as {name: vector or sequence of class names}, unchecked values."""
    readers = {".npy": _read_npy, ".npz": _read_npz, ".json": _read_json, ".csv": _read_csv}
    if path.suffix not in readers:
        raise DataError(f"label file {path} ends in none of {', '.join(ENDINGS)}; convert it")
    try:
        entries = readers[path.suffix](path)
    except FileNotFoundError:
        raise DataError(
            f"label file {path} is missing; give data.labels as a full path or one within data.root"
        ) from None
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"label file {path} cannot be read ({error}); replace it or make it anew"
        ) from error
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise DataError(
            f"label file {path} holds {type(entries).__name__}, not a dictionary from image names "
            "to labels; save {name: label}"
        )
    if not entries:
        raise DataError(f"label file {path} is empty; give every image its labels")
    return entries


def as_vector(entry: Any, class_names: Sequence[str], where: str) -> np.ndarray:
    """One entry as uint8 [C]; `where` begins the message of a `DataError`."""
    label = np.zeros(len(class_names), np.uint8)
    if is_names(entry):
        for name in [entry] if isinstance(entry, str) else entry:
            if name not in class_names:
                shown = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
                raise DataError(
                    f"{where}: {name!r} is none of the {len(class_names)} classes ({shown}); "
                    "correct the name"
                )
            label[class_names.index(name)] = 1
        return label
    try:
        vector = np.asarray(entry, np.float64)
    except (TypeError, ValueError):
        vector = None
    if vector is None or vector.shape != label.shape:
        shape = "no vector" if vector is None else f"a vector of shape {vector.shape}"
        raise DataError(
            f"{where}: {shape}, but there are {len(class_names)} classes; the background has no "
            "place in it"
        )
    if not np.isin(vector, (0, 1)).all():
        raise DataError(f"{where}: values other than 0 and 1; give one-hot sums, not counts")
    return vector.astype(np.uint8)


def is_names(entry: Any) -> bool:
    """Whether an entry names its classes (one name or a sequence) instead of marking them."""
    return isinstance(entry, str) or (
        isinstance(entry, (list, tuple)) and all(isinstance(item, str) for item in entry)
    )


def _read_npy(path: pathlib.Path) -> Any:
    return npy_object.load(path)


def _read_npz(path: pathlib.Path) -> dict[str, Any]:
    arrays = load_arrays(path)
    if set(arrays) == {"names", "labels"}:
        return dict(zip(arrays["names"].tolist(), arrays["labels"], strict=True))
    return arrays


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file; `ValueError` or `OSError` if it is damaged."""
    try:
        # A file of our own is closed in every case; numpy leaves a damaged one open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, AttributeError) as error:
        raise ValueError(f"damaged or no .npz file: {error}") from error


def _read_json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_csv(path: pathlib.Path) -> dict[str, list[str]]:
    entries = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not any(cell.strip() for cell in row):
                continue
            if number == 1 and row[0].strip().lower() in _HEADINGS:
                continue
            if len(row) != 2 or not row[0].strip():
                raise DataError(
                    f"label file {path}, line {number}: {','.join(row)!r} is not "
                    "`file,label;label`; write two columns and quote names that hold a comma"
                )
            name = row[0].strip()
            if name in entries:
                raise DataError(
                    f"label file {path}, line {number}: {name!r} is there twice; join the lines"
                )
            entries[name] = [part.strip() for part in row[1].split(";") if part.strip()]
    return entries
