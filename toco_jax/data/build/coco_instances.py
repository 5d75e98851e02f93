"""Reads and checks COCO's annotation files, instances_*.json."""

import pathlib
from typing import Any

from toco_jax.data.classes import COCO_CLASSES
from toco_jax.data.labelling.lists import image_name
from toco_jax.data.sources.coco import CATEGORY_IDS
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import DataError, clipped, is_inside, shown

_LABEL_OF_ID = {category: k + 1 for k, category in enumerate(CATEGORY_IDS)}
_LONGEST_SIDE = 65_535  # of a JPEG file
_MOST_PIXELS = 2**28  # more than any camera takes; the masks of such an image fill the memory
_REMEDY = "correct it or download the file again"


def read_annotations(path: pathlib.Path) -> list[dict]:
    """Reads the annotated images of a file, in the order of their ids.

    Returns:
        A list of {"name": file name without folder and ending, "size": (height, width), "objects":
        list of {"id", "label" 1..80, "crowd" bool, "segmentation"}}.

    Raises:
        DataError: the file is damaged, does not have COCO's fields and categories, or has no
            annotation; names the image or annotation.
    """
    content = _content(path)
    _check_categories(path, content["categories"])
    images = _images(path, content["images"])
    seen = set()
    for number, item in enumerate(content["annotations"], start=1):
        ident = _whole(item, "id", f"{path}, annotation number {number}")
        where = f"{path}, annotation {ident}"
        if ident in seen:
            raise DataError(f"{where} is there twice; {_REMEDY}")
        seen.add(ident)
        image, category = (_whole(item, field, where) for field in ("image_id", "category_id"))
        if image not in images:
            raise DataError(f"{where}: image_id {image} is none of the file's images; {_REMEDY}")
        if category not in _LABEL_OF_ID:
            raise DataError(
                f"{where}: category_id {category} is none of COCO's categories; {_REMEDY}"
            )
        images[image]["objects"].append(
            {
                "id": ident,
                "label": _LABEL_OF_ID[category],
                "crowd": _is_crowd(item, where),
                "segmentation": _field(item, "segmentation", where),
            }
        )
    annotated = [images[i] for i in sorted(images) if images[i]["objects"]]
    if not annotated:
        raise DataError(f"{path} has no annotation; give the file of a part with some")
    return annotated


def _content(path: pathlib.Path) -> dict[str, list[dict]]:
    """Reads the three lists of objects that an instances file has."""
    try:
        content = json_text.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is not an instances file of COCO ({type(error).__name__}: {clipped(error)}); "
            "download it again"
        ) from error
    lists = content if isinstance(content, dict) else {}
    for key in ("images", "annotations", "categories"):
        if not isinstance(lists.get(key), list):
            raise DataError(
                f"{path} is not an instances file of COCO ({key} is no list); download it again"
            )
        for number, item in enumerate(lists[key], start=1):
            if not isinstance(item, dict):
                raise DataError(f"{path}, {key}: entry {number} is no object; {_REMEDY}")
    return lists


def _check_categories(path: pathlib.Path, categories: list[dict]) -> None:
    found = {
        _whole(item, "id", f"{path}, category number {number}"): item.get("name")
        for number, item in enumerate(categories, start=1)
    }
    if found != dict(zip(CATEGORY_IDS, COCO_CLASSES, strict=True)):
        raise DataError(
            f"{path} has {len(found)} categories that are not COCO's 80; give the official "
            "instances_*.json, or use configs/folder.py for images of your own"
        )


def _images(path: pathlib.Path, items: list[dict]) -> dict[int, dict]:
    """Reads the images by id, with no objects yet."""
    images: dict[int, dict] = {}
    ids: dict[str, int] = {}
    for number, item in enumerate(items, start=1):
        ident = _whole(item, "id", f"{path}, image number {number}")
        where = f"{path}, image {ident}"
        if ident in images:
            raise DataError(f"{where} is there twice; {_REMEDY}")
        file_name = _field(item, "file_name", where)
        name = image_name(file_name).rpartition("/")[2] if isinstance(file_name, str) else ""
        if name in ("", ".", "..") or not is_inside(name):
            raise DataError(
                f"{where}: file_name is {shown(file_name)}, no name of a file; {_REMEDY}"
            )
        if name in ids:
            raise DataError(
                f"{path}: images {ids[name]} and {ident} are both called {shown(name)}, so that "
                "one's mask would replace the other's; rename one of them"
            )
        ids[name] = ident
        size = tuple(_whole(item, side, where) for side in ("height", "width"))
        for side, length in zip(("height", "width"), size, strict=True):
            if not 1 <= length <= _LONGEST_SIDE:
                raise DataError(
                    f"{where}: {side} is {length}; it has to be 1 to {_LONGEST_SIDE}, so {_REMEDY}"
                )
        if size[0] * size[1] > _MOST_PIXELS:
            raise DataError(
                f"{where}: height x width is {size[0]} x {size[1]}, more than {_MOST_PIXELS} "
                f"pixels; {_REMEDY}"
            )
        images[ident] = {"name": name, "size": size, "objects": []}
    return images


def _field(item: dict, field: str, where: str) -> Any:
    if field not in item:
        raise DataError(f"{where}: {field} is missing; {_REMEDY}")
    return item[field]


def _whole(item: dict, field: str, where: str) -> int:
    """Reads a whole number, which some tools write as text or with a decimal point."""
    value = _field(item, field, where)
    try:
        number = None if isinstance(value, bool) else int(value)
        number = None if number is not None and number.bit_length() > 64 else number
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (not isinstance(value, str) and number != value):
        raise DataError(f"{where}: {field} is {shown(value)}, not a whole number; {_REMEDY}")
    return number


def _is_crowd(item: dict, where: str) -> bool:
    value = item.get("iscrowd", 0)  # not every tool writes it
    if value in (0, 1, "0", "1"):
        return value in (1, "1")
    raise DataError(f"{where}: iscrowd is {shown(value)}, not 0 or 1; {_REMEDY}")
