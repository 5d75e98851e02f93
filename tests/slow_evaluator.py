"""The evaluation's protocols written plainly: one image after the other, no batches, no padding."""

import functools
from collections.abc import Callable, Iterable

import cv2
import jax
import numpy as np
from slow_step import MEAN, STD

SCALES = (1.0, 1.25, 1.5)


class SlowEvaluator:
    """Label maps of the three predictors, `{"cam", "aux_cam", "seg"}` of `[H, W]`, and the image's
    logits, of a record with its mask.
    """

    def __init__(self, model, params: dict, *, cam_scales: tuple[float, ...], bkg_thre: float):
        self.patch, self.cam_scales, self.bkg_thre = model.backbone.patch, cam_scales, bkg_thre
        # Other weights are then no other program.
        forward = jax.jit(lambda params, images: model.apply({"params": params}, images))
        self.forward = functools.partial(forward, params)

    def look(self, image: np.ndarray, scale: float = 1.0) -> list[dict[str, np.ndarray]]:
        """What the network says of an image and of its mirror image, mirrored back."""
        scaled = resized(image.astype(np.float32), [int(scale * side) for side in image.shape[:2]])
        rows, columns = (side // self.patch * self.patch for side in scaled.shape[:2])
        views = []
        for turn in (1, -1):
            view = (scaled[:, ::turn] / 255 - MEAN) / STD
            out = self.forward(view[None, :rows, :columns])
            maps = {k: np.asarray(out[k][0])[:, ::turn] for k in ("cam", "aux_cam", "seg_logits")}
            views.append(maps | {"cls_logits": np.asarray(out["cls_logits"][0])})
        return views

    def cam(self, name: str, image: np.ndarray) -> np.ndarray:
        """A CAM `[H, W, C]` at the image's size."""
        total = 0
        for scale in self.cam_scales:
            pair = [resized(view[name], image.shape[:2]) for view in self.look(image, scale)]
            total = total + np.maximum(np.maximum(*pair), 0)
        total = total - total.min(axis=(0, 1))
        return total / (total.max(axis=(0, 1)) + np.float32(1e-5))

    def labels(self, record: dict, cams: dict, seg_logits: np.ndarray) -> dict[str, np.ndarray]:
        found = {"seg": seg_logits.argmax(axis=-1)}
        for name, cam in cams.items():
            known = cam * record["cls_label"]
            found[name] = (known.argmax(axis=-1) + 1) * (known.max(axis=-1) > self.bkg_thre)
        return found

    def native(self, record: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The protocol of the image's own size."""
        image, size = record["image"], record["mask"].shape
        looks = [self.look(image, scale) for scale in SCALES]
        logits = [
            resized(straight["seg_logits"] + turned["seg_logits"], size)
            for straight, turned in looks
        ]
        cams = {name: self.cam(name, image) for name in ("cam", "aux_cam")}
        return self.labels(record, cams, np.max(logits, axis=0)), looks[0][0]["cls_logits"]

    def squashed(self, record: dict, side: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The protocol of `side` pixels."""
        image, size = resized(record["image"], (side, side)), record["mask"].shape
        out = self.look(image)[0]
        cams = {name: resized(self.cam(name, image), size) for name in ("cam", "aux_cam")}
        return self.labels(record, cams, resized(out["seg_logits"], size)), out["cls_logits"]


def resized(image: np.ndarray, size) -> np.ndarray:
    return cv2.resize(image, tuple(size)[::-1], interpolation=cv2.INTER_LINEAR)


def confusions(
    records: Iterable[dict], evaluate: Callable, num_labels: int
) -> tuple[dict[str, np.ndarray], float]:
    """Confusion matrices `[K, K]` by predictor, truth down, and the mean F1 of the images."""
    total = {name: np.zeros((num_labels, num_labels), int) for name in ("cam", "aux_cam", "seg")}
    f1 = []
    for record in records:
        labels, cls_logits = evaluate(record)
        counted = record["mask"] < num_labels
        for name, label in labels.items():
            np.add.at(total[name], (record["mask"][counted], label[counted]), 1)
        truth, guess = record["cls_label"] > 0, cls_logits > 0
        f1.append(2 * (truth & guess).sum() / (truth.sum() + guess.sum()))
    return total, float(np.mean(f1))


def miou(confusion: np.ndarray) -> float:
    """Mean over the classes that the truth has."""
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    present = confusion.sum(axis=1) > 0
    return float((np.diag(confusion)[present] / union[present]).mean())
