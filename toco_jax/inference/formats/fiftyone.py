"""FiftyOne's `FiftyOneImageSegmentation...` folders: `data/`, `labels/` and `mask_targets.json`.

Masks hold the labels as they are. See "ImageSegmentationDirectory" of FiftyOne's user guide.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toco_jax.inference.formats.pictures import Picture, Task, image_file, png

FILE = "mask_targets.json"


def problem(_names: Sequence[str]) -> str:
    """Returns "": JSON holds any name."""
    return ""


def of_picture(picture: Picture, _task: Task) -> tuple[dict[str, bytes], None]:
    """Returns the image and the mask."""
    ending, content = image_file(picture)
    return {
        f"data/{picture.name}{ending}": content,
        f"labels/{picture.name}.png": png(picture.mask),
    }, None


def of_all(_entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns the names of the masks' values."""
    targets = dict(enumerate(("background", *task.names)))
    return {FILE: iter([json.dumps(targets, indent=1) + "\n"])}
