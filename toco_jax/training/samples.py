"""Draws what the network predicts for a few validation images, at the end of a run."""

from collections.abc import Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from toco_jax.evaluation.squashed import Prediction
from toco_jax.inference import drawing
from toco_jax.method import cams
from toco_jax.method.par import refine_pseudo_label

NUM_SAMPLES = 8
COLUMNS = ("image", "truth", "CAM", "pseudo label", "segmentation")


def spread(count: int) -> list[int]:
    """Returns `NUM_SAMPLES` indices evenly spread over `count`, or all if there are fewer."""
    return [int(place) for place in np.linspace(0, count - 1, min(NUM_SAMPLES, count))]


def draw(
    predictions: Sequence[Prediction],
    *,
    class_names: tuple[str, ...],
    high_thre: float,
    low_thre: float,
    num_present: int,
) -> Image.Image:
    """Draws one row per image with the image, truth, CAM, pseudo label and segmentation.

    The CAM column shows at each pixel the strongest CAM of the classes in the image.

    Args:
        predictions: predictions of the images, with their records.
        class_names: foreground classes in label order.
        high_thre: see `par.refine_pseudo_label`, as for `low_thre`.
        low_thre: see there.
        num_present: no image holds more foreground classes than this.
    """
    records = [prediction.record for prediction in predictions]
    images = np.stack([record["image"] for record in records])
    cam = np.stack([prediction.cam for prediction in predictions])
    cls_label = np.stack([record["cls_label"] for record in records])
    whole = jnp.array([[0, images.shape[1], 0, images.shape[2]]] * len(images), jnp.int32)

    @jax.jit
    def refined(images, cam, cls_label):
        class_ids, present = cams.present_classes(cls_label, num_present)
        thresholds = {"high_thre": high_thre, "low_thre": low_thre}
        wanted = cams.of_classes(cam, class_ids)
        label = refine_pseudo_label(images, wanted, present, whole, **thresholds)
        return cams.to_class_labels(label, class_ids)

    pseudo_label = refined(images.astype(np.float32) / 255, cam, cls_label)
    rows, captions, shown = [], [], {0}
    for i, prediction in enumerate(predictions):
        mask = prediction.record["mask"]
        size = mask.shape[::-1]
        image = cv2.resize(images[i], size, interpolation=cv2.INTER_LINEAR)
        heat = cv2.resize((cam[i] * cls_label[i]).max(axis=-1), size)
        pseudo = cv2.resize(np.uint16(pseudo_label[i]), size, interpolation=cv2.INTER_NEAREST)
        segmentation = prediction.labels["seg"]
        rows.append(
            [
                image,
                drawing.colorize(mask),
                drawing.heat_map(image, heat),
                drawing.colorize(pseudo),
                drawing.colorize(segmentation),
            ]
        )
        present = [class_names[c] for c in np.flatnonzero(cls_label[i])]
        captions.append(f"{prediction.record['name']}: {', '.join(present)}")
        shown |= set(np.unique(mask)) | set(np.unique(segmentation)) | set(np.unique(pseudo))
    shown = sorted(int(label) for label in shown)
    names = dict.fromkeys(shown, "ignored") | dict(enumerate(("background", *class_names)))
    return drawing.grid(rows, columns=COLUMNS, captions=captions, labels=shown, names=names)
