"""Decodes photos of any format, colour mode and depth to upright uint8 RGB."""

import dataclasses
import io
import os
import pathlib
import struct
from collections.abc import Callable

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from toco_jax.data.image_files import READS_HEIF
from toco_jax.data.picture_files import (
    PhotoError,
    content_of,
    open_picture,
    refuse_many_pixels,
    tiff_size,
)

_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# What decoders raise for damaged files.
DECODER_ERRORS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, RuntimeError)
DECODER_ERRORS += (struct.error,)

_BAND = 2**20  # numbers that are converted at a time, so that a large picture needs no copies


@dataclasses.dataclass(frozen=True)
class Photo:
    """A decoded picture.

    Attributes:
        pixels: uint8 `[H, W, 3]` RGB, upright, transparency on white.
        orientation: EXIF's number for how the stored pixels are turned, 1 (upright) to 8.
        notes: sentences on what was left out or scaled.
    """

    pixels: np.ndarray
    orientation: int = 1
    notes: tuple[str, ...] = ()


def read_photo(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """Reads a picture as uint8 `[H, W, 3]`, upright, and notes on what was done to it.

    Raises:
        PhotoError: the file is missing or cannot be decoded.
    """
    try:
        photo = decode_photo(content_of(pathlib.Path(path)))
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # the latter for a path with a zero byte, too
        raise PhotoError(f"{path} cannot be read as a picture ({error})") from error
    return photo.pixels, list(photo.notes)


def decode_photo(content: bytes) -> Photo:
    """Decodes the content of a picture file. All code reads pictures through this function.

    Raises:
        PhotoError: it cannot be decoded, is cut off, has more pixels than `picture_files` allows,
            or holds numbers that are no brightness.
    """
    try:
        with open_picture(io.BytesIO(content)) as picture:
            return _decode_opened(picture, content)
    except UnidentifiedImageError:
        pixels = None
        if size := tiff_size(content):  # of a depth that Pillow does not know
            refuse_many_pixels(*size)
            pixels = _decode_by_opencv(content, cv2.IMREAD_UNCHANGED)
        if pixels is None:
            # Phones' pictures are of this family, whatever their ending.
            is_heif = content[4:8] == b"ftyp" and not READS_HEIF
            remedy = "HEIC needs pillow-heif: pip install pillow-heif"
            raise PhotoError(remedy if is_heif else "its format is unknown or damaged") from None
        pixels, notes = _to_8_bits(pixels)
        return Photo(as_rgb(pixels), notes=notes)
    except (*DECODER_ERRORS, Image.DecompressionBombError) as error:
        raise PhotoError(str(error)) from error


def _decode_opened(picture: Image.Image, content: bytes) -> Photo:
    frames = getattr(picture, "n_frames", 1)
    # The second picture in a phone's file is a preview or a depth map.
    is_animated = frames > 1 and picture.format != "MPO"
    notes = (f"first of {frames} frames",) if is_animated else ()
    is_jpeg = picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L")
    # Pillow would drop the lower 8 bits, and with them all of a picture of 12 bits.
    is_deep_colour = picture.mode in ("RGB", "RGBA") and ";16" in str(picture.tile)
    if not is_jpeg and picture.format != "TIFF":  # which loses its orientation by loading
        # Reading EXIF loads a PNG, too, and would hide the errors of that.
        picture.load()
    orientation = orientation_of(picture)
    pixels = None
    if is_jpeg:  # the same pixels as Pillow's, a quarter sooner
        pixels = _decode_by_opencv(content, cv2.IMREAD_COLOR)
    elif is_deep_colour:
        pixels = _decode_by_opencv(content, cv2.IMREAD_UNCHANGED)
    if pixels is None:  # only Pillow can, or can tell what is wrong
        pixels, scaled = _pixels_of(picture)
        return Photo(pixels, orientation, notes + scaled)
    pixels, scaled = _to_8_bits(pixels)
    is_upright = picture.format == "TIFF"  # OpenCV turns those, whatever the flags
    pixels = as_rgb(pixels) if is_upright else turned(as_rgb(pixels), orientation)
    return Photo(pixels, orientation, notes + scaled)


def orientation_of(picture: Image.Image) -> int:
    """Returns EXIF's orientation, 1 if there is none or an invalid one. Loading may clear it."""
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODER_ERRORS:  # a damaged note about a sound picture
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _decode_by_opencv(content: bytes, flags: int) -> np.ndarray | None:
    """Decodes stored pixels in RGB order, of any depth and up to four channels; None on failure."""
    try:
        stored = np.frombuffer(content, np.uint8)
        pixels = cv2.imdecode(stored, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None or pixels.ndim == 2:
        return pixels
    channels = pixels.shape[2]
    if channels not in (3, 4):
        return None
    if pixels.dtype in (np.uint8, np.uint16, np.float32):
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGBA)
    return pixels[..., [2, 1, 0, 3][:channels]]  # of depths that OpenCV reads and does not convert


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns stored pixels `[H, W, ...]` upright as EXIF's number 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def as_rgb(image: np.ndarray | Image.Image) -> np.ndarray:
    """Converts a picture to uint8 `[H, W, 3]`.

    Args:
        image: a PIL picture of any mode, which is turned as its EXIF says and put on white; or an
            array `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8, or of uint16 with its
            full range.

    Raises:
        ValueError: an array of another shape or type, or a picture of numbers that are no
            brightness.
    """
    if isinstance(image, Image.Image):
        return _pixels_of(image)[0]
    if image.dtype == np.uint16:
        image = _in_bands(lambda band: np.rint(band / 257), image, image.shape)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"an image must be uint8 or uint16 [H, W], [H, W, 3] or [H, W, 4], not {image.dtype} "
            f"{image.shape}"
        )
    channels = image.shape[2] if image.ndim == 3 else 1
    if channels == 3:
        return image
    if channels == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)  # [H, W, 3]
    if channels == 4:
        return _in_bands(_on_white, image, (*image.shape[:2], 3))
    raise ValueError(f"an image has 1, 3 or 4 channels, not {channels}")


