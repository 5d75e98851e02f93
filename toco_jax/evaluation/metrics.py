"""Confusion matrices, and scores of segmentation and classification as fractions in [0, 1]."""

import numpy as np


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, num_labels: int) -> np.ndarray:
    """Counts pixels by true and predicted label.

    Args:
        label: integers of any shape; values of `K` and above (255) are left out.
        prediction: integers of the same shape, in 0..K-1 wherever the label counts.
        num_labels: K, background included.

    Returns:
        int64 `[K, K]`, rows the truth, columns the prediction.

    Raises:
        ValueError: the shapes differ, or a counted prediction is outside 0..K-1.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in shape")
    counted = label < num_labels
    truth = label[counted].astype(np.int64)
    guess = prediction[counted].astype(np.int64)
    if guess.size and not 0 <= guess.min() <= guess.max() < num_labels:
        raise ValueError(
            f"predictions lie in {guess.min()}..{guess.max()}, expected 0..{num_labels - 1}"
        )
    counts = np.bincount(truth * num_labels + guess, minlength=num_labels**2)
    return counts.reshape(num_labels, num_labels)  # [K, K]


def scores(confusion: np.ndarray) -> dict:
    """Scores a confusion matrix `[K, K]` with rows the truth.

    Returns:
        Fractions, NaN where there is nothing to average: `iou [K]`, NaN for a class in neither
        truth nor prediction; `miou`, the mean IoU over the classes present in the truth;
        `miou_all_classes`, the mean over all K, a class without IoU counting 0; `pixel_accuracy`;
        and `mean_accuracy`, the mean over the classes present in the truth.
    """
    confusion = confusion.astype(np.float64)
    correct, truth, guess = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = truth + guess - correct
    iou = np.divide(correct, union, out=np.full_like(correct, np.nan), where=union > 0)
    present = truth > 0
    if not present.any():
        means = ("miou", "miou_all_classes", "pixel_accuracy", "mean_accuracy")
        return {"iou": iou} | dict.fromkeys(means, np.nan)
    return {
        "iou": iou,
        "miou": float(iou[present].mean()),
        "miou_all_classes": float(np.nan_to_num(iou).mean()),
        "pixel_accuracy": float(correct.sum() / truth.sum()),
        "mean_accuracy": float((correct[present] / truth[present]).mean()),
    }


def multilabel_f1(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Computes the F1 of each image's set of classes, given as 0 and 1 `[..., C]`.

    Returns:
        float64 `[...]`; 0 for an image with neither true nor predicted classes.
    """
    label, prediction = label.astype(bool), prediction.astype(bool)
    hits = (label & prediction).sum(axis=-1)
    total = label.sum(axis=-1) + prediction.sum(axis=-1)
    return np.where(total > 0, 2 * hits / np.maximum(total, 1), 0.0)
