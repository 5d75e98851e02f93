"""The evaluation's passes over a split: what is counted of each image.

A pass yields `(place, counts)`, the place of an image in the split and its counts (see `scoring`).
The last stages of an image run in threads beside the network.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from toco_jax.data import Part
from toco_jax.data.pipeline import eval_batches
from toco_jax.evaluation import metrics, scoring, squashed
from toco_jax.inference.native import Maps, NativeNetwork, softmax
from toco_jax.inference.stream import finished, stream
from toco_jax.models.network import ToCo
from toco_jax.runtime.sharding import local_mesh, replicated
from toco_jax.runtime.stopwatch import Stopwatch

NATIVE, CRF = "native", "native+crf"
DESCRIPTIONS = {NATIVE: "native, multi-scale", CRF: "native, multi-scale, CRF"}

Results = Iterator[tuple[int, scoring.Counts]]


def describe(
    protocol: str, cam_scales: tuple[float, ...], crf_settings: dict[str, Any] | None = None
) -> str:
    """A protocol in words, so that no two can be confused."""
    if protocol == CRF and crf_settings:
        settings = ", ".join(f"{name}={value}" for name, value in crf_settings.items())
        return f"{DESCRIPTIONS[CRF]} (approximate: {settings})"
    if protocol in DESCRIPTIONS:
        return DESCRIPTIONS[protocol]
    scales = ", ".join(f"{scale:g}" for scale in cam_scales)
    return f"{protocol}, single scale (CAM scales {scales})"


def squashed_pass(
    config: ConfigDict,
    model: ToCo,
    params: dict,
    source: Any,
    places: list[int],
    *,
    size: int,
    batch_size: int,
    watch: Stopwatch,
) -> Results:
    """Every image squashed to `size` pixels, single scale: what training logs."""
    mesh = local_mesh()
    batch_size = -(-batch_size // mesh.size) * mesh.size
    batches = eval_batches(
        Part(source, places),
        batch_size=batch_size,
        size=size,
        num_threads=config.machine.num_threads,
    )
    predictions = squashed.predictions(
        squashed.make_eval_step(config, model, mesh),
        jax.device_put(params, replicated(mesh)),
        batches,
        mesh,
        bkg_thre=config.bkg_thre,
    )
    num_labels = len(source.class_names) + 1
    for place in places:
        with watch("squashed"):
            prediction = next(predictions)
        mask = prediction.record["mask"]
        counts = {
            f"confusion/{name}/{size}": metrics.confusion_matrix(mask, label, num_labels)
            for name, label in prediction.labels.items()
        }
        yield place, counts | _f1(prediction.record, prediction.classes, str(size))


def _f1(record: dict, classes: np.ndarray, protocol: str) -> scoring.Counts:
    f1 = metrics.multilabel_f1(record["cls_label"], classes)
    return {f"f1/{protocol}": np.array([float(f1), 1.0])}


@dataclasses.dataclass(frozen=True)
class NativeCounts:
    """Counts of one image at its own size, and the files that were asked for.

    Attributes:
        num_labels: labels, background included.
        bkg_thre: CAM values up to it are background.
        protocols: `NATIVE`, `CRF` or both.
        sweep: whether CAMs are counted at every one of `scoring.THRESHOLDS`.
        watch: counts the stages.
        crf: image, probabilities `[H, W, K]` and settings to refined probabilities.
        crf_settings: of `ops.crf.dense_crf`, for the segmentation.
        write_pseudo_label: takes a record and the CAMs of its classes; None to write none.
        probs_dir: where probabilities go; None to write none.
    """

    num_labels: int
    bkg_thre: float
    protocols: tuple[str, ...]
    sweep: bool
    watch: Stopwatch
    crf: Callable[..., np.ndarray]
    crf_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    write_pseudo_label: Callable[[dict, np.ndarray], None] | None = None
    probs_dir: pathlib.Path | None = None

    def __call__(self, record: dict[str, Any], maps: Maps) -> scoring.Counts:
        """Counts of a record with `mask` and `cls_label`."""
        counts = {}
        for protocol in {NATIVE, CRF} & set(self.protocols):
            counts |= _f1(record, maps.cls_logits > 0, protocol)
        with self.watch("segmentation"):
            logits = maps.seg_logits()
        if NATIVE in self.protocols:
            counts |= self._seg(record, logits, NATIVE)
            counts |= self._cams(record, maps)
        if CRF in self.protocols:
            with self.watch("segmentation"):
                probs = softmax(logits)
            with self.watch("CRF"):
                probs = self.crf(record["image"], probs, **self.crf_settings)
            counts |= self._seg(record, probs, CRF)
        return counts

    def _seg(self, record: dict, scores: np.ndarray, protocol: str) -> scoring.Counts:
        with self.watch("counting"):
            label = scores.argmax(axis=-1)
            confusion = metrics.confusion_matrix(record["mask"], label, self.num_labels)
        if self.probs_dir is not None:
            with self.watch("writing"):
                probs = softmax(scores) if protocol == NATIVE else scores
                folder = self.probs_dir / protocol
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{record['name']}.npz"
                np.savez_compressed(path, probs=probs.astype(np.float16))
        return {f"confusion/seg/{protocol}": confusion}

    def _cams(self, record: dict, maps: Maps) -> scoring.Counts:
        counts = {}
        mask, classes = record["mask"], np.flatnonzero(record["cls_label"])
        for name in ("cam", "aux_cam"):
            with self.watch("CAM"):
                cam = maps.cam_of(name, classes)
                value = cam.max(axis=-1, initial=0)
                label = np.zeros(mask.shape, np.int64)
                if len(classes):
                    label = classes[cam.argmax(axis=-1)] + 1
            with self.watch("counting"):
                shown = label * (value > self.bkg_thre)
                key = f"{name}/{NATIVE}"
                confusion = metrics.confusion_matrix(mask, shown, self.num_labels)
                counts[f"confusion/{key}"] = confusion
                if self.sweep:
                    args = (mask, value, label, self.num_labels)
                    counts[f"sweep/{key}"] = scoring.sweep_counts(*args)
            if name == "cam" and self.write_pseudo_label is not None:
                with self.watch("pseudo label"):
                    self.write_pseudo_label(record, cam)
        return counts


def native_pass(
    network: NativeNetwork,
    source: Any,
    places: list[int],
    count: NativeCounts,
    *,
    num_threads: int,
    num_finishers: int,
) -> Results:
    """Every image at its own size through all scales; images of like shape go together."""

    def read(place: int) -> dict[str, Any]:
        return source[place] | {"place": place}

    with (
        ThreadPoolExecutor(max(num_threads, 1)) as readers,
        ThreadPoolExecutor(num_finishers) as finishers,
    ):
        results = stream(network, places, read, readers, count.watch)
        for record, counts in finished(results, count, finishers, ahead=2 * num_finishers):
            yield record["place"], counts
