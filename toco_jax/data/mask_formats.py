"""Finds out how the masks of a data set store labels, and refuses masks that would mislead."""

import logging
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from toco_jax.data.files import READERS, evenly_spaced
from toco_jax.data.labels import INDICES, MaskFormat, StoredMask, labels_in, read_bytes, stored_mask
from toco_jax.runtime.errors import DataError, shown, some_of

BY_COLOUR = MaskFormat("palette")
BY_INDEX = MaskFormat(any_palette=True)

_PROBES = 64
# A reading is right if the other one contradicts the image-level labels ten times as often.
_CLEARLY = 10
# With so many odd masks it is no accident.
_FEWEST = 2
_FEWEST_EMPTY = 3  # small objects are easily forgotten

# Position, path and content of a mask file.
Probe = tuple[int, pathlib.Path, StoredMask]


def recognise(
    paths: Sequence[pathlib.Path | None],
    cls_labels: np.ndarray | None,
    class_names: Sequence[str],
    *,
    foreground: int = 0,
    has_voc_colours: bool = False,
) -> MaskFormat:
    """Finds out how masks store labels, from some of them.

    Args:
        paths: mask files, of which 64 evenly spaced ones are read. Those that are missing, damaged
            or of a mode that is refused are reported when their record is read.
        cls_labels: labels of the images, uint8 [N, C]; None if they are read from the masks.
        class_names: names of the C classes.
        foreground: value of the only class; 0 if masks hold labels.
        has_voc_colours: whether the classes are VOC's, so that colours decide if labels do not.

    Raises:
        DataError: masks of 0 and 255 alone, colours and values that contradict each other, masks
            that show other classes than their images.
    """
    if foreground:
        return foreground_format(foreground, class_names)
    probes = read_probes(paths)
    refuse_two_valued(probes, cls_labels, class_names)
    mask_format = _reading_of_palettes(probes, cls_labels, class_names, has_voc_colours)
    if cls_labels is not None:
        _refuse_other_classes(probes, cls_labels, class_names, mask_format)
    return mask_format


def foreground_format(foreground: int, class_names: Sequence[str]) -> MaskFormat:
    """Returns the format of masks with one value for the only class and 0 for the background."""
    if not 0 < foreground < 256 or len(class_names) != 1:
        raise DataError(
            f"data.mask_foreground={foreground} must lie in 1..255 and needs data of one class, "
            f"not of {len(class_names)}; set it to 0 where masks hold labels"
        )
    table = np.full(256, 254, np.uint8)  # above the label, not 255
    table[255] = 255
    table[[0, foreground]] = 0, 1
    return MaskFormat(table=table)


def read_probes(paths: Sequence[pathlib.Path | None]) -> list[Probe]:
    """Reads evenly spaced masks; those that cannot be read or hold no indices are left out."""

    def read(numbered: tuple[int, pathlib.Path]) -> Probe | None:
        i, path = numbered
        try:
            stored = stored_mask(read_bytes(path, "mask"), path)
        except DataError:  # raised, or reported, when the record is read
            return None
        return (i, path, stored) if stored.mode in ("P", "L", "1") else None

    there = [(i, path) for i, path in enumerate(paths) if path is not None]
    chosen = [there[k] for k in evenly_spaced(len(there), _PROBES)]
    with ThreadPoolExecutor(READERS) as threads:
        return [probe for probe in threads.map(read, chosen) if probe]


