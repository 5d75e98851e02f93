"""Pictures of masks and maps: palette colours, overlays, heat maps, labelled grids."""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from toco_jax.data.classes import palette

_MARGIN = 6
_TEXT_SIZE = 13
_INK = (20, 20, 20)


def colorize(label: np.ndarray) -> np.ndarray:
    """Label map `[H, W]` to VOC's colours, uint8 `[H, W, 3]`; they repeat from 256 on."""
    return palette()[np.asarray(label, np.int32) % 256]


def overlay(image: np.ndarray, label: np.ndarray, *, opacity: float = 0.6) -> np.ndarray:
    """Label colours over an image, both `[H, W]`; background shows the image as it is."""
    mixed = (1 - opacity) * image + opacity * colorize(label)
    return np.where(label[..., None] == 0, image, mixed.round().astype(np.uint8))


def heat_map(image: np.ndarray, heat: np.ndarray, *, opacity: float = 0.6) -> np.ndarray:
    """A map in [0, 1] over an image, blue for low and red for high; uint8 `[H, W, 3]`."""
    level = np.clip(heat * 255, 0, 255).round().astype(np.uint8)
    colour = cv2.applyColorMap(level, cv2.COLORMAP_JET)[..., ::-1]
    return ((1 - opacity) * image + opacity * colour).round().astype(np.uint8)


def legend(
    labels: Sequence[int], names: Sequence[str], width: int, *, text_size: int = _TEXT_SIZE
) -> Image.Image:
    """Colour squares with class names, wrapped to `width`."""
    font = ImageFont.load_default(text_size)
    line_height = text_size + _MARGIN
    entries, x, y = [], _MARGIN, _MARGIN
    for label in labels:
        length = int(font.getlength(names[label])) + text_size + 4 * _MARGIN
        if x + length > width and x > _MARGIN:
            x, y = _MARGIN, y + line_height
        entries.append((label, x, y))
        x += length
    canvas = Image.new("RGB", (width, y + line_height + _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for label, x, y in entries:
        colour = tuple(int(v) for v in colorize(label))
        draw.rectangle((x, y, x + text_size, y + text_size), fill=colour, outline=_INK)
        draw.text((x + text_size + _MARGIN, y - 1), names[label], font=font, fill=_INK)
    return canvas


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    columns: Sequence[str],
    captions: Sequence[str],
    labels: Sequence[int],
    names: Sequence[str],
    cell: int = 160,
) -> Image.Image:
    """A table of pictures with headings, a caption under each row, and a legend below.

    Args:
        rows: uint8 images `[H, W, 3]` of any size, scaled to a longer side of `cell`.
        columns: headings, one a column.
        captions: one line of text a row.
        labels: label ids shown in the legend.
        names: name of every label id.
        cell: width of a column in pixels.
    """
    font = ImageFont.load_default(_TEXT_SIZE)
    text_height = _TEXT_SIZE + _MARGIN
    width = _MARGIN + len(columns) * (cell + _MARGIN)
    fitted = [[_fit(picture, cell) for picture in row] for row in rows]
    key = legend(labels, names, width)
    heights = [max(picture.height for picture in row) + text_height for row in fitted]
    height = text_height + sum(heights) + len(rows) * _MARGIN
    canvas = Image.new("RGB", (width, height + key.height), "white")
    draw = ImageDraw.Draw(canvas)
    for j, heading in enumerate(columns):
        draw.text((_MARGIN + j * (cell + _MARGIN), 2), heading, font=font, fill=_INK)
    y = text_height
    for row, row_height, caption in zip(fitted, heights, captions, strict=True):
        for j, picture in enumerate(row):
            canvas.paste(picture, (_MARGIN + j * (cell + _MARGIN), y))
        draw.text((_MARGIN, y + row_height - text_height), caption, font=font, fill=_INK)
        y += row_height + _MARGIN
    canvas.paste(key, (0, height))
    return canvas


def _fit(picture: np.ndarray, longest: int) -> Image.Image:
    """A picture scaled to `longest` pixels on its longer side."""
    scale = longest / max(picture.shape[:2])
    size = tuple(max(round(side * scale), 1) for side in picture.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return Image.fromarray(cv2.resize(picture, size, interpolation=how))
