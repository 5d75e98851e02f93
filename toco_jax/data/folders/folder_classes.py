"""Finds the classes of a folder in label order, and reports names that cannot be classes."""

import pathlib
from collections.abc import Sequence

from toco_jax.data.classes import in_label_order, is_background, name_problems, several_names
from toco_jax.data.files import OnProblem, refuse_repeats
from toco_jax.data.folders.folder_labels import CLASSES_FILE
from toco_jax.data.folders.folder_names import UNLABELLED, in_any_case, plain
from toco_jax.data.folders.found_labels import Labels
from toco_jax.data.labelling.label_entries import is_names
from toco_jax.data.labelling.text_files import read_text, trimmed
from toco_jax.data.labelling.tools import yolo
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError, shown

NAMES_FILE, YAML_FILE = "obj.names", "data.yaml"


def listed_classes(root: pathlib.Path, on_problem: OnProblem) -> tuple[str, ...]:
    """Reads the classes of classes.txt, or else of YOLO's obj.names or data.yaml; () if none is."""
    path = in_any_case(root, CLASSES_FILE, pathlib.Path.is_file)
    path = path or in_any_case(root, NAMES_FILE, pathlib.Path.is_file)
    lines: list[str] = []
    try:
        if path is not None:
            lines = [trimmed(line) for line in read_text(path, "list").rstrip().splitlines()]
            names = tuple(filter(None, lines))
        else:
            path = in_any_case(root, YAML_FILE, pathlib.Path.is_file)
            found = yolo.class_names(read_text(path, "list"), f"list {path}") if path else []
            if path is None or not found:
                return ()
            names = tuple(found)
        refuse_repeats(names, f"list {path}")
    except DataError as error:
        on_problem("", error)
        return ()
    if not names:
        raise DataError(f"{path} is empty; write one class a line")
    _report_other_lines(path, lines, on_problem)
    for message in name_problems(names):
        on_problem("", DataError(f"{path}: {message}"))
    kept = tuple(name for name in names if not is_background(name))
    if len(kept) < len(names):
        message = (
            f"{path} lists the background, which is label 0 and no class; take the line out, so "
            f"that {shown(kept[0])} has the label 1"
            if kept
            else f"{path} lists the background alone, which is no class; add the classes"
        )
        on_problem("", DataError(message))
    return kept


def _report_other_lines(path: pathlib.Path, lines: Sequence[str], on_problem: OnProblem) -> None:
    """Reports the first line that is blank or a comment, since lines number the classes."""
    for number, line in enumerate(lines, start=1):
        if not line:
            message = f"{path}, line {number} is blank, and classes are numbered by their lines"
        elif line.startswith("#"):
            message = (
                f"{path}, line {number} {shown(line)} begins with #, but every line is a class"
            )
        else:
            continue
        on_problem("", DataError(f"{message}; take the line out"))
        return


def take_out_backgrounds(
    found: Labels, remarks: list[DataRemark], on_problem: OnProblem
) -> set[str]:
    """Removes background labels; returns the names of the images that then have no class."""
    alone: list[str] = []
    beside: list[str] = []
    for name, entry in found.entries.items():
        if not is_names(entry):
            continue
        labels = [entry] if isinstance(entry, str) else list(entry)
        kept = [label for label in labels if not is_background(label)]
        if len(kept) < len(labels):
            (beside if kept else alone).append(name)
            found.entries[name] = kept
    if beside:
        message = (
            f"{count(len(beside), 'image')} {are(len(beside))} labelled background beside "
            f"other classes ({some(beside)}), but every image has background, which is label "
            "0; take that label out"
        )
        on_problem("", DataError(message))
    if alone:
        message = (
            f"{count(len(alone), 'image')} {are(len(alone))} labelled background alone "
            f"({some(alone)}) and taken as without any class; rename that label if it is a class"
        )
        remarks.append(DataRemark("background", message, tuple(alone)))
    return set(alone)


def class_names_of(
    root: pathlib.Path,
    found: Labels,
    remarks: list[DataRemark],
    on_problem: OnProblem,
    *,
    masks: bool,
) -> tuple[str, ...]:
    """Returns the classes that the labels name, in label order."""
    names, order, guessed = in_label_order(found.names(), masks=masks)
    listed = [name for name in found.order if name in names]
    if masks and listed and listed != list(names):
        one = next(a for a, b in zip(listed, names, strict=True) if a != b)
        guessed = f"the label file lists {shown(one)} earlier than the alphabet does"
    if not names:
        for entry in found.entries.values():
            if isinstance(entry, DataError):  # names the file where it is the files that are wrong
                raise entry
        raise DataError(
            f"the labels of {root} name no class; write class names, or list them in "
            f"{root / CLASSES_FILE} where labels are vectors"
        )
    for message in name_problems(names):
        on_problem("", DataError(message))
    for name in names:
        if plain(name) in UNLABELLED:
            message = (
                f"class {shown(name)} says that there is no label; leave these images out, or list "
                f"all classes in {root / CLASSES_FILE} if it is one"
            )
            on_problem("", DataError(message))
    if found.joined and (several := several_names(names)):
        message = (
            f"class {shown(several[0])} may stand for several others; copy its images into the "
            f"folders of these, or list all classes in {root / CLASSES_FILE} if it is one class"
        )
        on_problem("", DataError(message))
    if guessed:
        message = (
            f"the masks of {root} may count the classes in another order: {guessed}; list the "
            f"classes in the order of the masks' values in {root / CLASSES_FILE}"
        )
        on_problem("", DataError(message))
    elif order:
        remarks.append(
            DataRemark("order of classes", f"the classes are numbers and taken {order}", names)
        )
    return names
