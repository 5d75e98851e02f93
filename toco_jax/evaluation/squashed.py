"""Scores while training: every image squashed to a square and seen once.

The CAMs are taken at the training's scales. CAM, auxiliary CAM and segmentation are brought to the
label's own size and counted in one confusion matrix each. CAMs are scored with the image's labels
given, as the field does.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.evaluation import metrics, scoring
from toco_jax.inference.native import resize_map
from toco_jax.method.cams import cam_to_label, multi_scale_cams
from toco_jax.models.network import ToCo, normalize
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.console import say_table
from toco_jax.runtime.sharding import batch_sharded, replicated, shard_batch

PREDICTORS = ("cam", "aux_cam", "seg")


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Labels `[H, W]` int32 that the three predictors give one image, at the mask's size.

    Attributes:
        record: the evaluated record (`name`, `image`, `mask`, `cls_label`).
        labels: label map of each of `PREDICTORS`.
        cam: `[S, S, C]` float32 at the squashed size.
        classes: predicted classes `[C]`, booleans.
    """

    record: dict[str, Any]
    labels: dict[str, np.ndarray]
    cam: np.ndarray
    classes: np.ndarray


def protocol_name(config: ConfigDict) -> str:
    """How the scores of `summarize` were taken, in words."""
    scales = ", ".join(f"{scale:g}" for scale in config.cam_scales)
    return f"{config.crop_size}, single scale (CAM scales {scales})"


def make_eval_step(config: ConfigDict, model: ToCo, mesh: Mesh) -> Callable:
    """Jitted `eval_step(params, images uint8 [B, S, S, 3])` to `cls_logits [B, C]`,
    `seg_logits [B, h, w, C + 1]` and normalised `cam`, `aux_cam [B, S, S, C]`.
    """

    def eval_step(params: dict, images: jax.Array) -> dict[str, jax.Array]:
        images = normalize(images)
        out = model.apply({"params": params}, images)
        cam, aux_cam = multi_scale_cams(
            lambda x: model.apply({"params": params}, x, method="cams"),
            images,
            scales=tuple(config.cam_scales),
            unscaled=(out["cam"], out["aux_cam"]),
        )
        logits = {name: out[name] for name in ("cls_logits", "seg_logits")}
        return logits | {"cam": cam, "aux_cam": aux_cam}

    return jax.jit(
        eval_step,
        in_shardings=(replicated(mesh), batch_sharded(mesh)),
        out_shardings=batch_sharded(mesh),
        compiler_options=compiler_options(platform_of(mesh.devices.flat[0])),
    )


def _predict_one(record: dict, outputs: dict[str, np.ndarray], bkg_thre: float) -> Prediction:
    size = record["mask"].shape
    seg_logits = resize_map(outputs["seg_logits"], size)
    labels = {"seg": seg_logits.argmax(axis=-1).astype(np.int32)}
    for name in ("cam", "aux_cam"):
        cam = resize_map(outputs[name], size)
        labels[name] = cam_to_label(cam[None], record["cls_label"][None], bkg_thre=bkg_thre)[0]
    return Prediction(record, labels, outputs["cam"], outputs["cls_logits"] > 0)


def predictions(
    eval_step: Callable, params: dict, batches: Iterable[dict], mesh: Mesh, *, bkg_thre: float
) -> Iterator[Prediction]:
    """Predictions of this process's images, in order.

    Args:
        eval_step: see `make_eval_step`.
        params: the network's parameters.
        batches: as `data.pipeline.eval_batches` gives them, with masks.
        mesh: the mesh of `eval_step`.
        bkg_thre: CAM values up to it are background.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        for batch in batches:
            outputs = eval_step(params, shard_batch({"image": batch["image"]}, mesh)["image"])
            local = jax.device_get(outputs)
            records = [
                {"name": name, "mask": mask, "image": batch["image"][i]}
                | {"cls_label": batch["cls_label"][i]}
                for i, (name, mask) in enumerate(zip(batch["name"], batch["mask"], strict=True))
            ]
            rows = [{name: value[i] for name, value in local.items()} for i in range(len(records))]
            yield from pool.map(_predict_one, records, rows, [bkg_thre] * len(records))


def count(stream: Iterable[Prediction], num_labels: int) -> scoring.Counts:
    """Confusion matrices by predictor, and `f1`: the sum over the images and their number."""
    counts = {name: np.zeros((num_labels, num_labels), np.int64) for name in PREDICTORS}
    counts["f1"] = np.zeros(2)
    for prediction in stream:
        mask = prediction.record["mask"]
        for name in PREDICTORS:
            counts[name] += metrics.confusion_matrix(mask, prediction.labels[name], num_labels)
        f1 = metrics.multilabel_f1(prediction.record["cls_label"], prediction.classes)
        counts["f1"] += (float(f1), 1)
    return counts


def summarize(counts: scoring.Counts, *, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Scores in percent of what was counted: `seg_miou`, `cam_miou`, `aux_cam_miou`, `cls_f1`,
    `images`, and per predictor `<name>_iou`, a dict of class name to IoU or None for an absent
    class, see `scoring.percentages`. Without any labelled pixel the mIoU are None too.
    """
    results = {"images": int(counts["f1"][1]), "cls_f1": scoring.mean_f1(counts["f1"])}
    names = ("background", *class_names)
    for name in PREDICTORS:
        scores = scoring.percentages(counts[name], names)
        results |= {f"{name}_miou": scores["miou"], f"{name}_iou": scores["iou"]}
    return results


def print_table(results: dict[str, Any], *, title: str) -> None:
    """Per-class IoU of the three predictors, their means and the classification F1."""
    say_table(
        title,
        ("IoU, %", "CAM", "aux CAM", "segmentation"),
        [
            (label, *(scoring.shown(results[f"{name}_iou"][label]) for name in PREDICTORS))
            for label in results["seg_iou"]
        ],
        [("mIoU", *(scoring.shown(results[f"{name}_miou"]) for name in PREDICTORS))],
        caption=f"classification F1 {scoring.shown(results['cls_f1'], ' %')}, "
        f"{results['images']} images",
    )