def _in_bands(
    convert: Callable[[np.ndarray], np.ndarray], values: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """Converts `values` [H, W, ...] to uint8 of `shape`, a few rows at a time."""
    out = np.empty(shape, np.uint8)
    rows = max(1, _BAND // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        out[start : start + rows] = convert(values[start : start + rows])
    return out


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Puts pixels [H, W, 4] on white: whole float32 numbers [H, W, 3]."""
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    return np.rint(alpha * colour + (1 - alpha) * 255)


def _pixels_of(picture: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns upright pixels uint8 `[H, W, 3]` of a PIL picture, and notes on their scaling."""
    if orientation_of(picture) != 1:  # which copies the picture, whether it is turned or not
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in _DEEP_MODES:
        pixels, notes = _to_8_bits(np.asarray(picture))
        return as_rgb(pixels), notes
    if picture.mode == "LAB":  # which Pillow converts without heed of what it means
        return cv2.cvtColor(np.asarray(picture), cv2.COLOR_LAB2RGB), ()
    wanted = "RGBA" if picture.has_transparency_data else "RGB"
    picture = picture if picture.mode == wanted else picture.convert(wanted)
    return as_rgb(np.asarray(picture)), ()


def _to_8_bits(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Converts values of any depth to uint8, with a note if their range is not that of the type.

    A file of 16 or 32 bits or of fractions does not say what white is. White is taken to be the
    lowest of 1 (for fractions), 255, 4095 and 65535 that no pixel exceeds.
    """
    if values.dtype == np.uint8:
        return values, ()
    lowest, highest = float(values.min()), float(values.max())
    # A resampled picture overshoots a little. The comparison fails for NaN, too.
    if not -0.01 <= lowest <= highest < 2**16:
        raise PhotoError(
            f"it holds numbers from {lowest:g} to {highest:g}, which are no brightness; save it "
            "with 8 or 16 bits a channel"
        )
    is_fraction = np.issubdtype(values.dtype, np.floating) and highest <= 1.01
    white = 1 if is_fraction else next(2**n - 1 for n in (8, 12, 16) if highest < 2**n)
    scaled = _in_bands(
        lambda band: np.rint(np.clip(band / white, 0, 1) * 255), values, values.shape
    )
    if highest <= 0 or white == 2**16 - 1:
        return scaled, ()
    return scaled, (f"{values.dtype} values up to {highest:g}, of which {white} counts as white",)
