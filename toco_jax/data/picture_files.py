"""Opens picture files that anybody may have made: few formats, and not too many pixels.

A file of some megabytes can hold a picture that fills the memory. All code that opens pictures does
so here. `TOCO_MAX_PIXELS` in the environment raises the limit, for every command alike.
"""

import errno
import functools
import io
import os
import pathlib
import stat
import struct
import warnings

from PIL import Image, TiffImagePlugin

from toco_jax.data.image_files import READS_HEIF
from toco_jax.runtime.errors import UserError, shown

VARIABLE = "TOCO_MAX_PIXELS"
# From here on Pillow, too, warns that the picture may be there to fill the memory.
MAX_PIXELS = 89_478_485

# Bytes that a compressed byte stands for at most: zlib's documentation says so of its own, in LZW a
# code of 12 bits stands for 4096 bytes at most, and in PackBits two bytes for 128.
_DEFLATED_AT_MOST = 1032
_TIFF_AT_MOST = {1: 1, 5: 2731, 8: _DEFLATED_AT_MOST, 32946: _DEFLATED_AT_MOST, 32773: 64}
# Samples of a pixel of each colour type of PNG.
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

# Pillow knows more formats. One of them, EPS, it hands to Ghostscript, which runs what is in it.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA"),
    "HEIF",
)

if READS_HEIF:
    import pillow_heif

    pillow_heif.register_heif_opener()

# Pillow warns, without naming the file, of a camera's notes that are cut off, which are no loss,
# and of pictures that are refused here.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, "PIL")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PhotoError(UserError):
    """A file is missing or no picture; the message names it."""


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def content_of(path: pathlib.Path) -> bytes:
    """Reads a file; raises `OSError` where it cannot be read, is a pipe or is a device.

    Those need not end, and opening a pipe may wait for ever.
    """
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError(errno.EINVAL, "a pipe or a device, no file")
    return path.read_bytes()


def open_picture(file: io.BytesIO | pathlib.Path) -> Image.Image:
    """Opens a picture as `PIL.Image.open` does, without reading its pixels.

    Raises:
        PhotoError: it has more pixels than are read.
        PIL.UnidentifiedImageError: it is of another format than those that are read.
        OSError: the file cannot be read.
    """
    most = _most_pixels()
    if most > MAX_PIXELS and Image.MAX_IMAGE_PIXELS is not None:
        # Pillow's own limit is twice this one.
        Image.MAX_IMAGE_PIXELS = max(most, Image.MAX_IMAGE_PIXELS)
    try:
        picture = Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        # Pillow's message names a limit that is not ours.
        message = f"it has far more pixels than the {most:,} that are read; {_remedy()}"
        raise PhotoError(message) from error
    try:
        refuse_many_pixels(*picture.size)
        size = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else file.stat().st_size
        if picture.format == "PNG":
            content = file.getbuffer() if isinstance(file, io.BytesIO) else None
            _refuse_cut_png(picture, size, content)
        if isinstance(picture, TiffImagePlugin.TiffImageFile):
            _refuse_cut_tiff(picture, size)
    except PhotoError:
        picture.close()
        raise
    return picture


def _refuse_cut_png(picture: Image.Image, size: int, content: memoryview | None) -> None:
    """Raises `PhotoError` for a PNG that cannot hold the pixels, or a chunk, that it announces.

    Pillow takes the memory of all pixels before it notices, and OpenCV that of the chunk.
    """
    bits, compressed = 1, size
    if content is not None:
        at, compressed = 8, 0
        # Behind the last chunk anything may follow.
        while at + 8 <= size and (kind := bytes(content[at + 4 : at + 8])) != b"IEND":
            length = int.from_bytes(content[at : at + 4], "big")
            if length > size - at:
                raise PhotoError(
                    f"a part of it announces {length:,} bytes, more than the file has: it is "
                    "damaged or cut off"
                )
            if kind == b"IHDR" and length >= 10:
                depth, colour = content[at + 16 : at + 18]
                bits = depth * _PNG_SAMPLES.get(colour, 1)
            compressed += length if kind == b"IDAT" else 0
            at += 12 + length
    _refuse_pixels_without_bytes(picture, bits, _DEFLATED_AT_MOST * compressed)


def _refuse_cut_tiff(picture: TiffImagePlugin.TiffImageFile, size: int) -> None:
    """Raises `PhotoError` for a TIFF that cannot hold the pixels that it announces.

    Pillow takes the memory of all pixels before it notices, or leaves those black that are in none
    of the file's strips.
    """
    tags = picture.tag_v2
    rows, strips = tags.get(TiffImagePlugin.ROWSPERSTRIP), tags.get(TiffImagePlugin.STRIPOFFSETS)
    height = tags[TiffImagePlugin.IMAGELENGTH]
    if strips and isinstance(rows, int) and rows * len(strips) < height:
        raise PhotoError(
            f"it announces {height:,} rows and holds {rows * len(strips):,}: it is damaged or cut "
            "off"
        )
    most = _TIFF_AT_MOST.get(tags.get(TiffImagePlugin.COMPRESSION, 1))
    if most is not None:
        _refuse_pixels_without_bytes(picture, 1, most * size)


def _refuse_pixels_without_bytes(picture: Image.Image, bits: int, most: int) -> None:
    """Raises `PhotoError` if pixels of so many bits take more than `most` bytes."""
    if picture.width * picture.height * bits > 8 * most:
        raise PhotoError(
            f"it announces {picture.width} x {picture.height} pixels, for which it has not the "
            "bytes: it is damaged or cut off"
        )


def refuse_many_pixels(width: int, height: int) -> None:
    """Raises `PhotoError` for a picture or a video of more pixels than are read."""
    if width * height > _most_pixels():
        raise PhotoError(
            f"{width} x {height} pixels are more than the {_most_pixels():,} that are read; "
            + _remedy()
        )


def _remedy() -> str:
    return f"scale it down, or set {VARIABLE} in the environment to a larger number"


def _most_pixels() -> int:
    text = os.environ.get(VARIABLE, "")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or len(text) > 15 or int(text) < 1:
        raise PhotoError(f"{VARIABLE}={shown(text)} is not a number of pixels, such as 200000000")
    return int(text)


def tiff_size(content: bytes) -> tuple[int, int] | None:
    """Returns width and height of the first picture of a TIFF file; None for other files."""
    if content[:4] not in (b"II*\0", b"MM\0*"):
        return None
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(content[:8])
        file = io.BytesIO(content)
        file.seek(tags.next)
        tags.load(file)
        return int(tags[TiffImagePlugin.IMAGEWIDTH]), int(tags[TiffImagePlugin.IMAGELENGTH])
    # What Pillow raises, or warns of, where a directory is damaged.
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error, UserWarning):
        return None
