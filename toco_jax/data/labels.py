"""Reads an image and its mask from files; errors name the file.

Every reader raises `DataError` where a file is missing or is not what it has to be.
"""

import dataclasses
import io
import pathlib

import cv2
import numpy as np
import PIL.Image

from toco_jax.data import DataError
from toco_jax.data.classes import palette

# Masks are drawn on the stored pixels, so a camera's "rotate me" note has to be left unread.
_DECODE = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


@dataclasses.dataclass(frozen=True)
class MaskFormat:
    """How the masks of a folder store their labels.

    Attributes:
        channels: "index" (a palette or one channel of indices), "grey" (RGB or RGBA, three equal
            channels of indices) or "palette" (RGB or RGBA in VOC's label colours).
        table: label of each stored index, uint8 [256], None where they are the labels themselves.
            An index that stands for no label maps to 254.
    """

    channels: str = "index"
    table: np.ndarray | None = None


INDICES = MaskFormat()


def read_image(path: pathlib.Path) -> np.ndarray:
    """Decodes a picture of any colour mode and depth to uint8 [H, W, 3] RGB, in 0..255."""
    return decode_image(read_bytes(path, "image"), path)


def decode_image(content: bytes, path: pathlib.PurePath) -> np.ndarray:
    """`read_image` of a file's content; `path` is for the message."""
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), _DECODE) if content else None
    except cv2.error:
        bgr = None
    if bgr is None:
        raise DataError(
            f"image {path} ({len(content)} bytes) cannot be decoded; replace the file "
            f"or take {path.stem!r} out of the split"
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_mask(
    path: pathlib.Path, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """Reads label indices: uint8 [H, W] in 0..num_classes, or 255 (ignored).

    Unless `mask_format` says otherwise the file is a palette PNG, as in PASCAL VOC, or a
    single-channel 8-bit picture that holds the indices themselves; a mask stored in colour is an
    error.
    """
    return decode_mask(read_bytes(path, "mask"), path, num_classes, mask_format)


def decode_mask(
    content: bytes,
    path: pathlib.PurePath,
    num_classes: int,
    mask_format: MaskFormat = INDICES,
) -> np.ndarray:
    """`read_mask` of a file's content; `path` is for the message."""
    mode, mask = mask_pixels(content, path)
    if mask_format.channels != "index":
        mask = _indices_of_colours(mask, path, grey=mask_format.channels == "grey")
    elif mode not in ("P", "L"):
        raise DataError(
            f"mask {path} is stored as {mode}, not as palette indices; save it as an 8-bit palette "
            f"PNG whose values are 0..{num_classes} and 255"
        )
    stored = mask
    if mask_format.table is not None:
        mask = mask_format.table[mask]
    foreign = stored[(mask > num_classes) & (mask != 255)]
    if foreign.size:
        raise DataError(
            f"mask {path} holds the value {foreign[0]}, but labels are 0..{num_classes} and 255; "
            "check that the file is a mask of this data set"
        )
    return mask


def mask_pixels(content: bytes, path: pathlib.PurePath) -> tuple[str, np.ndarray]:
    """Pillow's mode and the stored values of a mask's content, [H, W] or [H, W, channels]."""
    try:
        with PIL.Image.open(io.BytesIO(content)) as picture:
            return picture.mode, np.array(picture)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise DataError(
            f"mask {path} ({len(content)} bytes) cannot be decoded; replace the file"
        ) from error


def _indices_of_colours(mask: np.ndarray, path: pathlib.PurePath, *, grey: bool) -> np.ndarray:
    """Indices [H, W] of pixels [H, W, 3 or 4] that are grey or have VOC's colours."""
    if mask.ndim != 3 or mask.shape[2] not in (3, 4):
        raise DataError(
            f"mask {path} is not stored in colour as the other masks of its folder are; save all "
            "of them alike"
        )
    if grey:
        index = mask[..., 0]
        colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    else:
        colours = palette()
        index = np.zeros(mask.shape[:2], np.uint8)
        for bit in range(8):  # a label's bits are spread over the channels' top bits
            index |= ((mask[..., bit % 3] >> (7 - bit // 3)) & 1) << bit
    strange = (colours[index] != mask[..., :3]).any(axis=2)
    if strange.any():
        colour = tuple(int(v) for v in mask[strange][0])
        raise DataError(
            f"mask {path} has the colour {colour}, which is no {'grey' if grey else 'label'} "
            "colour; save label indices in an 8-bit palette PNG"
        )
    return np.ascontiguousarray(index)


def write_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    """Saves labels uint8 [H, W] as a palette PNG in VOC's colours; a whole file or none."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(encode_mask(mask))
    temporary.replace(path)


def encode_mask(mask: np.ndarray) -> bytes:
    """Labels uint8 [H, W] as the content of a palette PNG."""
    picture = PIL.Image.frombytes("P", mask.shape[::-1], np.ascontiguousarray(mask).tobytes())
    picture.putpalette(palette().tobytes())
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def read_bytes(path: pathlib.Path, what: str) -> bytes:
    """A file's content; `what` it is goes into the message."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{what} {path} is missing; add the file or take {path.stem!r} out of the split"
        ) from None
    except OSError as error:
        raise DataError(
            f"{what} {path} cannot be read ({error.strerror}); check what is at that path"
        ) from error
