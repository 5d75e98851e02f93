"""Ultralytics' semantic data sets: `images/`, `masks/` and `data.yaml`, ready for its trainer.

Masks hold the labels as they are, with 255 for pixels that training ignores. See "Semantic
Segmentation Datasets" of its documentation.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toco_jax.inference.formats.pictures import Picture, Task, image_file, png

FILE = "data.yaml"


def problem(_names: Sequence[str]) -> str:
    """Returns "": quoted YAML holds any name."""
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], None]:
    """Returns the image and the mask."""
    ending, content = image_file(picture)
    # Of a mask's path, Ultralytics takes the last `images` for the one to replace by `masks`.
    name = re.sub(r"(?<![^/])(images~*)(?=/)", r"\1~", picture.name)
    return {
        f"images/{task.split}/{name}{ending}": content,
        f"masks/{task.split}/{name}.png": png(picture.mask),
    }, None


def of_all(_entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns `data.yaml`, whose paths are relative to its folder."""

    def lines() -> Iterator[str]:
        folder = json.dumps(f"images/{task.split}", ensure_ascii=False)
        yield f"train: {folder}\n"
        yield "# These masks are no truth: give a folder of images that have true masks instead.\n"
        yield f"val: {folder}\n"
        yield "masks_dir: masks\nnames:\n"
        for label, name in enumerate(("background", *task.names)):
            yield f"  {label}: {json.dumps(name, ensure_ascii=False)}\n"

    return {FILE: lines()}
