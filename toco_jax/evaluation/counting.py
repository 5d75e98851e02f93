"""What is counted of each image, and how counts are added, stored and sent between processes.

Counts are a flat dict of numpy arrays that add up over images:

    confusion/<predictor>/<protocol>   int64 [K, K] pixels, rows the truth, columns the prediction
    sweep/<predictor>/<protocol>       int64 [T + 1, K, K] pixels, see `scoring.sweep_counts`
    f1/<protocol>                      float64 [2], the sum of the images' F1 and their number
    image/<predictor>/<protocol>       float64 [N], each image's own mIoU, NaN if it has no truth
    done/<pass>                        int64 [N], how often each image of the split was counted
    seconds                            float64 [], the time that the evaluation took

A pass over a split yields the place of an image in the split and the image's counts.
"""

import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from toco_jax.data.label_maps import BASELINES, MAPS
from toco_jax.evaluation import metrics
from toco_jax.runtime.outputs import write_atomically

Counts = dict[str, np.ndarray]
Results = Iterator[tuple[int, Counts]]

# Short name of each predictor: its name in tables.
PREDICTORS = MAPS | BASELINES


def pixels(
    mask: np.ndarray, label: np.ndarray, num_labels: int, *, predictor: str, protocol: str
) -> Counts:
    """Counts the pixels of one image by true and predicted label.

    Args:
        mask: integers `[H, W]`, the truth; values of `num_labels` and above are left out.
        label: integers `[H, W]`, the prediction.
        num_labels: K, background included.
        predictor: one of `PREDICTORS`.
        protocol: the protocol's short name.
    """
    confusion = metrics.confusion_matrix(mask, label, num_labels)
    return {f"confusion/{predictor}/{protocol}": confusion}


def classes(cls_label: np.ndarray, predicted: np.ndarray, *, protocol: str) -> Counts:
    """Counts the F1 of one image's set of classes: true and predicted, each `[C]` of 0 and 1."""
    f1 = metrics.multilabel_f1(cls_label, predicted)
    return {f"f1/{protocol}": np.array([float(f1), 1.0])}


def add(counts: Counts, more: Counts) -> None:
    """Adds counts in place; a name that is new starts at 0."""
    for name, value in more.items():
        counts[name] = counts[name] + value if name in counts else value


def add_image(counts: Counts, more: Counts, place: int, count: int) -> None:
    """Adds the counts of the image at `place` of a split of `count` images, and its own mIoU."""
    add(counts, more)
    for name, confusion in more.items():
        kind, _, rest = name.partition("/")
        if kind == "confusion":
            mious = counts.setdefault(f"image/{rest}", np.zeros(count))
            mious[place] = metrics.scores(confusion)["miou"]


def to_bytes(counts: Counts) -> bytes:
    """Counts as bytes, for another process or the disk."""
    file, arrays = io.BytesIO(), dict[str, Any](counts)
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def from_bytes(content: bytes) -> Counts:
    """The counts of `to_bytes`."""
    with np.load(io.BytesIO(content)) as stored:
        return {name: stored[name] for name in stored.files}


def save(path: pathlib.Path, counts: Counts, about: str) -> None:
    """Writes counts so that a killed process leaves the old file or the new one."""
    write_atomically(path, to_bytes(counts | {"about": np.array(about)}))


def load(path: pathlib.Path, about: str) -> Counts | None:
    """Reads the counts of `save`; None if there is no file or it was saved with another `about`."""
    if not path.is_file():
        return None
    counts = from_bytes(path.read_bytes())
    return counts if str(counts.pop("about")) == about else None
