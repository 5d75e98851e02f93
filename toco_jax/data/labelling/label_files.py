"""Reads image-level labels from label files and from masks.

A label file gives every image name its classes:

    .npy    a pickled dictionary {name: vector of C zeros and ones}, as the community shares it
    .npz    one such vector per name, or the arrays `names` [N] and `labels` [N, C]
    .json   {name: vector}, {name: [class names]} or {name: [numbers of classes]}
    .jsonl  a line {"file_name": name, "label": labels} per image
    .csv    a line `name,class;class` per image, or a line `name,class` per image and class,
            or a column of 0 and 1 for each class

or it is an annotation tool's own, see `tools`: JSON of Label Studio, COCO or FiftyOne, XML of CVAT.
A pickle is read without running anything in it.
"""

import csv
import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from toco_jax.data.files import OnProblem, raise_problem
from toco_jax.data.labelling import npy_object
from toco_jax.data.labelling.csv_labels import Written, read_csv
from toco_jax.data.labelling.json_labels import read_json, refuse_content
from toco_jax.data.labelling.label_entries import understand
from toco_jax.data.labelling.lists import image_name
from toco_jax.data.labelling.rows import joined
from toco_jax.data.labelling.tool_labels import join
from toco_jax.data.labelling.tools import recognise
from toco_jax.data.labelling.tools.project import Project
from toco_jax.data.labelling.xml_text import read_xml
from toco_jax.data.labels import INDICES, MaskFormat, read_mask
from toco_jax.data.npz_files import read_npz
from toco_jax.data.remarks import count
from toco_jax.runtime.errors import DataError, clipped, is_inside, shown

ENDINGS = (".npy", ".npz", ".json", ".jsonl", ".csv", ".xml")


