"""Counts of an evaluation: summed over images, kept on disk, turned into rows and tables.

Counts are a flat dict of numpy arrays that add up: `confusion/<predictor>/<protocol>` `[K, K]`,
`sweep/<predictor>/<protocol>` `[T + 1, K, K]`, `f1/<protocol>` (sum, images), `done/<pass>` (one
entry an image of the split) and `seconds/<stage>`. Plain numpy.
"""

import io
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.evaluation import metrics
from toco_jax.runtime import processes
from toco_jax.runtime.console import say, say_table
from toco_jax.runtime.outputs import write_atomically

Counts = dict[str, np.ndarray]

PREDICTORS = {"seg": "segmentation", "cam": "CAM", "aux_cam": "aux CAM"}
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))


def add(counts: Counts, more: Counts) -> None:
    """Adds counts in place; a name that is new starts at 0."""
    for name, value in more.items():
        counts[name] = counts[name] + value if name in counts else value


def save(path: pathlib.Path, counts: Counts, about: str) -> None:
    """Writes counts so that a killed process leaves the old file or the new one."""
    write_atomically(path, to_bytes(counts | {"about": np.array(about)}))


def load(path: pathlib.Path, about: str) -> Counts | None:
    """Counts of an interrupted evaluation, None where there is none that is `about` the same."""
    if not path.is_file():
        return None
    with np.load(path) as stored:
        if str(stored["about"]) != about:
            return None
        return {name: stored[name] for name in stored.files if name != "about"}


def to_bytes(counts: Counts) -> bytes:
    """Counts as bytes, for another process or the disk."""
    file = io.BytesIO()
    np.savez_compressed(file, **counts)
    return file.getvalue()


def from_bytes(content: bytes) -> Counts:
    """The counts of `to_bytes`."""
    with np.load(io.BytesIO(content)) as stored:
        return {name: stored[name] for name in stored.files}


def of_all_processes(counts: Counts) -> list[Counts]:
    """The counts of every process of this job, in their order."""
    return [from_bytes(content) for content in processes.gather(to_bytes(counts))]


def sweep_counts(
    mask: np.ndarray, value: np.ndarray, label: np.ndarray, num_labels: int
) -> np.ndarray:
    """Pixels by how many of `THRESHOLDS` they exceed, by truth and by best class: `[T + 1, K, K]`.

    Args:
        mask: truth `[H, W]`; values of `num_labels` and above are left out.
        value: CAM value `[H, W]` of the best class.
        label: that class, `[H, W]` in 1..K-1.
        num_labels: K, background included.
    """
    counted = mask < num_labels
    exceeded = np.searchsorted(np.float32(THRESHOLDS), value[counted], side="left")
    truth, guess = mask[counted].astype(np.int64), label[counted].astype(np.int64)
    index = (exceeded * num_labels + truth) * num_labels + guess
    shape = (len(THRESHOLDS) + 1, num_labels, num_labels)
    return np.bincount(index, minlength=np.prod(shape)).reshape(shape)  # [T + 1, K, K]


def sweep_mious(sweep: np.ndarray) -> list[float]:
    """mIoU in percent at each of `THRESHOLDS`, from `sweep_counts`."""
    mious = []
    for i in range(len(THRESHOLDS)):
        confusion = sweep[i + 1 :].sum(axis=0)
        confusion[:, 0] += sweep[: i + 1].sum(axis=(0, 2))
        mious.append(100 * metrics.scores(confusion)["miou"])
    return mious


def percentages(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores of a confusion matrix `[K, K]` in percent, None where there is nothing to average.

    Args:
        confusion: rows the truth.
        names: all labels, background first.

    Returns:
        `miou`, over the classes that the truth holds; `miou_all_classes`, in which a class that it
        does not hold counts 0; `pixel_accuracy`; `mean_accuracy`; and `iou`, from name to IoU,
        None for a class that the truth does not hold, predicted or not.
    """
    summary = metrics.scores(confusion)
    present = confusion.sum(axis=1) > 0
    iou = np.where(present, summary.pop("iou"), np.nan)
    scores = {name: _percent(value) for name, value in summary.items()}
    return scores | {"iou": dict(zip(names, map(_percent, iou), strict=True))}


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else 100 * float(fraction)


def mean_f1(count: np.ndarray) -> float | None:
    """Classification F1 in percent from its sum over images and their number; None for none."""
    total, images = count
    return 100 * float(total / images) if images else None


def shown(percent: float | None, unit: str = "") -> str:
    """A score for people, with its unit where there is a score."""
    return "absent" if percent is None else f"{percent:.1f}{unit}"


def make_row(
    counts: Counts, predictor: str, protocol: str, *, description: str, names: tuple[str, ...]
) -> dict[str, Any]:
    """One row of `evaluation.json`: `percentages`, the confusion matrix, where there are counts for
    it the threshold sweep, and `cls_f1`, of the classifier in the same pass.

    Args:
        counts: the summed counts.
        predictor: one of `PREDICTORS`.
        protocol: the protocol's short name.
        description: how the prediction was made, in words.
        names: all labels, background first.
    """
    confusion = counts[f"confusion/{predictor}/{protocol}"]
    row = {"predictor": predictor, "protocol": protocol, "description": description}
    row |= percentages(confusion, names)
    row |= {"cls_f1": mean_f1(counts[f"f1/{protocol}"]), "confusion": confusion.tolist()}
    sweep = counts.get(f"sweep/{predictor}/{protocol}")
    if sweep is not None:
        mious = sweep_mious(sweep)
        best = int(np.argmax(mious))
        row["sweep"] = {"thresholds": list(THRESHOLDS), "miou": mious}
        row["sweep"] |= {"best_threshold": THRESHOLDS[best], "best_miou": mious[best]}
    return row


def print_rows(rows: list[dict[str, Any]], *, title: str, bkg_thre: float) -> None:
    """A table for each protocol, and the threshold sweeps where there are some."""
    means = {
        "miou": "mIoU, classes present",
        "miou_all_classes": "mIoU, all classes, absent ones as 0",
        "pixel_accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "cls_f1": "classification F1",
    }
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        chosen = [row for row in rows if row["protocol"] == protocol]
        say_table(
            f"{title}: {chosen[0]['description']}",
            ("%", *(PREDICTORS[row["predictor"]] for row in chosen)),
            [(label, *(shown(row["iou"][label]) for row in chosen)) for label in chosen[0]["iou"]],
            [(name, *(shown(row[key]) for row in chosen)) for key, name in means.items()],
        )
    for row in rows:
        if "sweep" in row:
            sweep = row["sweep"]
            say(
                f"{PREDICTORS[row['predictor']]}, {row['description']}: best threshold "
                f"{sweep['best_threshold']:g} with mIoU {sweep['best_miou']:.1f}; configured "
                f"threshold {bkg_thre:g} with mIoU {row['miou']:.1f}"
            )
