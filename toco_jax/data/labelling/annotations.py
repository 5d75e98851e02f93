"""Reads the XML annotations of PASCAL VOC, which many tools write in their own ways."""

import pathlib
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from toco_jax.data.labelling.label_text import none_of
from toco_jax.data.labelling.xml_text import read_xml
from toco_jax.runtime.errors import DataError, clipped, shown

# What an annotation without objects holds.
_FIELDS = frozenset(("folder", "filename", "path", "source", "owner", "size", "segmented"))


def read_annotation(path: pathlib.Path, class_names: Sequence[str]) -> np.ndarray:
    """Reads the image-level label of a VOC annotation: float32 [C], 1 for classes of its objects.

    Every object counts, the ones marked `difficult` too. An annotation without objects gives zeros.

    Raises:
        DataError: the file is missing, is no XML or that of another tool, or names an object that
            is no class.
    """
    root = read_xml(path, "annotation")
    _refuse_other_kinds(root, path)
    label = np.zeros(len(class_names), np.float32)
    for number, item in enumerate(root.findall("object"), start=1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise DataError(
                f"annotation {path} has an object without a name, number {number}; name its class "
                "in <name>"
            )
        if name not in class_names:
            raise DataError(
                f"annotation {path} names an object {shown(name)}, which is "
                f"{none_of(class_names, name)}"
            )
        label[class_names.index(name)] = 1
    return label


def _refuse_other_kinds(root: ElementTree.Element, path: pathlib.Path) -> None:
    """Raises `DataError` for XML of another kind, in which labels would be overlooked."""
    if root.tag != "annotation":
        raise DataError(
            f"annotation {path} is no annotation of VOC: its outermost element is "
            f"<{clipped(root.tag)}>, not <annotation>; export the labels as PASCAL VOC"
        )
    for parent in root.iter():
        for child in parent:
            # Comments have a function in place of a tag.
            alike = str(child.tag).casefold() in ("object", "objects")
            if alike and (parent is not root or child.tag != "object"):
                where = "" if parent is root else f" in <{clipped(parent.tag)}>"
                raise DataError(
                    f"annotation {path} holds <{child.tag}>{where} where VOC has <object> right in "
                    "<annotation>; export the labels as PASCAL VOC"
                )
    tags = [child.tag for child in root]
    if tags and not _FIELDS.union(["object"]) & set(tags):
        raise DataError(
            f"annotation {path} holds <{clipped(tags[0])}> and no object or other field of VOC; "
            "export the labels as PASCAL VOC"
        )
