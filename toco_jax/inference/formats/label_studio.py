"""Label Studio: `predictions.json`, to be imported as tasks and corrected; and `config.xml`.

A region is all pixels of a class, as runs that its brush draws, or a polygon. Tasks take pictures
from Label Studio's local storage, whose document root is the folder of the pictures. The runs are a
stream of bits, see `brush.py` of the converter in label-studio-sdk.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from toco_jax.data.classes import palette
from toco_jax.inference.formats.components import components
from toco_jax.inference.formats.outlines import polygons
from toco_jax.inference.formats.pictures import Picture, Task, frame_file
from toco_jax.runtime.json_text import list_text

FILE = "predictions.json"
# The names of the controls in `config.xml`.
_LABELS, _IMAGE = "label", "image"
_STORAGE = "/data/local-files/?d="
# Bits of the lengths of runs.
_SIZES = (3, 4, 8, 16)
_CHANNELS = 4


def problem(_names: Sequence[str]) -> str:
    """Returns "": JSON and XML hold any name."""
    return ""


def of_picture(picture: Picture, task: Task) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns the picture's task with its prediction."""
    regions = _polygon_regions if task.polygons else _brush_regions
    about = {
        "from_name": _LABELS,
        "to_name": _IMAGE,
        "original_width": picture.width,
        "original_height": picture.height,
        "image_rotation": 0,
    }
    found = [
        {"id": f"region{number}"} | about | region
        for number, region in enumerate(regions(picture, task))
    ]
    image = _STORAGE + quote(picture.file_name, errors="surrogateescape")
    prediction = {"model_version": task.model, "result": found}
    return frame_file(picture), {"data": {_IMAGE: image}, "predictions": [prediction]}


def of_all(entries: Callable[[], Iterator[Any]], task: Task) -> dict[str, Iterator[str]]:
    """Returns the tasks, and the project's labelling interface."""
    return {FILE: list_text(entries()), "config.xml": iter([_config(task)])}


def packed_mask(inside: np.ndarray) -> list[int]:
    """Returns the bytes of Label Studio's runs of the pixels in a mask, bool `[H, W]`.

    Each pixel has four channels of one value, 0 or 255.
    """
    flat = inside.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = _CHANNELS * np.diff(starts, append=flat.size)
    bits = [f"{_CHANNELS * flat.size:032b}", f"{8 - 1:05b}", *(f"{n - 1:04b}" for n in _SIZES)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if flat[start] else "00000000"
        for whole in range(0, length, 1 << _SIZES[-1]):
            part = min(length - whole, 1 << _SIZES[-1])
            k = next(k for k, size in enumerate(_SIZES) if part <= 1 << size)
            bits.append(f"1{k:02b}{part - 1:0{_SIZES[k]}b}{value}")
    text = "".join(bits)
    number = -(-len(text) // 8)
    return list(int(text.ljust(8 * number, "0"), 2).to_bytes(number))


def _brush_regions(picture: Picture, task: Task) -> Iterator[dict[str, Any]]:
    for label in np.unique(picture.mask).tolist():
        if 1 <= label <= len(task.names):
            runs = packed_mask(picture.mask == label)
            names = [task.names[label - 1]]
            value = {"format": "rle", "rle": runs, "brushlabels": names}
            yield {"type": "brushlabels", "value": value} | picture.score(label)


def _polygon_regions(picture: Picture, task: Task) -> Iterator[dict[str, Any]]:
    percent = np.array([100 / picture.width, 100 / picture.height])
    for part in components(picture.mask, len(task.names)):
        for corners in polygons(part.inside):
            points = (corners + np.array([part.left, part.top])) * percent
            names = [task.names[part.label - 1]]
            value = {"points": points.tolist(), "polygonlabels": names, "closed": True}
            yield {"type": "polygonlabels", "value": value} | picture.score(part.label)


def _config(task: Task) -> str:
    kind = "PolygonLabels" if task.polygons else "BrushLabels"
    lines = [f'  <Image name="{_IMAGE}" value="${_IMAGE}"/>']
    lines += [f'  <{kind} name="{_LABELS}" toName="{_IMAGE}">']
    for name, colour in zip(task.names, palette()[1:], strict=False):
        background = "".join(f"{value:02x}" for value in colour.tolist())
        lines += [f'    <Label value={quoteattr(name)} background="#{background}"/>']
    return "\n".join(["<View>", *lines, f"  </{kind}>", "</View>", ""])
