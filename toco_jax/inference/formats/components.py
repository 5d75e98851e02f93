"""Connected components of a mask, and COCO's runs of their pixels."""

import dataclasses
from collections.abc import Iterator

import cv2
import numpy as np


@dataclasses.dataclass(frozen=True)
class Component:
    """Pixels of one label that touch each other, corners included.

    Attributes:
        label: the label.
        left: leftmost column of the component's box.
        top: topmost row of the box.
        inside: the component's pixels within the box, bool `[h, w]`.
        area: number of pixels.
    """

    label: int
    left: int
    top: int
    inside: np.ndarray
    area: int

    @property
    def box(self) -> list[int]:
        """The box as `[left, top, width, height]`."""
        height, width = self.inside.shape
        return [self.left, self.top, width, height]


def components(mask: np.ndarray, num_classes: int) -> Iterator[Component]:
    """Yields the components of the labels 1..num_classes of a mask uint8 `[H, W]`."""
    for label in np.unique(mask).tolist():
        if not 1 <= label <= num_classes:
            continue
        number, numbered, stats, _ = cv2.connectedComponentsWithStats(
            (mask == label).astype(np.uint8), connectivity=8
        )
        for k in range(1, number):
            left, top, width, height, area = (int(value) for value in stats[k])
            inside = numbered[top : top + height, left : left + width] == k
            yield Component(label, left, top, inside, area)


def column_runs(component: Component, height: int, width: int) -> np.ndarray:
    """Returns the lengths of runs of pixels, down the columns of the whole picture.

    Runs of other pixels and of the component's pixels alternate. The first run is of other pixels
    and may be empty.

    Args:
        component: the component.
        height: height of the picture.
        width: width of the picture.

    Returns:
        int64 `[n]`; their sum is `height * width`.
    """
    rows = component.inside.shape[0] + 2
    columns = np.pad(component.inside.T, ((0, 0), (1, 1)))  # [w, h + 2]
    changes = np.flatnonzero(np.diff(columns.ravel().view(np.int8)))
    column, row = np.divmod(changes, rows)
    places = (component.left + column) * height + component.top + row
    # A run that reaches the bottom goes on at the top of the next column.
    joined = np.flatnonzero(places[1:-1:2] == places[2::2])
    places = np.delete(places, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(np.concatenate([[0], places, [height * width]]))
    return counts if counts[-1] else counts[:-1]


def packed_runs(counts: np.ndarray) -> str:
    """Returns runs as COCO's text: differences in groups of 5 bits, one character a group.

    See `rleToString` of the COCO API.
    """
    values = counts.copy()
    values[3:] -= counts[1:-2]
    text = bytearray()
    for value in values.tolist():
        rest, more = value, True
        while more:
            group, rest = rest & 31, rest >> 5
            # The last group's highest bit is the sign.
            more = rest != (-1 if group & 16 else 0)
            text.append(48 + group + 32 * more)
    return text.decode()
