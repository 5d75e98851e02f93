"""Rasterises the regions of COCO's annotations: polygons and run lengths."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.runtime.errors import DataError, shown

_FEWEST_NUMBERS = 6  # of a polygon: three corners
# How far outside a corner may lie, in longest sides of the image. pycocotools walks along every
# edge, and takes the memory for that beforehand.
_REACH = 10
_MOST_BITS = 60  # of a number in a text of run lengths; more than any image has pixels


def region(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels that a `segmentation` covers: bool [H, W].

    Raises:
        ValueError: it is malformed, or made for an image of another size. This is checked before
            pycocotools sees it, which fills pixels from uninitialised memory if run lengths are
            too short and crashes at coordinates that are not finite or very large.
    """
    if isinstance(segmentation, list):
        return _inside_polygons([_corners(polygon, size) for polygon in segmentation], size)
    if not isinstance(segmentation, dict):
        raise ValueError("neither polygons nor run lengths")
    drawn_for = segmentation.get("size")
    if not isinstance(drawn_for, list) or len(drawn_for) != 2:
        raise ValueError(f"size is {shown(drawn_for)}, not [height, width]")
    if tuple(drawn_for) != size:
        raise ValueError(f"drawn for {drawn_for[1]} x {drawn_for[0]} pixels")
    runs = run_lengths(segmentation.get("counts"))
    covered = sum(runs)
    if covered != size[0] * size[1]:
        raise ValueError(f"run lengths cover {covered} of {size[0] * size[1]} pixels")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(size[::-1]).T


def run_lengths(counts: Any) -> list[int]:
    """Reads run lengths from a list or a compressed text.

    They count pixels outside and inside in turn, column by column.
    """
    if isinstance(counts, (str, bytes)):
        counts = _decompressed(counts)
    if not isinstance(counts, list):
        raise ValueError(f"counts are neither a list nor a text but {type(counts).__name__}")
    for count in counts:
        if not isinstance(count, (int, float)) or not 0 <= count < float("inf") or count % 1:
            raise ValueError(f"run length {shown(count)} is negative or no whole number")
    return [int(count) for count in counts]


def _decompressed(text: str | bytes) -> list[int]:
    """Reads COCO's text of run lengths.

    A character holds 5 bits of a number, the lowest first, and a sixth bit that is set if more
    follow. From the fourth number on, each is the difference to the one before the last.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text if isinstance(text, bytes) else text.encode():
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {chr(character)!r} in the text of run lengths")
        number |= (bits & 31) << shift
        shift += 5
        if shift > _MOST_BITS:
            raise ValueError("the text of run lengths has a number of too many characters")
        if bits & 32:
            continue
        if bits & 16:  # negative
            number -= 1 << shift
        counts.append(number + (counts[-2] if len(counts) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("the text of run lengths ends within a number")
    return counts


def _corners(polygon: Any, size: tuple[int, int]) -> list[float]:
    """Checks and returns the coordinates x, y, x, y, ... of a polygon."""
    if not isinstance(polygon, list) or not all(
        isinstance(number, (int, float)) for number in polygon
    ):
        raise ValueError("a polygon is not a list of numbers")
    if len(polygon) % 2:
        raise ValueError("a polygon has an odd number of coordinates")
    for number in polygon:
        if not abs(number) < float("inf"):
            raise ValueError("a polygon has a coordinate that is no finite number")
        if abs(number) > _REACH * max(size):
            raise ValueError("a polygon reaches far outside the image")
    return polygon


def _inside_polygons(polygons: Sequence[list[float]], size: tuple[int, int]) -> np.ndarray:
    # Points and lines cover nothing; pycocotools would take four numbers for a box.
    polygons = [polygon for polygon in polygons if len(polygon) >= _FEWEST_NUMBERS]
    if not polygons:
        return np.zeros(size, bool)
    rle = pycocotools_mask()
    return rle.decode(rle.merge(rle.frPyObjects(polygons, *size))).astype(bool)


@functools.cache
def pycocotools_mask() -> Any:
    """Imports pycocotools' module for masks.

    Raises:
        DataError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise DataError(
            "COCO's masks need pycocotools, which is not installed: pip install 'toco_jax[coco]'"
        ) from error
    return mask
