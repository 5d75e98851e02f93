"""`Picture`: a segmented picture, as the formats of masks take it; and the file that shows it."""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import ExifTags, Image

from toco_jax.data.photos import DECODER_ERRORS
from toco_jax.data.picture_files import content_of, open_picture

_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A segmented picture.

    Attributes:
        name: its name among all pictures, without an ending; folders are separated by `/`.
        file_name: how other tools call it: the path of its file within the folder of pictures.
        path: its file; None for a frame of a video.
        mask: labels uint8 `[H, W]`, 0 for background; values above the number of classes are
            uncertain.
        read: returns its pixels, uint8 `[H, W, 3]`, upright.
        scores: the classifier's probability of each class, float `[C]`; None if it is not known.
    """

    name: str
    file_name: str
    path: pathlib.Path | None
    mask: np.ndarray
    read: Callable[[], np.ndarray]
    scores: np.ndarray | None = None

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.mask.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.mask.shape[1])

    def score(self, label: int) -> dict[str, float]:
        """Returns `{"score": probability}` of a label, empty if it is not known."""
        return {} if self.scores is None else {"score": round(float(self.scores[label - 1]), 4)}


@dataclasses.dataclass(frozen=True)
class Task:
    """What all pictures of one call share.

    Attributes:
        names: names of the foreground classes; label k is `names[k - 1]`.
        split: name of the data set's split.
        polygons: whether formats that know both describe shapes by polygons, not by runs of pixels.
        folder: where the files are going to be.
        model: what made the masks.
    """

    names: Sequence[str]
    split: str = "train"
    polygons: bool = False
    folder: pathlib.Path = pathlib.Path()
    model: str = "toco_jax"


def image_file(picture: Picture) -> tuple[str, bytes]:
    """Returns the ending and the content of a file that any tool shows like the mask."""
    return own_file(picture) or (".png", png(picture.read()))


def own_file(picture: Picture) -> tuple[str, bytes] | None:
    """Returns the ending and the content of the picture's own file.

    None if it has none any more, or if tools read it in different ways: turned by a note of the
    camera, transparent, deeper than 8 bits, or of a rare format.
    """
    if picture.path is None:
        return None
    try:
        content = content_of(picture.path)
    except OSError:
        return None
    ending = _plain_ending(content, (picture.width, picture.height))
    return (ending, content) if ending else None


def frame_file(picture: Picture) -> dict[str, bytes]:
    """Returns the image of a video's frame, which is in no file yet; nothing for other pictures."""
    if picture.path is not None:
        return {}
    return {f"images/{picture.name}.png": png(picture.read())}


def png(pixels: np.ndarray) -> bytes:
    """Returns uint8 `[H, W]` or RGB `[H, W, 3]` as the content of a PNG without a palette."""
    stored = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", stored)[1].tobytes()


def _plain_ending(content: bytes, size: tuple[int, int]) -> str:
    """Returns the ending of a picture's file that all tools read alike; "" for other files."""
    try:
        with open_picture(io.BytesIO(content)) as picture:
            is_plain = (
                picture.format in _ENDINGS
                and picture.mode in ("RGB", "L")
                and ";16" not in str(picture.tile)
                and not picture.has_transparency_data
                and (picture.format != "PNG" or getattr(picture, "n_frames", 1) == 1)
                and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
                and picture.size == size
            )
            return _ENDINGS[str(picture.format)] if is_plain else ""
    except (*DECODER_ERRORS, Image.DecompressionBombError):
        return ""
