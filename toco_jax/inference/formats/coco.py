"""COCO instances: `annotations.json`, one annotation for each connected component.

Read by CVAT, FiftyOne, Roboflow, detectron2 and others. Category k is label k; background and
uncertain pixels have no annotation. See cocodataset.org, "Data format".
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from toco_jax.inference.formats.components import (
    Component,
    column_runs,
    components,
    packed_runs,
)
from toco_jax.inference.formats.outlines import polygons
from toco_jax.inference.formats.pictures import Picture, Task, frame_file
from toco_jax.runtime.json_text import object_text

FILE = "annotations.json"


def problem(_names: Sequence[str]) -> str:
    """Returns "": JSON holds any name."""
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns the picture's entry: its `image` and `annotations`, without ids."""
    annotations = [
        {
            "category_id": component.label,
            "segmentation": _segmentation(component, picture, task.polygons),
            "area": component.area,
            "bbox": component.box,
            "iscrowd": 0,
        }
        | picture.score(component.label)
        for component in components(picture.mask, len(task.names))
    ]
    image = {"file_name": picture.file_name, "width": picture.width, "height": picture.height}
    return frame_file(picture), {"image": image, "annotations": annotations}


def of_all(entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns `annotations.json`; ids of images and annotations count from 1."""

    def annotations() -> Iterator[dict[str, Any]]:
        number = 0
        for image_id, entry in enumerate(entries(), start=1):
            for annotation in entry["annotations"]:
                number += 1
                yield {"id": number, "image_id": image_id} | annotation

    content = {
        "info": {"description": f"masks of {task.model}"},
        "categories": categories(task.names),
        "images": images(entries),
        "annotations": annotations(),
    }
    return {FILE: object_text(content)}


def categories(names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns COCO's entry of each class."""
    return [
        {"id": label, "name": name, "supercategory": ""}
        for label, name in enumerate(names, start=1)
    ]


def images(entries: Callable[[], Iterator[Any]]) -> Iterator[dict[str, Any]]:
    """Yields COCO's entry of each image."""
    for image_id, entry in enumerate(entries(), start=1):
        yield {"id": image_id} | entry["image"]


def _segmentation(component: Component, picture: Picture, as_polygons: bool) -> Any:
    if not as_polygons:
        counts = column_runs(component, picture.height, picture.width)
        return {"size": [picture.height, picture.width], "counts": packed_runs(counts)}
    place = np.array([component.left, component.top])
    return [(corners + place).ravel().tolist() for corners in polygons(component.inside)]
