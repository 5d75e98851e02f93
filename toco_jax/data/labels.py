"""Reads images and masks from files.

Every reader raises a `DataError` that names the file if it is missing or cannot be used.
"""

import dataclasses
import functools
import io
import pathlib
import re

import numpy as np
import PIL.Image

from toco_jax.data.classes import palette
from toco_jax.data.photos import (
    DECODER_ERRORS,
    Photo,
    PhotoError,
    decode_photo,
    orientation_of,
    turned,
)
from toco_jax.data.picture_files import content_of, open_picture
from toco_jax.runtime.errors import DataError

_VOC_COLOURS = palette()


@dataclasses.dataclass(frozen=True)
class MaskFormat:
    """How the masks of a folder store their labels.

    Attributes:
        channels: "index" (a palette or one channel of indices), "grey" (RGB or RGBA, three equal
            channels of indices) or "palette" (RGB or RGBA in VOC's label colours).
        table: label of each stored index, uint8 [256]; None if indices are labels. An index that
            stands for no label maps to 254.
        any_palette: whether indices count even if the palette has VOC's colours of other labels.
    """

    channels: str = "index"
    table: np.ndarray | None = None
    any_palette: bool = False


INDICES = MaskFormat()


@dataclasses.dataclass(frozen=True)
class StoredMask:
    """The content of a mask file.

    Attributes:
        mode: Pillow's mode.
        values: [H, W] or [H, W, channels]; uint8 in the modes P, L and 1.
        colours: colours of the values in mode P, uint8 [256, 3].
    """

    mode: str
    values: np.ndarray
    colours: np.ndarray | None = None

    @functools.cached_property
    def used(self) -> np.ndarray:
        """The values that occur; for masks whose values are uint8 [H, W]."""
        return np.flatnonzero(np.bincount(self.values.ravel(), minlength=256))

    def has_voc_palette(self) -> bool:
        """Whether the values that occur have VOC's colours, or there is no palette."""
        if self.mode != "P" or self.colours is None:
            return True
        return np.array_equal(self.colours[self.used], _VOC_COLOURS[self.used])

    def is_reordered(self, num_classes: int) -> bool:
        """Whether the palette gives the values that occur VOC's colours of other labels.

        Programs that sort a palette by use leave such masks. A palette with other colours, or with
        one colour for two values, is somebody's own and does not count.
        """
        if self.colours is None or self.has_voc_palette():
            return False
        colours = self.colours[self.used]
        labels = _label_of_colour(colours)
        are_labels = ((labels <= num_classes) | (labels == 255)).all()
        is_one_to_one = len(np.unique(labels)) == len(labels)
        return bool(are_labels and is_one_to_one and (_VOC_COLOURS[labels] == colours).all())


def load_photo(path: pathlib.Path) -> Photo:
    """Reads a picture of any format, colour mode and depth, see `photos.decode_photo`."""
    return decode_image(read_bytes(path, "image"), path)


def read_image(path: pathlib.Path) -> np.ndarray:
    """Reads the pixels of a picture: uint8 [H, W, 3] RGB, upright."""
    return load_photo(path).pixels


def decode_image(content: bytes, path: pathlib.PurePath) -> Photo:
    """Decodes the content of a picture file; `path` is for the message."""
    try:
        return decode_photo(content)
    except PhotoError as error:
        raise DataError(
            f"image {path} ({len(content)} bytes) cannot be decoded; replace the file "
            f"or take {path.stem!r} out of the split ({error})"
        ) from error


