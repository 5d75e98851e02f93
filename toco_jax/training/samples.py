"""Draws what the network predicts for a few validation images."""

import functools
from collections.abc import Sequence
from typing import Any

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


@functools.partial(jax.jit, static_argnames=("high_thre", "low_thre", "num_present"))
def _pseudo_labels(
    images: jax.Array,
    cam: jax.Array,
    cls_label: jax.Array,
    *,
    high_thre: float,
    low_thre: float,
    num_present: int,
) -> jax.Array:
    """Returns the refined labels `[B, S, S]` of images `[B, S, S, 3]` in [0, 1]."""
    class_ids, present = cams.present_classes(cls_label, num_present)
    whole = jnp.array([[0, images.shape[1], 0, images.shape[2]]] * len(images), jnp.int32)
    label = refine_pseudo_label(
        images,
        cams.of_classes(cam, class_ids),
        present,
        whole,
        high_thre=high_thre,
        low_thre=low_thre,
    )
    return cams.to_class_labels(label, class_ids)


def panels(predictions: Sequence[Prediction], **settings: Any) -> list[dict[str, np.ndarray]]:
    """Returns the pictures of each prediction by the names in `COLUMNS`.

    Args:
        predictions: predictions of up to `NUM_SAMPLES` images, with their records.
        **settings: `high_thre` and `low_thre` of `par.refine_pseudo_label`, and `num_present`: no
            image holds more foreground classes than this.

    Returns:
        All of an image's own size: the image and its CAM, the strongest of the classes in the image
        at each pixel, uint8 `[H, W, 3]`; the others label maps `[H, W]`.
    """
    # Always as many, so that one program serves all calls.
    padded = [*predictions, *[predictions[-1]] * (NUM_SAMPLES - len(predictions))]
    images = np.stack([prediction.record["image"] for prediction in padded])
    cam = np.stack([prediction.cam for prediction in padded])
    cls_label = np.stack([prediction.record["cls_label"] for prediction in padded])
    labels = _pseudo_labels(images.astype(np.float32) / 255, cam, cls_label, **settings)
    pseudo_label = np.asarray(labels).astype(np.uint16)

    def of_one(i: int, prediction: Prediction) -> dict[str, np.ndarray]:
        mask = prediction.record["mask"]
        size = mask.shape[::-1]
        image = cv2.resize(images[i], size, interpolation=cv2.INTER_LINEAR)
        heat = cv2.resize((cam[i] * cls_label[i]).max(axis=-1), size)
        pseudo = cv2.resize(pseudo_label[i], size, interpolation=cv2.INTER_NEAREST)
        pictures = (image, mask, drawing.heat_map(image, heat), pseudo, prediction.labels["seg"])
        return dict(zip(COLUMNS, pictures, strict=True))

    return [of_one(i, prediction) for i, prediction in enumerate(predictions)]


def draw(
    predictions: Sequence[Prediction], *, class_names: tuple[str, ...], **settings: Any
) -> Image.Image:
    """Draws one row per image with the image, truth, CAM, pseudo label and segmentation.

    Args:
        predictions: see `panels`.
        class_names: foreground classes in label order.
        **settings: see `panels`.
    """
    rows, captions, shown = [], [], {0}
    for prediction, pictures in zip(predictions, panels(predictions, **settings), strict=True):
        labels = [picture for picture in pictures.values() if picture.ndim == 2]
        coloured = [p if p.ndim == 3 else drawing.colorize(p) for p in pictures.values()]
        rows.append(coloured)
        present = [class_names[c] for c in np.flatnonzero(prediction.record["cls_label"])]
        captions.append(f"{prediction.record['name']}: {', '.join(present)}")
        shown = shown.union(*(np.unique(label) for label in labels))
    shown = sorted(int(label) for label in shown)
    names = dict.fromkeys(shown, "ignored") | dict(enumerate(("background", *class_names)))
    return drawing.grid(rows, columns=COLUMNS, captions=captions, labels=shown, names=names)
