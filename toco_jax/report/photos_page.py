"""`predictions.html`: photos under their masks; of many photos in several pages of bounded size."""

import base64
import io
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from toco_jax.report import blocks, html
from toco_jax.runtime.journal import Journal
from toco_jax.runtime.outputs import write_atomically

FILE = "predictions.html"
# Longest side of a small picture in pixels, quality of its JPEG.
_SIDE, _QUALITY = 240, 75
# What a page holds at most: photos, and bytes of their pictures.
_MOST_PHOTOS, _MOST_BYTES = 300, 6_000_000
# Sources of pictures: small ones in the page, originals beside it.
_IMAGES = "data: file: 'self'"


class PhotoPages:
    """Collects small pictures on the disk, and writes the pages that show them.

    Args:
        folder: the folder of the results.
        names: names of the foreground classes.
        about: a line on what made the masks.
    """

    def __init__(self, folder: pathlib.Path, names: Sequence[str], about: str):
        self._folder, self._about = folder, about
        self._labels = list(enumerate(("background", *names)))
        self._entries = Journal(folder)
        self._sizes: dict[int, int] = {}

    def add(self, number: int, image: np.ndarray, mask: np.ndarray, entry: dict[str, Any]) -> None:
        """Adds a photo.

        Args:
            number: its position among all photos.
            image: uint8 `[H, W, 3]`.
            mask: labels `[H, W]`.
            entry: its entry of predictions.json.
        """
        is_frame = any(note.startswith("frame ") for note in entry["notes"])
        kept: dict[str, Any] = {
            "name": pathlib.PurePath(entry["file"]).name,
            "note": ", ".join([*entry["notes"][:1][: int(is_frame)], *entry["predicted"]]),
            "thumb": _jpeg(_small(image, cv2.INTER_AREA)),
            "mask": _png(_small(mask.astype(np.uint16), cv2.INTER_NEAREST)),
            "labels": [int(label) for label in np.unique(mask)],
            "original": None if is_frame else self._link(pathlib.Path(entry["file"])),
            "overlay": self._link(self._folder / entry["overlay"]),
            "file": self._link(self._folder / entry["mask"]),
        }
        self._entries.add(number, kept)
        self._sizes[number] = len(kept["thumb"]) + len(kept["mask"])

    def _link(self, path: pathlib.Path) -> str:
        """Returns the address of a file as seen from the page."""
        relative = os.path.relpath(path.absolute(), self._folder.absolute())
        return urllib.parse.quote(os.fsencode(relative))

    def write(self) -> pathlib.Path:
        """Writes the pages and returns the path of the first one.

        Raises:
            OSError: a file cannot be written.
        """
        counts = self._counts()
        names = [FILE, *(f"predictions-{k}.html" for k in range(2, len(counts) + 1))]
        entries = iter(self._entries)
        for at, count in enumerate(counts):
            photos = [next(entries) for _ in range(count)]
            pages = [
                {"label": str(k), "href": None if k == at + 1 else name}
                for k, name in enumerate(names, 1)
            ]
            write_atomically(self._folder / names[at], self._page(photos, pages))
        return self._folder / FILE

    def _counts(self) -> list[int]:
        """Returns how many photos each page shows."""
        counts, filled = [0], 0
        for number in sorted(self._sizes):
            size = self._sizes[number]
            if counts[-1] and (counts[-1] == _MOST_PHOTOS or filled + size > _MOST_BYTES):
                counts.append(0)
                filled = 0
            counts[-1] += 1
            filled += size
        return counts

    def _page(self, photos: list[dict[str, Any]], pages: list[dict[str, Any]]) -> str:
        present = sorted({label for photo in photos for label in photo.pop("labels")})
        block = {
            "type": "photos",
            "labels": [[name, blocks.colour(label)] for label, name in self._labels],
            "present": present,
            "photos": photos,
            "pages": pages,
        }
        data = {
            "title": f"{len(self._sizes)} pictures segmented",
            "about": self._about,
            "remarks": [],
            "sections": [blocks.section("Photos and masks", block)],
        }
        return html.page("Predictions: ToCo", data, images=_IMAGES)


def _small(picture: np.ndarray, how: int) -> np.ndarray:
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    size = tuple(max(round(side * scale), 1) for side in picture.shape[1::-1])
    return cv2.resize(picture, size, interpolation=how)


def _jpeg(pixels: np.ndarray) -> str:
    return _text(Image.fromarray(pixels), "JPEG", quality=_QUALITY)


def _png(labels: np.ndarray) -> str:
    """Returns labels as a picture whose red is the low byte of a label and whose green the high."""
    low, high = labels & 255, labels >> 8
    return _text(Image.fromarray(np.dstack([low, high, 0 * low]).astype(np.uint8)), "PNG")


def _text(picture: Image.Image, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return base64.b64encode(content.getvalue()).decode()
