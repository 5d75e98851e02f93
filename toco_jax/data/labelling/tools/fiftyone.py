"""Reads the labels.json of FiftyOne's image classification and image detection datasets."""

from collections.abc import Sequence
from typing import Any

from toco_jax.data.labelling.tools.project import Project, Tagged, a_text, texts
from toco_jax.runtime.errors import DataError, shown

TOOL = "FiftyOne"


def is_labels(content: Any) -> bool:
    """Whether parsed JSON has the two fields of such a file."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("labels"), dict)
        and isinstance(content.get("classes", 0), list | None)
    )


def of_labels(content: Any, where: str) -> Project:
    """Reads the file; `where` begins the message of a `DataError`.

    A label is a name, the place of one in the list of classes, or an object that holds either. An
    image has one, a list of them, or null if it is not labelled.
    """
    classes = texts(content["classes"] or [], "classes", where)
    images = []
    for name, target in content["labels"].items():
        targets = target if isinstance(target, list) else [target]
        inside = f"{where}, sample {shown(name)}"
        labels = [] if target is None else [_label(item, classes, inside) for item in targets]
        why = "without a label" if target is None else ""
        images.append(Tagged(name, list(dict.fromkeys(labels)), f"sample {shown(name)}", why))
    return Project(TOOL, "sample", images, list(dict.fromkeys(classes)))


def _label(target: Any, classes: Sequence[str], where: str) -> str:
    label = target.get("label") if isinstance(target, dict) else target
    if not isinstance(label, int) or isinstance(label, bool):
        return a_text(label, "label", where).strip()
    if not 0 <= label < len(classes):
        raise DataError(
            f"{where}: label {shown(label)} is no place in the list of {len(classes)} classes, "
            "counted from 0; export the labels again"
        )
    return classes[label]
