"""Draws a line plot with axes, numbers and a legend."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 16, 56
_TEXT, _LINE = 14, 20
_INK, _FAINT = (20, 20, 20), (222, 222, 222)
# Colour, width of the line, half the size of its marks: a line that covers the first shows both.
_LINES = (((31, 92, 180), 4, 6), ((214, 84, 16), 2, 4))
_MOST_TICKS = 16
# Drawn this much larger and reduced, so that lines are smooth.
_SCALE = 3


def line_plot(
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    ticks: Sequence[str],
    x_label: str,
    y_label: str,
) -> Image.Image:
    """Draws up to two lines, the first with discs, the second with squares.

    Args:
        series: name and values in [-1, 1] of each line. A line ends where its values do; they
            belong to the ticks from the first on.
        ticks: what the places of the x axis are called.
        x_label: what the x axis shows.
        y_label: what the y axis shows. It begins at 0, or lower where values do, and ends at 1.
    """
    legend = _LINE * len(series)
    canvas = _Canvas(_WIDTH, _HEIGHT + legend)
    top, bottom = _TOP + legend, _HEIGHT + legend - _BOTTOM
    lowest = min([0.0, *(value for _, values in series for value in values)])
    first = -math.ceil(-lowest * 5 - 1e-6)  # in fifths

    def x_of(place: int) -> float:
        return _LEFT + (place + 0.5) * (_WIDTH - _LEFT - _RIGHT) / len(ticks)

    def y_of(value: float) -> float:
        return bottom - (value - first / 5) / (1 - first / 5) * (bottom - top)

    for fifth in range(first, 6):
        y = y_of(fifth / 5)
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _INK if fifth == first else _FAINT)
        canvas.text((_LEFT - 8, y), f"{fifth / 5:.1f}", "rm")
    canvas.line([(_LEFT, top), (_LEFT, bottom)], _INK)
    every, last = -(-len(ticks) // _MOST_TICKS), len(ticks) - 1
    for place, name in enumerate(ticks):
        is_shown = place % every == 0 and last - place >= every
        canvas.line([(x_of(place), bottom), (x_of(place), bottom + 4)], _INK)
        if is_shown or place == last:
            canvas.text((x_of(place), bottom + 8), name, "ma")
    canvas.text(((_LEFT + _WIDTH - _RIGHT) / 2, bottom + _BOTTOM - 8), x_label, "md")
    canvas.sideways_text((18, (top + bottom) / 2), y_label)
    for k, (name, values) in enumerate(series):
        colour, width, radius = _LINES[k]
        points = [(x_of(i), y_of(value)) for i, value in enumerate(values)]
        y = _TOP + _LINE * (k + 0.5) - 4
        for line in (points, [(_LEFT, y), (_LEFT + 36, y)]):
            canvas.line(line, colour, width)
        for point in (*points, (_LEFT + 18, y)):
            canvas.mark(point, colour, radius, is_disc=k == 0)
        canvas.text((_LEFT + 46, y), canvas.shortened(name, _WIDTH - _RIGHT - _LEFT - 46), "lm")
    return canvas.finished()


class _Canvas:
    """A white picture; places and sizes are those of the finished one."""

    def __init__(self, width: int, height: int):
        self._picture = Image.new("RGB", (width * _SCALE, height * _SCALE), "white")
        self._draw = ImageDraw.Draw(self._picture)
        self._font = ImageFont.load_default(_TEXT * _SCALE)

    def line(
        self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: int = 1
    ) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=width * _SCALE, joint="curve")

    def mark(
        self,
        place: tuple[float, float],
        colour: tuple[int, int, int],
        radius: int,
        *,
        is_disc: bool,
    ) -> None:
        x, y = (v * _SCALE for v in place)
        half = radius * _SCALE
        box = (x - half, y - half, x + half, y + half)
        (self._draw.ellipse if is_disc else self._draw.rectangle)(box, fill=colour)

    def text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        """Writes text; `anchor` is Pillow's name for the point of it that comes to `place`."""
        x, y = (v * _SCALE for v in place)
        self._draw.text((x, y), text, font=self._font, fill=_INK, anchor=anchor)

    def sideways_text(self, centre: tuple[float, float], text: str) -> None:
        """Writes text from below to above."""
        left, top, right, bottom = self._font.getbbox(text)
        label = Image.new("RGB", (int(right - left) + 2, int(bottom - top) + 2), "white")
        ImageDraw.Draw(label).text((1 - left, 1 - top), text, font=self._font, fill=_INK)
        label = label.rotate(90, expand=True)
        x, y = (int(v * _SCALE) for v in centre)
        self._picture.paste(label, (x - label.width // 2, y - label.height // 2))

    def shortened(self, text: str, width: float) -> str:
        """Returns text that fits `width`: the end of a longer one, which tells paths apart."""
        text = text.encode("ascii", "backslashreplace").decode()
        shown = text
        while self._font.getlength(shown) > width * _SCALE:
            text = text[1:]
            shown = f"...{text}"
        return shown

    def finished(self) -> Image.Image:
        size = (self._picture.width // _SCALE, self._picture.height // _SCALE)
        return self._picture.resize(size, Image.Resampling.LANCZOS)
