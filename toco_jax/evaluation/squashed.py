"""The protocol of training: each image is squashed to a square and seen once.

The CAMs are taken at the training's scales. CAM, auxiliary CAM and segmentation are resized to the
label's own size and counted there. CAMs are scored with the image's labels given, as the field
does.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.config.maps import scored_maps
from toco_jax.data import Part
from toco_jax.data.label_maps import BASELINES
from toco_jax.data.pipeline import eval_batches
from toco_jax.evaluation import baselines, counting
from toco_jax.inference.native import resize_map
from toco_jax.method.cams import cam_to_label, multi_scale_cams
from toco_jax.models.network import ToCo, normalize
from toco_jax.runtime.compute import compiler_options, platform_of
from toco_jax.runtime.sharding import batch_sharded, local_mesh, replicated, shard_batch
from toco_jax.runtime.stopwatch import Stopwatch


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the network predicts for one image.

    Attributes:
        record: the image's record; `image` is uint8 `[S, S, 3]`, squashed, `mask` uint8 `[H, W]`.
        labels: from each predictor to its label map, integers `[H, W]`.
        cam: float32 `[S, S, C]` in [0, 1].
        classes: the predicted classes, booleans `[C]`.
    """

    record: dict[str, Any]
    labels: dict[str, np.ndarray]
    cam: np.ndarray
    classes: np.ndarray


def make_eval_step(config: ConfigDict, model: ToCo, mesh: Mesh) -> Callable:
    """Makes the jitted function that takes `(params, images)`, images uint8 `[B, S, S, 3]`.

    It returns `cls_logits [B, C]`, `seg_logits [B, h, w, C + 1]` at the patch stride, and `cam`,
    `aux_cam [B, S, S, C]`, normalised to [0, 1).
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


def _predict_one(
    record: dict, outputs: dict[str, np.ndarray], *, bkg_thre: float, with_baselines: bool
) -> Prediction:
    size, grid = record["mask"].shape, outputs["seg_logits"].shape[:2]
    seg_logits = resize_map(outputs["seg_logits"], size)
    labels = {"seg": seg_logits.argmax(axis=-1).astype(np.int32)}
    if with_baselines:
        labels |= baselines.label_maps(record["mask"], record["cls_label"], seg_logits, grid)
    for name in ("cam", "aux_cam"):
        cam = resize_map(outputs[name], size)
        labels[name] = cam_to_label(cam[None], record["cls_label"][None], bkg_thre=bkg_thre)[0]
    return Prediction(record, labels, outputs["cam"], outputs["cls_logits"] > 0)


def predictions(
    eval_step: Callable, params: dict, batches: Iterable[dict], mesh: Mesh, **settings: Any
) -> Iterator[Prediction]:
    """Yields the prediction for each image of the batches, in order.

    Args:
        eval_step: the function of `make_eval_step`.
        params: the network's parameters.
        batches: batches of `data.pipeline.eval_batches`, with masks.
        mesh: the mesh of `eval_step`.
        **settings: `bkg_thre`, up to which CAM values are background; and `with_baselines`, whether
            the label maps include `data.label_maps.BASELINES`.
    """
    predict_one = functools.partial(_predict_one, **settings)
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
            yield from pool.map(predict_one, records, rows)


def count(prediction: Prediction, predictors: Sequence[str], *, protocol: str) -> counting.Counts:
    """Counts one image's pixels by some predictors, and the F1 of its classes."""
    record = prediction.record
    counts = counting.classes(record["cls_label"], prediction.classes, protocol=protocol)
    num_labels = len(record["cls_label"]) + 1
    for predictor in predictors:
        names = {"predictor": predictor, "protocol": protocol}
        label = prediction.labels[predictor]
        counts |= counting.pixels(record["mask"], label, num_labels, **names)
    return counts


class SquashedPass:
    """Predicts and counts images squashed to one size, on the devices of this process.

    Args:
        config: the run's configuration.
        model: the network.
        source: record source with masks.
        size: side of the square in pixels, which is also the protocol's name.
        batch_size: images per batch, rounded up to a multiple of the devices.
        with_baselines: counts `data.label_maps.BASELINES`, too.
    """

    def __init__(
        self,
        config: ConfigDict,
        model: ToCo,
        source: Any,
        *,
        size: int,
        batch_size: int,
        with_baselines: bool = False,
    ):
        self._config, self._source, self._size = config, source, size
        self._with_baselines = with_baselines
        self._mesh = local_mesh()
        self._batch_size = -(-batch_size // self._mesh.size) * self._mesh.size
        self._eval_step = make_eval_step(config, model, self._mesh)

    def predictions(self, params: dict, places: Sequence[int]) -> Iterator[Prediction]:
        """Yields the predictions for the images at these places in the split, in order."""
        batches = eval_batches(
            Part(self._source, places),
            batch_size=self._batch_size,
            size=self._size,
            num_threads=self._config.machine.num_threads,
        )
        params = jax.device_put(params, replicated(self._mesh))
        return predictions(
            self._eval_step,
            params,
            batches,
            self._mesh,
            bkg_thre=self._config.bkg_thre,
            with_baselines=self._with_baselines,
        )

    def __call__(
        self, params: dict, places: Sequence[int], watch: Stopwatch | None = None
    ) -> counting.Results:
        """Yields the counts of the images at these places; `watch` counts the time."""
        watch = Stopwatch() if watch is None else watch
        found = self.predictions(params, places)
        extra = BASELINES if self._with_baselines else ()
        predictors = (*scored_maps(self._config), *extra)
        for place in places:
            with watch("squashed"):
                prediction = next(found)
            yield place, count(prediction, predictors, protocol=str(self._size))
