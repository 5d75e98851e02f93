"""`FileSource`, a record source of image files, and the helpers that open one."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from toco_jax.data.labelling.text_files import read_text, trimmed
from toco_jax.data.labels import INDICES, MaskFormat, labels_in, load_photo, read_bytes, stored_mask
from toco_jax.data.photos import Photo, turned
from toco_jax.data.remarks import DataRemark
from toco_jax.runtime.errors import DataError, shown

# On a network file system thousands of small reads are waiting, not work.
READERS = 8

# Called with an image's name and what is wrong with its label.
OnProblem = Callable[[str, DataError], None]

# (kind, message) of a remark.
Remark = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class FileSource:
    """An opened split of image files; a record source (see `toco_jax.data`).

    Attributes:
        class_names: the C foreground classes.
        split: name of the split.
        names: one unique name per record.
        images: path of the image file of each record.
        cls_labels: uint8 [N, C] of 0 and 1.
        masks: path of the mask file of each record, None for a record whose pixels are all to be
            ignored. None instead of a tuple if records carry no mask.
        mask_format: how the mask files store labels.
        list_folder: folder in which a list `<split>.txt` of names makes a split.
        remarks: for the owner of the files.
        copies: for each image that other files hold too, the first of their names.
        left_out: names of labelled images that are not in this split.
    """

    class_names: tuple[str, ...]
    split: str
    names: tuple[str, ...]
    images: tuple[pathlib.Path, ...]
    cls_labels: np.ndarray
    masks: tuple[pathlib.Path | None, ...] | None
    mask_format: MaskFormat = INDICES
    list_folder: pathlib.Path | None = None
    remarks: tuple[DataRemark, ...] = ()
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @functools.cached_property
    def num_present(self) -> int:
        """The largest number of classes in one image, at least 1."""
        return max(1, int(self.cls_labels.sum(axis=1).max()))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict:
        photo = load_photo(self.images[i])
        record = {"name": self.names[i], "image": photo.pixels}
        record["cls_label"] = self.cls_labels[i].astype(np.float32)
        if self.masks is not None:
            record["mask"] = self.mask(i, photo)[0]
        return record

    def mask(self, i: int, photo: Photo) -> tuple[np.ndarray, list[Remark]]:
        """Reads the mask of a record.

        Args:
            i: place of the record.
            photo: its decoded image.

        Returns:
            Labels uint8 [H, W], and remarks on how they were read.

        Raises:
            DataError: the mask is missing, damaged, does not fit the image or has other values.
        """
        assert self.masks is not None
        path = self.masks[i]
        if path is None:
            # If 255 is a class, ignored pixels need another value.
            many = len(self.class_names) >= 255
            size = photo.pixels.shape[:2]
            return np.full(size, 65535 if many else 255, np.uint16 if many else np.uint8), []
        num_classes = len(self.class_names)
        stored = stored_mask(read_bytes(path, "mask"), path)
        mask = labels_in(stored, path, num_classes, self.mask_format)
        mask, remarks = fitted(mask, photo, f"mask {path}", f"image {self.images[i]}")
        if stored.is_reordered(num_classes):
            taken = "values" if self.mask_format.any_palette else "colours"
            message = f"mask {path} has VOC's colours in another order than its values; its {taken}"
            remarks = [*remarks, ("mask with another palette", f"{message} are taken")]
        return mask, remarks


def those_there(paths: Sequence[pathlib.Path]) -> tuple[pathlib.Path | None, ...]:
    """Returns the paths, with None in the place of those at which there is no file."""
    with ThreadPoolExecutor(READERS) as threads:
        is_there = threads.map(pathlib.Path.is_file, paths)
        return tuple(path if there else None for path, there in zip(paths, is_there, strict=True))


def fitted(
    mask: np.ndarray, photo: Photo, name: str, image: str
) -> tuple[np.ndarray, list[Remark]]:
    """Turns a mask upright like its image, if it was drawn on the stored pixels.

    A mask of the size that the image is stored in was drawn by a tool that ignores EXIF, and is
    turned as EXIF says. If both sizes are equal, the mask is taken to be upright, as most tools
    draw them.

    Args:
        mask: uint8 [H, W].
        photo: the image.
        name: name of the mask in messages.
        image: name of the image in messages.

    Returns:
        The mask, and a remark if it was turned or may have to be.

    Raises:
        DataError: the mask fits neither way.
    """
    size, orientation = photo.pixels.shape[:2], photo.orientation
    stored = size[::-1] if orientation >= 5 else size
    if mask.shape not in (size, stored):
        unturned = f" and {stored[1]} x {stored[0]} as stored" if stored != size else ""
        raise DataError(
            f"{name} is {mask.shape[1]} x {mask.shape[0]} pixels but {image} is {size[1]} x "
            f"{size[0]}{unturned}; replace the one that was resized"
        )
    if orientation == 1 or (mask.shape == size != stored):
        return mask, []
    if size == stored:
        message = (
            f"{image} is turned by its EXIF note and {name} is not, as their sizes do not tell "
            "whether it was drawn on the turned image; look at one on the other"
        )
        return mask, [("mask taken as turned", message)]
    message = f"{name} fits {image} as it is stored and is turned with it by the EXIF note"
    return turned(mask, orientation), [("mask turned with its image", message)]


def raise_problem(_name: str, error: DataError) -> None:
    """Raises a problem: what openers do with the first one unless told otherwise."""
    raise error


def labels_of(
    names: Sequence[str],
    read: Callable[[str], np.ndarray],
    num_classes: int,
    on_problem: OnProblem,
) -> np.ndarray:
    """Reads the label of every name, in parallel.

    Args:
        names: names of N images.
        read: returns the label [C] of an image.
        num_classes: C.
        on_problem: called with a name and the `DataError` that `read` raised for it.

    Returns:
        uint8 [N, C], with zeros for the images that `on_problem` was called for.
    """

    def attempt(name: str) -> np.ndarray | DataError:
        try:
            return read(name)
        except DataError as error:
            return error

    labels = np.zeros((len(names), num_classes), np.uint8)
    with ThreadPoolExecutor(READERS) as threads:
        for name, row, found in zip(names, labels, threads.map(attempt, names), strict=True):
            if isinstance(found, DataError):
                on_problem(name, found)
            else:
                row[:] = found
    return labels


def evenly_spaced(total: int, wanted: int) -> np.ndarray:
    """Returns `wanted` positions among `total` at equal distances, or all if there are fewer."""
    count = min(total, wanted)
    return np.arange(count) * total // max(count, 1)


def read_list(path: pathlib.Path) -> tuple[str, ...]:
    """Reads a list of names, one per line. Empty lines do not count."""
    if not path.exists():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise DataError(
            f"split {path.stem!r} has no list {path}; choose one of those there ({there}) or add it"
        )
    names = tuple(filter(None, map(trimmed, read_text(path, "list").splitlines())))
    refuse_repeats(names, f"list {path}")
    return names


def refuse_repeats(names: Iterable[str], where: str) -> None:
    """Raises `DataError` for the first name that comes twice."""
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where} has {shown(name)} twice; keep one of the lines")
        seen.add(name)


def refuse_empty(names: Sequence[str], split: str, where: str) -> None:
    """Raises `DataError` for a split without images."""
    if len(names) == 0:
        raise DataError(
            f"split {split!r} is empty: {where} names no image; list some or restore it"
        )
