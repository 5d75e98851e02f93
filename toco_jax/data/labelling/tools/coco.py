"""Reads the objects of COCO's instances files, which many tools write, as image-level labels."""

from typing import Any

from toco_jax.data.labelling.tools.project import Project, Tagged, a_text, objects
from toco_jax.runtime.errors import DataError, shown

TOOL = "COCO instances"


def is_instances(content: Any) -> bool:
    """Whether parsed JSON has the three lists of an instances file."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def of_instances(content: Any, where: str) -> Project:
    """Reads an instances file; `where` begins the message of a `DataError`.

    An image without annotations counts as not labelled: the file does not tell whether somebody
    looked at it.
    """
    classes = {
        ident: a_text(item.get("name"), "name", f"{where}, category {ident}").strip()
        for ident, item in _by_id(content["categories"], "category", "categories", where).items()
    }
    images = _by_id(content["images"], "image", "images", where)
    labels: dict[int, dict[str, None]] = {ident: {} for ident in images}
    for number, item in enumerate(objects(content["annotations"], "annotations", where), start=1):
        inside = f"{where}, annotation number {number}"
        image, category = (_whole(item, key, inside) for key in ("image_id", "category_id"))
        if image not in images:
            raise DataError(
                f"{inside}: image_id {image} is none of the file's images; export the labels again"
            )
        if category not in classes:
            raise DataError(
                f"{inside}: category_id {category} is none of the file's categories; export the "
                "labels again"
            )
        labels[image][classes[category]] = None
    tagged = [
        Tagged(
            a_text(item.get("file_name"), "file_name", f"{where}, image {ident}"),
            list(labels[ident]),
            f"image {ident}",
            "" if labels[ident] else "without annotations",
        )
        for ident, item in images.items()
    ]
    return Project(TOOL, "image", tagged, list(dict.fromkeys(classes.values())))


def _by_id(items: Any, noun: str, key: str, where: str) -> dict[int, dict]:
    found: dict[int, dict] = {}
    for number, item in enumerate(objects(items, key, where), start=1):
        ident = _whole(item, "id", f"{where}, {noun} number {number}")
        if ident in found:
            raise DataError(f"{where}: {noun} {ident} is there twice; export the labels again")
        found[ident] = item
    return found


def _whole(item: dict, key: str, where: str) -> int:
    """Reads a whole number, which some tools write as a text."""
    value = item.get(key)
    if isinstance(value, str) and value.isdecimal() and len(value) <= 18:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value.bit_length() > 64:
        raise DataError(
            f"{where}: {key} is {shown(value)}, not a whole number; export the labels again"
        )
    return value
