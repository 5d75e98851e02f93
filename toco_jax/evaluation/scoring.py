"""Turns counts into scores, and prints the scores as tables.

`Scores` is what `evaluation.json` and a run's `results.json` hold, in plain values:

    step, split, images   what was scored: the training step, the split and its number of images
    seconds               wall time in seconds
    compute_dtype         the network's precision
    bkg_thre              CAM values up to it are background
    protocol              the protocol of the next two; the training's size where it was asked for
    cls_f1                classification F1 in percent
    seg_miou, cam_miou, aux_cam_miou
                          mIoU in percent over the classes present
    labels                the labels of which rows have the mean IoU as `labels_miou`, if any
    rows                  a row for each predictor and protocol, see `make_row`; it also has the
                          `worst` and `best` images, see `extremes`

A score is None where there is nothing to average, and that of a map that the run does not train.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.config.maps import scored_maps
from toco_jax.data.label_maps import MAPS
from toco_jax.evaluation import metrics
from toco_jax.evaluation.counting import PREDICTORS, Counts
from toco_jax.evaluation.protocols import NATIVE, EvaluationError, describe
from toco_jax.runtime.console import say, say_table

Scores = dict[str, Any]

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
NUM_EXTREMES = 4  # images that a row names as its worst, and as its best
# Scores of a row and their names in tables.
_MEANS = {
    "miou": "mIoU, classes present",
    "miou_all_classes": "mIoU, all classes, absent ones as 0",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "cls_f1": "classification F1",
}


def summarize(
    counts: Counts,
    protocols: Sequence[str],
    *,
    config: ConfigDict,
    step: int,
    source: Any,
    crf_settings: dict[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> Scores:
    """Scores what was counted on a split.

    Args:
        counts: the sum over the split's images, as `shares.count_split` returns it.
        protocols: short names of the protocols.
        config: the run's configuration.
        step: the training step of the parameters.
        source: the split's record source.
        crf_settings: the CRF's approximations, see `protocols.describe`.
        labels: names of labels whose mean IoU is scored as well.
    """
    trains_classes = "cam" in scored_maps(config)
    rows = [
        make_row(
            counts,
            predictor,
            protocol,
            description=describe(protocol, config.cam_scales, crf_settings),
            names=("background", *source.class_names),
        )
        | extremes(counts[f"image/{predictor}/{protocol}"], source.names)
        for protocol in protocols
        for predictor in PREDICTORS
        if f"confusion/{predictor}/{protocol}" in counts
    ]
    preferred = [name for name in (str(config.crop_size), NATIVE) if name in protocols]
    protocol = [*preferred, *protocols][0]
    means: dict[str, Any] = {f"{name}_miou": None for name in MAPS}
    for row in rows:
        if row["protocol"] == protocol and row["predictor"] in MAPS:
            means[f"{row['predictor']}_miou"] = row["miou"]
        row["cls_f1"] = row["cls_f1"] if trains_classes else None
        if labels:
            row["labels_miou"] = mean_iou(row["iou"], labels)
    return {
        "step": step,
        "split": source.split,
        "images": int(counts[f"f1/{protocol}"][1]),
        "seconds": round(float(counts["seconds"]), 1),
        "compute_dtype": config.compute_dtype,
        "bkg_thre": config.bkg_thre,
        "protocol": protocol,
        "cls_f1": mean_f1(counts[f"f1/{protocol}"]) if trains_classes else None,
        **means,
        **({"labels": list(labels)} if labels else {}),
        "rows": rows,
    }


def make_row(
    counts: Counts, predictor: str, protocol: str, *, description: str, names: tuple[str, ...]
) -> dict[str, Any]:
    """Scores one predictor by one protocol.

    Args:
        counts: the sum over all images.
        predictor: one of `PREDICTORS`.
        protocol: the protocol's short name.
        description: the protocol in words.
        names: all labels, background first.

    Returns:
        `predictor`, `protocol`, `description`; the scores of `percentages`; `cls_f1`, the
        classification F1 of the same pass in percent; `confusion`, the matrix as lists, rows the
        truth; and `sweep`, the mIoU at each of `THRESHOLDS`, if those were counted of any pixel.
    """
    confusion = counts[f"confusion/{predictor}/{protocol}"]
    row: dict[str, Any] = {"predictor": predictor, "protocol": protocol, "description": description}
    row |= percentages(confusion, names)
    row |= {"cls_f1": mean_f1(counts[f"f1/{protocol}"]), "confusion": confusion.tolist()}
    sweep = counts.get(f"sweep/{predictor}/{protocol}")
    if sweep is not None and row["miou"] is not None:
        mious = sweep_mious(sweep)
        best = int(np.argmax(mious))
        row["sweep"] = {"thresholds": list(THRESHOLDS), "miou": mious}
        row["sweep"] |= {"best_threshold": THRESHOLDS[best], "best_miou": mious[best]}
    return row


def extremes(mious: np.ndarray, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Returns the images with the lowest and with the highest mIoU of their own.

    Args:
        mious: fractions `[N]`, NaN for an image without truth.
        names: names of the images, N or more.

    Returns:
        `worst` and `best`, each a list of `name` and `miou` in percent, the extreme one first.
    """
    known = int((~np.isnan(mious)).sum())
    ascending = np.argsort(mious, kind="stable")[:known]  # NaN comes last

    def chosen(places: np.ndarray) -> list[dict[str, Any]]:
        places = places[:NUM_EXTREMES]
        return [{"name": names[i], "miou": 100 * float(mious[i])} for i in places]

    return {"worst": chosen(ascending), "best": chosen(ascending[::-1])}


