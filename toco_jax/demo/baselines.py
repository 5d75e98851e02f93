"""What the demo's scenes yield without learning features."""

import numpy as np

from toco_jax.data.sources.shapes import ShapesSource
from toco_jax.evaluation.metrics import confusion_matrix, scores


def baselines(source, fit=None) -> dict[str, float]:
    """What can be had without learning features, in percent mIoU.

    Args:
        source: the source with masks that is scored.
        fit: a source with masks whose *true* masks the colour rule may see; 500 training scenes of
            the same seed and size unless told.

    Returns:
        `all_background`; `colour`, the best rule that knows an image's labels and one pixel's
        colour (a histogram of the colours of every class in `fit`; per pixel the likeliest of the
        background and the image's classes); and `colour_memorised`, the same rule fitted with the
        true masks of the very images it is scored on, a bound that no rule of colours can pass by
        honest means. Both take the best of 4, 8 and 16 cells a channel and 8 weights of the
        background, chosen on `source` itself.
    """
    if fit is None:
        fit = ShapesSource("train", masks=True, seed=source.seed, size=source.size, length=500)
    num_labels = len(source.class_names) + 1
    scored, fitted = ([s[i] for i in range(len(s))] for s in (source, fit))
    zeros = [np.zeros_like(record["mask"]) for record in scored]
    return {
        "all_background": _miou(scored, zeros, num_labels),
        "colour": _best_colour_rule(scored, fitted, num_labels),
        "colour_memorised": _best_colour_rule(scored, scored, num_labels),
    }


def _miou(records: list[dict], predictions: list[np.ndarray], num_labels: int) -> float:
    masks = np.stack([record["mask"] for record in records])
    return 100 * scores(confusion_matrix(masks, np.stack(predictions), num_labels))["miou"]


def _best_colour_rule(scored: list[dict], fitted: list[dict], num_labels: int) -> float:
    """Percent mIoU on `scored` of the best histogram of the colours and masks of `fitted`."""
    best = 0.0
    for bits in (2, 3, 4):
        counts = np.zeros((1 << 3 * bits, num_labels))
        for record in fitted:
            counts += _histogram(record, bits, num_labels)
        likelihood = counts / np.maximum(counts.sum(axis=0), 1)
        # Pixels of one image and one cell get one label, so that cells can be scored for pixels.
        cells, truth, of_image = [], [], []
        for i, record in enumerate(scored):
            histogram = _histogram(record, bits, num_labels)
            cells.append(np.flatnonzero(histogram.any(axis=1)))
            truth.append(histogram[cells[-1]])
            of_image.append(np.full(len(cells[-1]), i))
        found = likelihood[np.concatenate(cells)]  # [R, K]
        pixels, image = np.concatenate(truth), np.concatenate(of_image)  # [R, K], [R]
        for weight in np.geomspace(0.5, 4, 8):
            allowed = np.stack([np.append(weight, record["cls_label"]) for record in scored])
            guess = (found * allowed[image]).argmax(axis=-1)
            confusion = [pixels[guess == label].sum(axis=0) for label in range(num_labels)]
            best = max(best, 100 * scores(np.stack(confusion, axis=1))["miou"])
    return best


def _histogram(record: dict, bits: int, num_labels: int) -> np.ndarray:
    """Pixels of an image by colour, in cells of `bits` a channel, and by label: `[cells, K]`."""
    place = np.array([1 << 2 * bits, 1 << bits, 1])
    cell = (record["image"] >> (8 - bits)) @ place  # [H, W]
    size = (1 << 3 * bits, num_labels)
    counts = np.bincount((cell * num_labels + record["mask"]).ravel(), minlength=np.prod(size))
    return counts.reshape(size)
