"""COCO panoptic: `panoptic/` and `annotations.json`, for detectron2, Mask2Former and others.

A picture's PNG holds the id of a segment at each pixel, red + 256 green + 65536 blue. Segments are
connected components, and the background, which has a category of its own after the classes.
Uncertain pixels are void, 0. See cocodataset.org, "Data format".
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from toco_jax.inference.formats.coco import FILE, categories, images
from toco_jax.inference.formats.components import components
from toco_jax.inference.formats.pictures import Picture, Task, frame_file, png
from toco_jax.runtime.json_text import object_text

_BACKGROUND = "background"


def problem(_names: Sequence[str]) -> str:
    """Returns "": JSON holds any name."""
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns the PNG of the segments, and the picture's `image` and `segments`."""
    ids = np.zeros(picture.mask.shape, np.uint32)
    segments: list[dict[str, Any]] = []

    def add(category: int, box: list[int], inside: np.ndarray) -> None:
        left, top, width, height = box
        segment = len(segments) + 1
        ids[top : top + height, left : left + width][inside] = segment
        about = {"id": segment, "category_id": category, "area": int(inside.sum())}
        segments.append(about | {"bbox": box, "iscrowd": 0})

    is_background = picture.mask == 0
    if is_background.any():
        rows, columns = (np.flatnonzero(is_background.any(axis=axis)) for axis in (1, 0))
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
        inside = is_background[top : top + box[3], left : left + box[2]]
        add(len(task.names) + 1, box, inside)
    for part in components(picture.mask, len(task.names)):
        add(part.label, part.box, part.inside)
    colours = np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1)  # [H, W, 3]
    files = {f"panoptic/{picture.name}.png": png(colours.astype(np.uint8))}
    image = {"file_name": picture.file_name, "width": picture.width, "height": picture.height}
    entry = {"image": image, "file_name": f"{picture.name}.png", "segments": segments}
    return files | frame_file(picture), entry


def of_all(entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns `annotations.json`; ids of images count from 1."""

    def annotations() -> Iterator[dict[str, Any]]:
        for image_id, entry in enumerate(entries(), start=1):
            about = {"image_id": image_id, "file_name": entry["file_name"]}
            yield about | {"segments_info": entry["segments"]}

    things = [category | {"isthing": 1} for category in categories(task.names)]
    background = {"id": len(things) + 1, "name": _BACKGROUND, "supercategory": "", "isthing": 0}
    content = {
        "info": {"description": f"masks of {task.model}"},
        "categories": [*things, background],
        "images": images(entries),
        "annotations": annotations(),
    }
    return {FILE: object_text(content)}
