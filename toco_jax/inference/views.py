"""Draws what training sees of an image: regions over it, frames in it, and its local crops."""

from typing import Any

import cv2
import numpy as np

BOX, POSITIVE, NEGATIVE = (255, 220, 0), (0, 200, 60), (230, 30, 30)
REGIONS = np.array([(40, 80, 255), (128, 128, 128), (255, 40, 40)], np.uint8)
CELL = 260


def tinted(image: np.ndarray, roi_mask: np.ndarray) -> np.ndarray:
    """Draws regions over an image if there is more than one kind of them."""
    if not (roi_mask == 2).any():
        return image
    return cv2.addWeighted(image, 0.6, REGIONS[roi_mask], 0.4, 0)


def framed(image: np.ndarray, boxes: Any, colours: Any, *, numbered: bool = False) -> np.ndarray:
    """Enlarges an image to at least a cell and frames half-open boxes (y0, y1, x0, x1)."""
    scale = max(1, -(-CELL // image.shape[0]))
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    width = max(2, canvas.shape[0] // 150)
    for k, (box, colour) in enumerate(zip(boxes, colours, strict=True)):
        y0, y1, x0, x1 = (int(v) * scale for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1 - 1, y1 - 1), colour, width)
        if numbered:
            height = canvas.shape[0] / 450
            place = (x0 + 3 * width, y0 + 14 * width)
            cv2.putText(canvas, str(k + 1), place, cv2.FONT_HERSHEY_SIMPLEX, height, colour, width)
    return canvas


def tiled(cut: np.ndarray, colours: Any) -> np.ndarray:
    """Tiles crops [n, s, s, 3] to about a square, each with its frame and number."""
    columns = int(np.ceil(np.sqrt(len(cut))))
    side = cut.shape[1]
    whole = [(0, side, 0, side)]
    cells = [
        np.pad(framed(crop, whole, [colour]), ((4, 4), (4, 4), (0, 0)), constant_values=255)
        for crop, colour in zip(cut, colours, strict=True)
    ]
    for k, (cell, colour) in enumerate(zip(cells, colours, strict=True)):
        place = (cell.shape[1] // 16, cell.shape[0] // 6)
        cv2.putText(cell, str(k + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 1, colour, 3)
    blank = np.full_like(cells[0], 255)
    cells += [blank] * (-len(cells) % columns)
    lines = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    return np.concatenate(lines, axis=0)