def sweep_counts(
    mask: np.ndarray, value: np.ndarray, label: np.ndarray, num_labels: int
) -> np.ndarray:
    """Counts pixels by the number of `THRESHOLDS` they exceed, by truth and by best class.

    Args:
        mask: truth `[H, W]`; values of `num_labels` and above are left out.
        value: CAM value `[H, W]` of the best class.
        label: that class, `[H, W]` in 1..K-1.
        num_labels: K, background included.

    Returns:
        int64 `[T + 1, K, K]`, T the number of thresholds.
    """
    counted = mask < num_labels
    exceeded = np.searchsorted(np.array(THRESHOLDS, np.float32), value[counted], side="left")
    truth, guess = mask[counted].astype(np.int64), label[counted].astype(np.int64)
    index = (exceeded * num_labels + truth) * num_labels + guess
    shape = (len(THRESHOLDS) + 1, num_labels, num_labels)
    return np.bincount(index, minlength=np.prod(shape)).reshape(shape)  # [T + 1, K, K]


def sweep_mious(sweep: np.ndarray) -> list[float]:
    """Returns the mIoU in percent at each of `THRESHOLDS` from the sum of `sweep_counts`."""
    mious = []
    for i in range(len(THRESHOLDS)):
        confusion = sweep[i + 1 :].sum(axis=0)
        confusion[:, 0] += sweep[: i + 1].sum(axis=(0, 2))
        mious.append(100 * metrics.scores(confusion)["miou"])
    return mious


def percentages(confusion: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores a confusion matrix `[K, K]` in percent; None where there is nothing to average.

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


def mean_iou(iou: Mapping[str, float | None], labels: Sequence[str]) -> float | None:
    """Returns the mean IoU of some labels; None if one of them is absent."""
    found = [iou[label] for label in labels]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if found and len(known) == len(found) else None


def main_miou(scores: Mapping[str, Any]) -> float | None:
    """Returns the mIoU by which checkpoints are compared: of the first map that is trained."""
    return next((scores[key] for name in MAPS if scores[key := f"{name}_miou"] is not None), None)


def check_labels(labels: Sequence[str], class_names: Sequence[str]) -> None:
    """Checks the labels whose mean is asked for.

    Raises:
        EvaluationError: one of them is no label, or is given twice.
    """
    known = ("background", *class_names)
    for i, label in enumerate(labels):
        if label not in known or label in labels[:i]:
            problem = "is given twice" if label in known else "is no label"
            raise EvaluationError(
                f"--labels: {label!r} {problem}: name some of {', '.join(known)}, each once"
            )


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else 100 * float(fraction)


def mean_f1(count: np.ndarray) -> float | None:
    """Returns the mean F1 in percent of `[sum over images, images]`; None for no images."""
    total, images = count
    return 100 * float(total / images) if images else None


def shown(percent: float | None, unit: str = "") -> str:
    """Formats a score for people, with its unit where there is a score."""
    return "absent" if percent is None else f"{percent:.1f}{unit}"


def print_tables(scores: Scores) -> None:
    """Prints a table for each protocol, and the best thresholds where they were counted."""
    title = f"step {scores['step']}, {scores['split']}, {scores['images']} images"
    rows, means = scores["rows"], dict(_MEANS)
    if labels := scores.get("labels"):
        means = {"labels_miou": f"mIoU, {len(labels)} labels chosen"} | means
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
                f"threshold {scores['bkg_thre']:g} with mIoU {row['miou']:.1f}"
            )