def refuse_two_valued(
    probes: Sequence[Probe], cls_labels: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Raises `DataError` if 255, which means ignored, seems to be meant as foreground."""
    found = [(i, path, set(stored.used.tolist())) for i, path, stored in probes]
    suspects = [(i, path) for i, path, values in found if values == {0, 255}]
    if cls_labels is not None:
        suspects = [(i, path) for i, path in suspects if cls_labels[i].any()]
    is_one_class = len(class_names) == 1
    if len(suspects) < (1 if is_one_class else _FEWEST):
        return
    if not set.union(*(values for *_, values in found)) <= {0, 255}:
        return
    remedy = f"save each class as its own value ({shown(class_names[0])} is 1)"
    if is_one_class:
        remedy = f"set data.mask_foreground=255 if it is {shown(class_names[0])}, or save that as 1"
    raise DataError(
        f"the masks hold 0 and 255 alone ({len(suspects)} of {len(probes)} looked at hold both, "
        f"such as {suspects[0][1]}), and 255 means ignored; {remedy}"
    )


def _reading_of_palettes(
    probes: Sequence[Probe],
    cls_labels: np.ndarray | None,
    class_names: Sequence[str],
    has_voc_colours: bool,
) -> MaskFormat:
    """Decides whether colours or indices count if palettes have VOC's colours in another order."""
    reordered = [probe for probe in probes if probe[2].is_reordered(len(class_names))]
    if not reordered:
        return INDICES
    wrong = {}
    if cls_labels is not None:
        wrong = {
            reading: sum(
                (shown > cls_labels[i]).any()
                for i, shown in _classes_shown(reordered, len(class_names), reading)
            )
            for reading in (BY_COLOUR, BY_INDEX)
        }
    about = (
        f"{len(reordered)} of {len(probes)} masks looked at, such as {reordered[0][1]}, have VOC's "
        "colours in another order than their values, as painting programs leave them"
    )
    fits_colour, fits_index = wrong.get(BY_COLOUR, 0), wrong.get(BY_INDEX, 0)
    if fits_colour * _CLEARLY <= fits_index and (fits_index or has_voc_colours):
        logging.getLogger(__name__).warning("%s: their colours are taken", about)
        return BY_COLOUR
    if fits_index * _CLEARLY <= fits_colour and fits_colour:
        logging.getLogger(__name__).warning(
            "%s: their values are taken, since these agree with the image-level labels", about
        )
        return BY_INDEX
    raise DataError(
        f"{about}, and the image-level labels do not tell which of the two is right; save them "
        "with VOC's palette in VOC's order, the colour of label k at place k"
    )


def _classes_shown(
    probes: Sequence[Probe], num_classes: int, mask_format: MaskFormat
) -> list[tuple[int, np.ndarray]]:
    """Returns position and classes, bool [C], of the masks that can be read in a format."""
    shown = []
    for i, path, stored in probes:
        try:
            mask = labels_in(stored, path, num_classes, mask_format)
        except DataError:  # raised, or reported, when the record is read
            continue
        shown.append((i, np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0))
    return shown


def _refuse_other_classes(
    probes: Sequence[Probe],
    cls_labels: np.ndarray,
    class_names: Sequence[str],
    mask_format: MaskFormat,
) -> None:
    paths = {i: path for i, path, _ in probes}
    # A palette of its own makes a mask suspect by itself.
    are_own = not all(stored.has_voc_palette() for *_, stored in probes)
    # A mask of ignored pixels alone is not annotated, which is no contradiction.
    annotated = [probe for probe in probes if set(probe[2].used.tolist()) != {255}]
    shown = _classes_shown(annotated, len(class_names), mask_format)
    shown = [(i, classes) for i, classes in shown if cls_labels[i].any()]
    with_class = [(i, classes) for i, classes in shown if classes.any()]
    for looked_at, fewest in ((with_class, 1 if are_own else _FEWEST), (shown, _FEWEST_EMPTY)):
        foreign = [(i, c) for i, c in looked_at if not (c & (cls_labels[i] > 0)).any()]
        if len(foreign) >= fewest and 2 * len(foreign) > len(looked_at):
            break
    else:
        return
    i, classes = foreign[0]

    def named(which: np.ndarray) -> str:
        return some_of([class_names[int(k)] for k in np.flatnonzero(which)]) or "no class"

    raise DataError(
        f"{len(foreign)} of {len(looked_at)} masks looked at show none of the classes that their "
        f"images are labelled with ({paths[i]} shows {named(classes)}, its image is labelled "
        f"{named(cls_labels[i])}); save the masks anew, or correct the classes' order, so that "
        "values and classes agree: "
        + ", ".join(f"{name} {k}" for k, name in enumerate(class_names[:20], start=1))
        + (", ..." if len(class_names) > 20 else "")
    )
