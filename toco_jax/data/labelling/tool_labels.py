"""Joins what the file of an annotation tool says with the images of a data set."""

import collections
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from toco_jax.data.classes import is_background
from toco_jax.data.files import OnProblem
from toco_jax.data.labelling.tools.matching import Finder
from toco_jax.data.labelling.tools.project import Project, Tagged
from toco_jax.data.remarks import count, some
from toco_jax.runtime.errors import DataError, shown, some_of


class Joined(NamedTuple):
    """What a tool's file says of the images of a data set.

    Attributes:
        labels: classes of each labelled image.
        written: name of each image as it stands in the file.
        unlabelled: why images count as not labelled.
        remarks: sentences on how the file was read.
    """

    labels: dict[str, list[str]]
    written: dict[str, str]
    unlabelled: dict[str, str]
    remarks: list[str]


def join(
    where: str,
    title: str,
    project: Project,
    images: Collection[str],
    name_of: Callable[[str], str],
    on_problem: OnProblem,
) -> Joined:
    """Finds the image of every entry of a tool's file.

    Args:
        where: begins the message of a `DataError`.
        title: what remarks call the file.
        project: what it says.
        images: names of the images; entries of others keep the names that the file gives them.
        name_of: returns the name of the image that a path means exactly.
        on_problem: called with "" and a `DataError` for entries that may mean several images, or
            say different things of one.
    """
    found, problems = _with_names(where, project, images, name_of)
    first: dict[str, Tagged] = {}
    labels: dict[str, list[str]] = {}
    for name, item in found:
        if item.unlabelled:
            continue
        entry = [label for label in item.labels if not is_background(label)] or list(item.labels)
        if name in labels and set(labels[name]) != set(entry):
            problems.append(
                f"{where}, {item.place}: {shown(item.name)} is there twice with other labels, "
                f"first as {shown(first[name].name)} ({first[name].place}); keep one of the two"
            )
        first.setdefault(name, item)
        labels.setdefault(name, entry)
    if problems:
        others = len(problems) - 1
        more = f" ({others} other {'entries' if others > 1 else 'entry'} likewise)"
        on_problem("", DataError(problems[0] + (more if others else "")))
    written = {name: item.name for name, item in reversed(found)}
    unlabelled = {name: item.unlabelled for name, item in found if name not in labels}
    remarks = [
        _summary(title, project, unlabelled, written),
        *(f"{title}: {remark}" for remark in (*_remarks(first), *project.remarks)),
    ]
    return Joined(labels, written, unlabelled, remarks)


def _with_names(
    where: str, project: Project, images: Collection[str], name_of: Callable[[str], str]
) -> tuple[list[tuple[str, Tagged]], list[str]]:
    """Returns the entries with the names of their images, and sentences on those that have none."""
    finder = Finder(images, [item.name for item in project.images], name_of)
    found, problems = [], []
    for item in project.images:
        inside = f"{where}, {item.place},"
        try:
            name = finder.find(f"{item.subset}/{item.name}", inside) if item.subset else None
            name = name or finder.find(item.name, inside) or name_of(item.name)
        except DataError as error:
            problems.append(str(error))
        else:
            found.append((name, item))
    return found, problems


def _remarks(labelled: Mapping[str, Tagged]) -> list[str]:
    """Remarks on images without any class and on the label background."""
    remarks = []
    if empty := [name for name, item in labelled.items() if not item.labels]:
        remarks.append(
            f"{count(len(empty), 'image')} labelled with no class ({some(empty)}), taken as "
            "without any"
        )
    backgrounds = [sum(map(is_background, item.labels)) for item in labelled.values()]
    beside = sum(
        0 < number < len(item.labels)
        for number, item in zip(backgrounds, labelled.values(), strict=True)
    )
    if beside:
        remarks.append(
            "the label background is left out where there are others, in "
            f"{count(beside, 'image')}; every image has background"
        )
    return remarks


def never_used(title: str, classes: Collection[str], labels: Mapping[str, Any]) -> list[str]:
    """Remarks on classes of the file's list that no image has."""
    if not classes:
        return []
    used = {label for entry in labels.values() for label in entry}
    never = [name for name in classes if name not in used and not is_background(name)]
    if not never:
        return []
    return [
        f"{title}: no image has these labels of its list, which are no classes then: "
        f"{some_of(never)}; list all classes in classes.txt to keep them"
    ]


def _summary(
    title: str,
    project: Project,
    unlabelled: Mapping[str, str],
    written: Mapping[str, str],
) -> str:
    said = f"{title}: {project.tool}, {count(len(project.images), project.noun)}"
    if not unlabelled:
        return said
    reasons = collections.Counter(unlabelled.values())
    why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
    names = some([written[name] for name in unlabelled])
    return f"{said}; left out as not labelled: {why} ({names})"
