"""Tells by the content of a file which annotation tool wrote it, and reads it."""

from typing import Any
from xml.etree import ElementTree

from toco_jax.data.labelling.tools import coco, cvat, fiftyone, label_studio, labelme
from toco_jax.data.labelling.tools.project import Project
from toco_jax.runtime.errors import DataError, clipped

_OF_JSON = (
    (label_studio.is_tasks, label_studio.of_tasks),
    (label_studio.is_min, label_studio.of_min),
    (coco.is_instances, coco.of_instances),
    (fiftyone.is_labels, fiftyone.of_labels),
    (labelme.is_file, labelme.of_file),
)


def of_json(content: Any, where: str) -> Project | None:
    """Reads parsed JSON if a known tool wrote it, otherwise returns None.

    Raises:
        DataError: the tool's own fields are missing or of another kind; begins with `where`.
    """
    for is_it, read in _OF_JSON:
        if is_it(content):
            return read(content, where)
    return None


def of_xml(root: ElementTree.Element, where: str) -> Project:
    """Reads an XML document of a known tool; raises `DataError` for any other."""
    if cvat.is_images(root):
        return cvat.of_images(root, where)
    raise DataError(
        f"{where} is no export of CVAT: its outermost element is <{clipped(root.tag)}>, not "
        "<annotations>; export the labels as CVAT for images 1.1 or as COCO"
    )
