"""Finds and reads the label files of a folder: one, or one for each of its splits."""

import fnmatch
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toco_jax.data.files import OnProblem
from toco_jax.data.folders.folder_names import in_any_case
from toco_jax.data.folders.found_labels import Labels, without_label
from toco_jax.data.labelling.label_files import LabelFile, read_label_file
from toco_jax.data.labelling.likely_labels import looks_like_labels
from toco_jax.data.labelling.lists import finder
from toco_jax.data.labelling.rows import agree
from toco_jax.data.labelling.tool_labels import never_used
from toco_jax.data.remarks import DataRemark, as_remarks, some
from toco_jax.runtime.errors import DataError, shown

_OWN = ("labels.csv", "labels.json")
# Names that tools give to exports, and others to other files, so that their content decides.
_OF_TOOLS = (
    *("annotations.xml", "annotations.json", "result.json", "_annotations.coco.json"),
    *("_classes.csv", "metadata.csv", "metadata.jsonl"),
)
# The name that Label Studio gives to exports, which ends with the time.
_OF_LABEL_STUDIO = "project-*-at-*"
# Those of which tools write one for each split.
_OF_SPLITS = (
    *("*/_annotations.coco.json", "annotations/instances_*.json"),
    *("*/_classes.csv", "*/metadata.csv", "*/metadata.jsonl"),
)


def label_files(root: pathlib.Path) -> list[str]:
    """Names the label files of a folder as they are spelt; the first one is read."""
    found = []
    for name in (*_OWN, *_OF_TOOLS):
        path = in_any_case(root, name, pathlib.Path.is_file)
        if path and (name in _OWN or looks_like_labels(path)):
            found.append(path.name)
    exports = sorted(path for path in root.glob(_OF_LABEL_STUDIO) if path.is_file())
    return found + [path.name for path in exports if looks_like_labels(path)]


def label_file_there(root: pathlib.Path) -> str:
    """Returns the label file to read of those in the root, "" if there is none.

    Raises:
        DataError: there are several exports of Label Studio, and none is called as labels are.
    """
    there = label_files(root)
    if len(there) > 1 and fnmatch.fnmatch(there[0], _OF_LABEL_STUDIO):
        raise DataError(
            f"{root} has several exports of Label Studio ({some(there)}); remove the older ones or "
            "set data.labels to the one that is meant"
        )
    return there[0] if there else ""


def label_files_of_splits(root: pathlib.Path) -> str:
    """Returns a pattern of the label files for splits, "" if there are none."""
    for pattern in _OF_SPLITS:
        if any(path.is_file() and looks_like_labels(path) for path in root.glob(pattern)):
            return pattern
    return ""


def label_paths(root: pathlib.Path, labels: str) -> list[pathlib.Path]:
    """Returns the files that `labels` names, which may be a pattern such as `*/labels.json`.

    Raises:
        DataError: no file fits the pattern.
    """
    if "*" not in labels:
        return [root / labels]
    try:
        found = sorted(path for path in root.glob(labels) if path.is_file())
    except (ValueError, NotImplementedError) as error:  # for a full path, among others
        raise DataError(
            f"data.labels={labels!r} is no pattern of files in {root} ({error}); write one such as "
            "*/labels.json"
        ) from error
    if not found:
        raise DataError(f"data.labels={labels!r} fits no file in {root}; correct it")
    return found


def labels_of_files(
    root: pathlib.Path,
    labels: str,
    files: Mapping[str, pathlib.Path],
    listed: Sequence[str],
    label_separator: str,
    on_problem: OnProblem,
) -> Labels:
    """Reads the label files that `labels` names; see `folder_labels.read_labels` for the rest."""
    paths = label_paths(root, labels)
    read = [
        read_label_file(
            path,
            title=path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
            known=listed,
            separator=label_separator,
            names=files,
            name_of=_from(path, root, files),
            on_problem=on_problem,
        )
        for path in paths
    ]
    file = read[0] if len(read) == 1 else _joined(root / labels, read, on_problem)
    return labels_of(file, root, files, listed, paths, on_problem)


def labels_of(
    file: LabelFile,
    root: pathlib.Path,
    files: Mapping[str, pathlib.Path],
    listed: Sequence[str],
    paths: Sequence[pathlib.Path],
    on_problem: OnProblem,
) -> Labels:
    """Compares a label file, which was read from `paths`, with the images that are there."""
    name = file.path.name
    absent = tuple(str(file.written[name]) for name in file.entries if name not in files)
    mentioned = {**file.entries, **file.unlabelled}
    remarks = [] if listed else list(as_remarks(never_used(name, file.classes, file.entries)))
    remarks += without_label(files, mentioned, f"entry in {name}", "one with no label")
    if len(absent) == len(file.entries):
        message = (
            f"none of the {len(absent)} entries of label file {file.path} names an image below "
            f"{root} (its first one is {shown(absent[0])}, the first image {next(iter(files))!r}); "
            "write paths from data.root on"
        )
        on_problem("", DataError(message))
    elif absent:
        verb = "names" if len(absent) == 1 else "name"
        message = (
            f"{len(absent)} of {len(file.entries)} entries in {name} {verb} no image "
            f"({some(absent)}); correct the name or restore the file"
        )
        remarks.append(DataRemark("labels without an image", message, absent))
    return Labels(
        dict(sorted(file.entries.items())),
        file.missing,
        order=file.classes,
        paths=frozenset(paths),
        remarks=[*as_remarks(file.remarks), *remarks],
    )


def _joined(pattern: pathlib.Path, read: Sequence[LabelFile], on_problem: OnProblem) -> LabelFile:
    """Joins label files, which must say the same of images that several of them have."""
    entries: dict[str, Any] = {}
    origin: dict[str, LabelFile] = {}
    for file in read:
        for name, entry in file.entries.items():
            if name in entries and not agree(entries[name], entry):
                message = (
                    f"image {shown(name)} has other labels in {file.path} than in "
                    f"{origin[name].path}; take it out of one of the two"
                )
                on_problem("", DataError(message))
            entries.setdefault(name, entry)
            origin.setdefault(name, file)
    orders = {tuple(file.classes) for file in read}
    unlabelled = {k: why for file in read for k, why in file.unlabelled.items() if k not in entries}
    return LabelFile(
        pattern,
        entries,
        {name: file.written[name] for name, file in origin.items()},
        [remark for file in read for remark in file.remarks],
        unlabelled,
        orders.pop() if len(orders) == 1 else (),
    )


def _from(
    path: pathlib.Path, root: pathlib.Path, files: Mapping[str, pathlib.Path]
) -> Callable[[str], str]:
    """Returns a function that finds images by names from a label file's folder on, or the root."""
    find = finder(root, files)
    folder = path.parent.relative_to(root).as_posix() if path.parent.is_relative_to(root) else "."

    def find_there(name: str) -> str:
        there = find(f"{folder}/{name}")
        return there if folder != "." and there in files else find(name)

    return find_there