def classes_in_mask(
    path: pathlib.Path, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """Returns the classes in a mask file: uint8 [C], 1 for every class with a pixel."""
    mask = read_mask(path, num_classes, mask_format)
    return (np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class LabelFile:
    """The content of a label file.

    Attributes:
        path: the file.
        entries: labels of each image: a list of class names, `Positions`, or an unchecked vector.
        written: name of each image as it stands in the file.
        remarks: sentences on how the file was read.
        unlabelled: why images count as not labelled, by their names.
        classes: the classes in the file's own order; empty if it has no list of them.
    """

    path: pathlib.Path
    entries: Mapping[str, Any]
    written: Mapping[str, Any]
    remarks: Sequence[str]
    unlabelled: Mapping[str, str] = dataclasses.field(default_factory=dict)
    classes: Sequence[str] = ()

    def missing(self, name: str) -> DataError:
        """Returns the error to raise for an image without labels."""
        if name in self.unlabelled:
            return DataError(
                f"label file {self.path}: image {shown(name)} is not labelled "
                f"({self.unlabelled[name]}); label it or take it out of the split"
            )
        return DataError(
            f"label file {self.path} has no entry for image {shown(name)} (its first one is "
            f"{shown(next(iter(self.entries)))}); add it or take the image out of the split"
        )

    def entry(self, name: str) -> Any:
        """Returns the labels of an image; raises `DataError` if it has none."""
        if name not in self.entries:
            raise self.missing(name)
        return self.entries[name]


def read_label_file(
    path: pathlib.Path,
    *,
    known: Collection[str] = (),
    separator: str = "",
    names: Collection[str] = (),
    name_of: Callable[[str], str] = image_name,
    on_problem: OnProblem = raise_problem,
    title: str = "",
) -> LabelFile:
    """Reads a label file.

    Args:
        path: the file.
        known: all classes, empty if the file is to tell them.
        separator: what separates labels in a text; "" finds it out (see `split_texts`).
        names: names of the images, by which numbers in place of names are understood.
        name_of: returns the name of the image that a name in the file means.
        on_problem: called with "" and a `DataError` for entries that contradict each other.
        title: what remarks on a tool's file call it; "" for its name.

    Raises:
        DataError: the file is missing, damaged or no label file, contradicts itself, or has labels
            that may be read in two ways.
    """
    where = f"label file {path}"
    images = frozenset(names)
    content, remarks = _content(path, lambda text: name_of(text) in images)
    if isinstance(content, Project):
        return of_tool(path, content, images, name_of, title or path.name, on_problem)
    written = content
    if not written:
        raise DataError(f"{where} is empty; give every image its labels")
    found, renamed = _names(where, written, images, name_of)
    values = [item.value for item in written]
    entries, more = understand(values, found, known=known, separator=separator, where=where)
    entries, first, repeated = joined(where, written, found, entries, on_problem)
    spelling = {name: item.name for name, item in first.items()}
    return LabelFile(path, entries, spelling, [*remarks, *renamed, *more, *repeated])


def of_tool(
    path: pathlib.Path,
    project: Project,
    images: frozenset[str],
    name_of: Callable[[str], str],
    title: str,
    on_problem: OnProblem,
) -> LabelFile:
    """Finds the images of a tool's file; see `read_label_file` for the arguments.

    Raises:
        DataError: the file has no image, or none that is labelled.
    """
    where = f"label file {path}"
    if not project.images:
        raise DataError(f"{where} ({project.tool}) has no {project.noun}; export it anew")
    subset = re.fullmatch("instances_(.+)", path.stem)  # of a file of COCO for each subset
    if subset:
        images_of_it = [item._replace(subset=subset[1]) for item in project.images]
        project = project._replace(images=images_of_it)
    found = join(where, title, project, images, name_of, on_problem)
    if not found.labels:
        raise DataError(
            f"{where} ({project.tool}) has no labelled image among its "
            f"{count(len(project.images), project.noun)}; label some and export it anew"
        )
    return LabelFile(
        path, found.labels, found.written, found.remarks, found.unlabelled, project.classes
    )


def _content(
    path: pathlib.Path, is_there: Callable[[str], bool]
) -> tuple[Project | list[Written], list[str]]:
    """Reads a tool's file, or the entries of a label file as they stand there; and remarks."""
    readers: dict[str, Callable[[pathlib.Path], Any]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".json": lambda path: (read_json(path), []),
        ".jsonl": lambda path: (read_json(path), []),
        ".csv": functools.partial(read_csv, is_there=is_there),
        ".xml": lambda path: (_read_xml(path), []),
    }
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
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"label file {path} cannot be read ({clipped(error, 300)}); replace it or make it anew"
        ) from error


def _names(
    where: str,
    written: Sequence[Written],
    images: frozenset[str],
    name_of: Callable[[str], str],
) -> tuple[list[str], list[str]]:
    """Returns the image names of all entries, and a remark on names that were numbers.

    A known tool writes VOC's 2007_000032 as the number 2007000032, and spreadsheets drop leading
    zeros.
    """
    by_number: dict[int, list[str]] = {}
    for image in sorted(images):
        if re.fullmatch(r"\d{1,18}|\d{4}_\d{6}", image):
            by_number.setdefault(int(image.replace("_", "")), []).append(image)
    names, renamed = [], []
    for item in written:
        name = item.name.decode("latin1") if isinstance(item.name, bytes) else item.name
        if isinstance(name, int) and not isinstance(name, bool) and name.bit_length() <= 64:
            name = str(name)
        if not isinstance(name, str):
            raise DataError(
                f"{where} has the key {shown(name)}, which is no name of an image; save "
                f"{{name: label}}"
            )
        name = name_of(name)
        if not is_inside(name):
            raise DataError(
                f"{where} has an entry for {shown(item.name)}, which is not below the data set's "
                "folder; write names relative to it"
            )
        if name not in images and name.isdecimal() and len(name) <= 18:
            meant = by_number.get(int(name), [name])
            if len(meant) > 1:
                raise DataError(
                    f"{where} has the number {name}, which may be {shown(meant[0])} or "
                    f"{shown(meant[1])}; write the names of images"
                )
            if meant != [name]:
                renamed.append(f"{name} as {shown(meant[0])}")
                name = meant[0]
        names.append(name)
    if not renamed:
        return names, []
    return names, [
        f"{where}: {len(renamed)} names are numbers, read as images that are there: {renamed[0]}"
    ]


def _read_npy(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    content = npy_object.load(path)
    if not isinstance(content, dict):
        refuse_content(path, content)
    return [Written(name, value, "") for name, value in content.items()], []


def _read_npz(path: pathlib.Path) -> tuple[list[Written], list[str]]:
    arrays = read_npz(path)
    if set(arrays) == {"names", "labels"}:
        names, labels = arrays["names"], arrays["labels"]
        if names.ndim != 1 or labels.ndim == 0 or len(names) != len(labels):
            raise ValueError(f"names of shape {names.shape}, labels of shape {labels.shape}")
        return [Written(*pair, "") for pair in zip(names.tolist(), labels, strict=True)], []
    return [Written(name, array, "") for name, array in arrays.items()], []


def _read_xml(path: pathlib.Path) -> Project:
    return recognise.of_xml(read_xml(path, "label file"), f"label file {path}")
