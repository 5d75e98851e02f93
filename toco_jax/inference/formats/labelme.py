"""labelme: one JSON file a picture, with a shape for each connected component; and `labels.txt`.

Shapes are masks within their boxes, or polygons. The files refer to the pictures where they are.
"""

import base64
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from toco_jax.inference.formats.components import Component, components
from toco_jax.inference.formats.outlines import polygons
from toco_jax.inference.formats.pictures import Picture, Task, own_file, png
from toco_jax.runtime.errors import shown

FILE = "labels.txt"
# labelme's own, which stand for values -1 and 0 of its masks.
_RESERVED = ("__ignore__", "_background_")
_VERSION = "5.5.0"


def problem(names: Sequence[str]) -> str:
    """Returns which name labelme would take for another one, or ""."""
    for name in names:
        if name in _RESERVED or name != name.strip():
            return f"does not read the name {shown(name)} as it is"
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], None]:
    """Returns the picture's JSON file, which holds the image if labelme may not read it alike."""
    path = task.folder / f"{picture.name}.json"
    shapes = [
        {"label": task.names[part.label - 1], "group_id": None, "description": "", "flags": {}}
        | shape
        for part in components(picture.mask, len(task.names))
        for shape in _shapes(part, task.polygons)
    ]
    content: dict[str, Any] = {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": _image_path(picture, path),
        "imageData": _image_data(picture),
        "imageHeight": picture.height,
        "imageWidth": picture.width,
    }
    return {f"{picture.name}.json": json.dumps(content).encode()}, None


def of_all(_entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns `labels.txt`, as `labelme --labels` and its converters take it."""
    return {FILE: (f"{name}\n" for name in (*_RESERVED, *task.names))}


def _shapes(part: Component, as_polygons: bool) -> Iterator[dict[str, Any]]:
    left, top, width, height = part.box
    if as_polygons:
        for corners in polygons(part.inside):
            points = (corners + np.array([left, top])).tolist()
            yield {"shape_type": "polygon", "points": points, "mask": None}
        return
    # The last point lies within the box.
    points = [[left, top], [left + width - 1, top + height - 1]]
    inside = base64.b64encode(png(part.inside.astype(np.uint8) * 255)).decode()
    yield {"shape_type": "mask", "points": points, "mask": inside}


def _image_path(picture: Picture, path: pathlib.Path) -> str:
    if picture.path is None:
        return picture.file_name
    try:
        return pathlib.Path(os.path.relpath(picture.path, path.parent)).as_posix()
    except ValueError:  # on another drive
        return picture.path.resolve().as_posix()


def _image_data(picture: Picture) -> str | None:
    return None if own_file(picture) else base64.b64encode(png(picture.read())).decode()
