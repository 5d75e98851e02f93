"""Finds the classes of a folder, in label order, and refuses those that cannot be."""

import pathlib

from toco_jax.data.classes import in_label_order, is_background, name_problems
from toco_jax.data.files import OnProblem, read_list
from toco_jax.data.folders.folder_labels import CLASSES_FILE, Labels
from toco_jax.data.labelling.label_entries import is_names
from toco_jax.data.remarks import DataRemark, are, count, some
from toco_jax.runtime.errors import DataError


def listed_classes(root: pathlib.Path, on_problem: OnProblem) -> tuple[str, ...]:
    """The classes of classes.txt, () where there is none."""
    path = root / CLASSES_FILE
    if not path.is_file():
        return ()
    try:
        names = read_list(path)
    except DataError as error:
        on_problem("", error)
        return ()
    if not names:
        raise DataError(f"{path} is empty; write one class a line")
    lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if blank:
        message = (
            f"{path}, line {blank[0]} is blank, and classes are numbered by their lines; take the "
            "line out"
        )
        on_problem("", DataError(message))
    for message in name_problems(names):
        on_problem("", DataError(f"{path}: {message}"))
    kept = tuple(name for name in names if not is_background(name))
    if len(kept) < len(names):
        message = (
            f"{path} lists the background, which is label 0 and no class; take the line out, so "
            f"that {kept[0]!r} has the label 1"
            if kept
            else f"{path} lists the background alone, which is no class; add the classes"
        )
        on_problem("", DataError(message))
    return kept


def take_out_backgrounds(
    found: Labels, remarks: list[DataRemark], on_problem: OnProblem
) -> set[str]:
    """Makes images labelled background ones without any class; returns their names."""
    alone, beside = [], []
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
    """The classes that the labels name, in label order."""
    names, order, guessed = in_label_order(found.names(), masks=masks)
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
