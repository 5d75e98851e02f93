"""Label maps that the scores of a network are compared with.

background    no pixel shows a class
seg_of_tags   the segmentation, among the classes that the image shows, as CAMs are scored
token_truth   the truth at the resolution of the tokens, which bounds what one value for each
              patch can reach
"""

import cv2
import numpy as np

from toco_jax.inference.native import resize_map


def label_maps(
    mask: np.ndarray, cls_label: np.ndarray, scores: np.ndarray, grid: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Computes the label map of each of `data.label_maps.BASELINES`, integers `[H, W]`.

    Args:
        mask: integers `[H, W]`, the truth; values of `C + 1` and above are ignored.
        cls_label: 1 for the classes that the image shows, 0 for the others, `[C]`.
        scores: scores of the segmentation, `[H, W, C + 1]`, background first.
        grid: rows and columns of the patches.
    """
    given = np.append(1, cls_label) > 0
    return {
        "background": np.zeros(mask.shape, np.int64),
        "seg_of_tags": np.where(given, scores, -np.inf).argmax(axis=-1),
        "token_truth": at_resolution(mask, grid, scores.shape[-1]),
    }


def at_resolution(mask: np.ndarray, grid: tuple[int, int], num_labels: int) -> np.ndarray:
    """Returns a mask `[H, W]` after it was averaged over the cells of a grid and resized back.

    Args:
        mask: integers `[H, W]`; values of `num_labels` and above are ignored.
        grid: rows and columns of the cells.
        num_labels: background included.
    """
    labels = np.unique(mask[mask < num_labels])
    if not len(labels):
        return np.zeros(mask.shape, np.int64)
    shares = [
        cv2.resize((mask == label).astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
        for label in labels
    ]
    return labels[resize_map(np.stack(shares, axis=-1), mask.shape).argmax(axis=-1)].astype(int)