def read_mask(
    path: pathlib.Path, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """Reads the labels of a mask: uint8 [H, W] in 0..num_classes, or 255 (ignored).

    Unless `mask_format` says otherwise, the file is a palette PNG, as in PASCAL VOC, or a
    single-channel 8-bit picture of indices. A mask stored in colour is an error.
    """
    return decode_mask(read_bytes(path, "mask"), path, num_classes, mask_format)


def decode_mask(
    content: bytes,
    path: pathlib.PurePath,
    num_classes: int,
    mask_format: MaskFormat = INDICES,
) -> np.ndarray:
    """Decodes the content of a mask file like `read_mask`; `path` is for the message."""
    return labels_in(stored_mask(content, path), path, num_classes, mask_format)


def labels_in(
    stored: StoredMask, path: pathlib.PurePath, num_classes: int, mask_format: MaskFormat = INDICES
) -> np.ndarray:
    """Returns the labels of a stored mask like `read_mask`; `path` is for the message."""
    values = stored.values
    if mask_format.channels != "index":
        if stored.mode == "P" and stored.colours is not None:
            values = stored.colours[values]
        values = _indices_of_colours(values, path, grey=mask_format.channels == "grey")
    elif stored.mode == "1" and num_classes == 1:
        return values
    elif stored.mode not in ("P", "L"):
        raise DataError(
            f"mask {path} is stored as {stored.mode}, not as palette indices; save it as an 8-bit "
            f"palette PNG whose values are 0..{num_classes} and 255"
        )
    elif not mask_format.any_palette and stored.is_reordered(num_classes):
        raise DataError(
            f"mask {path} has VOC's colours in another order than its values, as painting programs "
            "leave them; save it with the palette in VOC's order, the colour of label k at place k"
        )
    mask = values if mask_format.table is None else mask_format.table[values]
    foreign = values[(mask > num_classes) & (mask != 255)]
    if foreign.size:
        meaning = "which stands for no label"
        if mask_format.table is None:
            meaning = f"but labels are 0..{num_classes} and 255"
        remedy = "check that the file is a mask of this data set"
        if num_classes == 1 and len(np.unique(foreign)) == 1:
            remedy = f"set data.mask_foreground={foreign[0]} if it is the class, or {remedy}"
        raise DataError(f"mask {path} holds the value {foreign[0]}, {meaning}; {remedy}")
    return mask


def stored_mask(content: bytes, path: pathlib.PurePath) -> StoredMask:
    """Decodes the content of a mask file; `path` is for the message."""
    try:
        with open_picture(io.BytesIO(content)) as picture:
            is_lossy = picture.format in ("JPEG", "MPO")
            few_bits = re.search(r"'L;([24])'", str(picture.tile))
            values = np.array(picture)
            if picture.format != "TIFF":  # which is turned when it is loaded
                values = turned(values, orientation_of(picture))
            colours = np.array(picture.getpalette("RGB") or (), np.uint8).reshape(-1, 3)
    except (*DECODER_ERRORS, PIL.Image.DecompressionBombError) as error:
        why = f" ({error})" if isinstance(error, PhotoError) else ""
        raise DataError(
            f"mask {path} ({len(content)} bytes) cannot be decoded; replace the file{why}"
        ) from error
    if is_lossy:
        raise DataError(f"mask {path} is a JPEG, which blurs labels; save it anew as a PNG")
    if few_bits:  # which Pillow spreads over 0..255, as if they were brightness
        values //= 255 // (2 ** int(few_bits[1]) - 1)
    if picture.mode == "1":
        values = values.astype(np.uint8)
    # No label has the colour of values that the palette lacks.
    lacking = np.full((256 - len(colours), 3), 1, np.uint8)
    return StoredMask(picture.mode, values, np.concatenate([colours, lacking]))


def _label_of_colour(colours: np.ndarray) -> np.ndarray:
    """Returns the labels uint8 [...] whose VOC colours are nearest below colours [..., 3]."""
    label = np.zeros(colours.shape[:-1], np.uint8)
    for bit in range(8):  # a label's bits are spread over the channels' top bits
        label |= ((colours[..., bit % 3] >> (7 - bit // 3)) & 1) << bit
    return label


def _indices_of_colours(mask: np.ndarray, path: pathlib.PurePath, *, grey: bool) -> np.ndarray:
    """Returns the indices [H, W] of pixels [H, W, 3 or 4] that are grey or have VOC's colours."""
    if mask.ndim != 3 or mask.shape[2] not in (3, 4):
        raise DataError(
            f"mask {path} is not stored in colour as the other masks of its folder are; save all "
            "of them alike"
        )
    if grey:
        index = mask[..., 0]
        colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    else:
        colours, index = _VOC_COLOURS, _label_of_colour(mask)
    strange = (colours[index] != mask[..., :3]).any(axis=2)
    if strange.any():
        colour = tuple(int(v) for v in mask[strange][0])
        raise DataError(
            f"mask {path} has the colour {colour}, which is no {'grey' if grey else 'label'} "
            "colour; save label indices in an 8-bit palette PNG"
        )
    return np.ascontiguousarray(index)


def read_bytes(path: pathlib.Path, what: str) -> bytes:
    """Reads the content of a file; `what` says in messages what the file is."""
    try:
        return content_of(path)
    except FileNotFoundError:
        raise DataError(
            f"{what} {path} is missing; add the file or take {path.stem!r} out of the split"
        ) from None
    except (OSError, ValueError) as error:  # the latter for a path with a zero byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{what} {path} cannot be read ({reason}); check what is at that path"
        ) from error
