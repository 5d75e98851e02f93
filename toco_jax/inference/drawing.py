"""Draws masks and maps: palette colours, overlays, heat maps, legends, grids of pictures."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from toco_jax.data.classes import palette

_MARGIN = 6
_TEXT_SIZE = 13
_INK = (20, 20, 20)
_OPACITY = 0.6  # share of the colours that are drawn over an image


def colorize(label: np.ndarray) -> np.ndarray:
    """Colours a label map `[H, W]` as VOC does, uint8 `[H, W, 3]`; colours repeat after 256."""
    return palette()[np.asarray(label, np.int32) % 256]


def overlay(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Blends the colours of labels `[H, W]` into an image, both uint8 `[H, W, 3]`.

    Background pixels keep the image's colour.
    """
    mixed = (1 - _OPACITY) * image + _OPACITY * colorize(label)
    return np.where(label[..., None] == 0, image, mixed.round().astype(np.uint8))


def heat_map(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blends a heat map `[H, W]`, blue for 0 and red for 1, into an image uint8 `[H, W, 3]`."""
    level = np.clip(heat * 255, 0, 255).round().astype(np.uint8)
    colour = cv2.applyColorMap(level, cv2.COLORMAP_JET)[..., ::-1]
    return ((1 - _OPACITY) * image + _OPACITY * colour).round().astype(np.uint8)


def legend(
    labels: Sequence[int],
    names: Mapping[int, str] | Sequence[str],
    width: int,
    *,
    text_size: int = _TEXT_SIZE,
) -> Image.Image:
    """Draws a coloured square and the class name for each label, in lines of `width` pixels."""
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
        red, green, blue = (int(v) for v in colorize(np.array(label)))
        draw.rectangle((x, y, x + text_size, y + text_size), fill=(red, green, blue), outline=_INK)
        draw.text((x + text_size + _MARGIN, y - 1), names[label], font=font, fill=_INK)
    return canvas


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    columns: Sequence[str],
    captions: Sequence[str],
    labels: Sequence[int],
    names: Mapping[int, str] | Sequence[str],
    cell: int = 160,
) -> Image.Image:
    """Draws a table of pictures with column headings, a caption under each row, and a legend.

    Args:
        rows: uint8 images `[H, W, 3]` of any size, scaled to a longer side of `cell` pixels.
        columns: the heading of each column.
        captions: one line of text for each row.
        labels: ids of the labels that the legend shows.
        names: name of every label, by id.
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
    """Scales a picture so that its longer side is `longest` pixels."""
    scale = longest / max(picture.shape[:2])
    size = tuple(max(round(side * scale), 1) for side in picture.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return Image.fromarray(cv2.resize(picture, size, interpolation=how))
