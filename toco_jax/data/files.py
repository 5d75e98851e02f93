"""A split of images in files: what the sources on a disk are once they are opened."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from toco_jax.data import DataError
from toco_jax.data.labels import INDICES, MaskFormat, read_image, read_mask

# On a network file system thousands of small reads are waiting, not work.
READERS = 8

# Called with an image's name and what is wrong with its label.
OnProblem = Callable[[str, DataError], None]


@dataclasses.dataclass(frozen=True)
class FileSource:
    """One opened split; a record source (see `toco_jax.data`).

    Attributes:
        class_names: the C foreground classes.
        split: the split's name.
        names: one unique name a record.
        images: the image file of each record.
        cls_labels: uint8 [N, C] of 0 and 1.
        masks: the mask file of each record, None for a record whose pixels are all to be ignored;
            None altogether: records carry no mask.
        mask_format: how the mask files store labels.
        list_folder: where a list `<split>.txt` of names makes a split.
    """

    class_names: tuple[str, ...]
    split: str
    names: tuple[str, ...]
    images: tuple[pathlib.Path, ...]
    cls_labels: np.ndarray
    masks: tuple[pathlib.Path | None, ...] | None
    mask_format: MaskFormat = INDICES
    list_folder: pathlib.Path | None = None

    @functools.cached_property
    def max_classes(self) -> int:
        """Largest number of classes in one image, at least 1."""
        return max(1, int(self.cls_labels.sum(axis=1).max()))

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> dict:
        record = {"name": self.names[i], "image": read_image(self.images[i])}
        record["cls_label"] = self.cls_labels[i].astype(np.float32)
        if self.masks is not None:
            record["mask"] = self.mask(i, record["image"].shape[:2])
        return record

    def mask(self, i: int, size: tuple[int, int]) -> np.ndarray:
        """Labels uint8 [H, W] of a record opened with masks whose image has that size."""
        path = self.masks[i]
        if path is None:
            # Where there are so many classes that 255 is one, another value beyond every label.
            many = len(self.class_names) >= 255
            return np.full(size, 65535 if many else 255, np.uint16 if many else np.uint8)
        mask = read_mask(path, len(self.class_names), self.mask_format)
        if mask.shape != size:
            raise DataError(
                f"mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels but image "
                f"{self.images[i]} is {size[1]} x {size[0]}; replace the one that was resized"
            )
        return mask


def raise_problem(_name: str, error: DataError) -> None:
    """What openers do with the first problem of a single file unless told otherwise."""
    raise error


def labels_of(
    names: Sequence[str],
    read: Callable[[str], np.ndarray],
    num_classes: int,
    on_problem: OnProblem,
) -> np.ndarray:
    """uint8 [N, C]: `read` of every name, in parallel; zeros where it raises `DataError` and
    `on_problem` lets that pass."""

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


def read_list(path: pathlib.Path) -> tuple[str, ...]:
    """The names in a list, one a line; empty lines do not count."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.txt"))) or "none"
        raise DataError(
            f"split {path.stem!r} has no list {path}; choose one of those there ({there}) or add it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"list {path} cannot be read as text ({error}); replace it") from error
    names = tuple(line.strip() for line in lines if line.strip())
    refuse_repeats(names, f"list {path}")
    return names


def refuse_repeats(names: Iterable[str], where: str) -> None:
    """Raises `DataError` for the first name that comes twice."""
    seen = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where} has {name!r} twice; keep one of the lines")
        seen.add(name)


def refuse_empty(names: Sequence[str], split: str, where: str) -> None:
    """Raises `DataError` for a split without images."""
    if len(names) == 0:
        raise DataError(
            f"split {split!r} is empty: {where} names no image; list some or restore it"
        )
