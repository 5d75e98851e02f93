"""Reads the files of labelme, one for each image."""

from typing import Any

from toco_jax.data.labelling.tools.project import Project, Tagged, a_text, an_object, objects
from toco_jax.runtime.errors import DataError, shown

TOOL = "labelme"

_NO_CLASS = "__ignore__"  # labelme's own name for what is to be ignored


def is_file(content: Any) -> bool:
    """Whether parsed JSON is a file of labelme."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and "imagePath" in content
    )


def of_file(content: Any, where: str) -> Project:
    """Reads a file; `where` begins the message of a `DataError`.

    Flags that are set are labels, and so are those of the shapes. A file without a flag and a shape
    counts as not labelled.
    """
    name = a_text(content.get("imagePath"), "imagePath", where)
    flags = an_object(content.get("flags"), "flags", where)
    for flag, value in flags.items():
        if not isinstance(value, bool):
            raise DataError(
                f"{where}: flag {shown(flag)} is {shown(value)}, neither true nor false; correct it"
            )
    shapes = objects(content["shapes"], "shapes", where)
    labels = [flag.strip() for flag, is_set in flags.items() if is_set]
    labels += [a_text(shape.get("label"), "label of a shape", where).strip() for shape in shapes]
    kept = [label for label in dict.fromkeys(labels) if label != _NO_CLASS]
    why = "" if flags or kept else "without flags or shapes"
    return Project(TOOL, "file", [Tagged(name, kept, "imagePath", why)])
