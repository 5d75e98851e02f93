"""The protocols of an image's own size: at several scales, and that refined by a dense CRF.

The last stages of an image run in threads beside the network.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from toco_jax.config.maps import scored_maps
from toco_jax.data.renumbered import Renumbered
from toco_jax.evaluation import baselines, counting, scoring
from toco_jax.evaluation.counting import Counts, Results
from toco_jax.evaluation.protocols import CRF, NATIVE
from toco_jax.inference import refinement
from toco_jax.inference.native import Maps, NativeNetwork, network_of, softmax
from toco_jax.inference.stream import finished
from toco_jax.run.runs import Run
from toco_jax.runtime.stopwatch import Stopwatch


@dataclasses.dataclass(frozen=True)
class Extras:
    """What the passes at native size do beside counting.

    Attributes:
        crf_settings: approximations of the CRF protocol, as `ops.crf.dense_crf` takes them.
        pseudo_labels: folder that receives CAM labels; None writes none.
        refine: what refines those, one of `REFINERS`.
        formats: formats of other tools in which those are written, too.
        polygons: whether formats that know both describe shapes by polygons.
        probs: folder that receives probabilities, float16 and compressed; None writes none.
        baselines: whether `data.label_maps.BASELINES` are counted as well.
    """

    crf_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    pseudo_labels: pathlib.Path | None = None
    refine: str = "par"
    formats: tuple[str, ...] = ()
    polygons: bool = False
    probs: pathlib.Path | None = None
    baselines: bool = False


REFINERS = ("par", "crf")


@dataclasses.dataclass(frozen=True)
class NativeCounts:
    """Counts one image at its own size, and writes the files that were asked for.

    Attributes:
        num_labels: K, background included.
        bkg_thre: CAM values up to it are background.
        protocols: names that include `NATIVE`, `CRF` or both.
        maps: those of `seg`, `cam` and `aux_cam` that are counted.
        sweep: whether CAMs are also counted at each of `scoring.THRESHOLDS`.
        watch: counts the time of the stages.
        crf: refines probabilities `[H, W, K]`, given the image, them and settings.
        crf_settings: settings of `ops.crf.dense_crf` for the segmentation.
        write_pseudo_label: takes a record and the CAMs of its classes; None writes none.
        probs_dir: folder that receives probabilities; None writes none.
        patch: side of a patch in pixels where `data.label_maps.BASELINES` are counted, else 0.
    """

    num_labels: int
    bkg_thre: float
    protocols: tuple[str, ...]
    maps: tuple[str, ...]
    sweep: bool
    watch: Stopwatch
    crf: Callable[..., np.ndarray]
    crf_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    write_pseudo_label: Callable[[dict, np.ndarray], None] | None = None
    probs_dir: pathlib.Path | None = None
    patch: int = 0

    def __call__(self, record: dict[str, Any], maps: Maps) -> Counts:
        """Counts a record with `mask` and `cls_label`, given what the network says about it."""
        counts: Counts = {}
        for protocol in {NATIVE, CRF} & set(self.protocols):
            predicted = maps.cls_logits > 0
            counts |= counting.classes(record["cls_label"], predicted, protocol=protocol)
        with self.watch("segmentation"):
            logits = maps.seg_logits()
        if NATIVE in self.protocols:
            counts |= self._seg(record, logits, NATIVE)
            counts |= self._cams(record, maps)
            if self.patch:
                counts |= self._baselines(record, logits)
        if CRF in self.protocols:
            with self.watch("segmentation"):
                probs = softmax(logits)
            with self.watch("CRF"):
                probs = self.crf(record["image"], probs, **self.crf_settings)
            counts |= self._seg(record, probs, CRF)
        return counts

    def _baselines(self, record: dict, scores: np.ndarray) -> Counts:
        grid = tuple(max(side // self.patch, 1) for side in record["mask"].shape)
        found = baselines.label_maps(record["mask"], record["cls_label"], scores, grid)
        counts: Counts = {}
        for name, label in found.items():
            counts |= self._pixels(record, label, name, NATIVE)
        return counts

    def _seg(self, record: dict, scores: np.ndarray, protocol: str) -> Counts:
        counts: Counts = {}
        if "seg" in self.maps:
            counts |= self._pixels(record, scores.argmax(axis=-1), "seg", protocol)
        if self.probs_dir is not None:
            with self.watch("writing"):
                probs = softmax(scores) if protocol == NATIVE else scores
                path = self.probs_dir / protocol / f"{record['name']}.npz"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(path, probs=probs.astype(np.float16))
        return counts

    def _pixels(self, record: dict, label: np.ndarray, predictor: str, protocol: str) -> Counts:
        names = {"predictor": predictor, "protocol": protocol}
        with self.watch("counting"):
            return counting.pixels(record["mask"], label, self.num_labels, **names)

    def _cams(self, record: dict, maps: Maps) -> Counts:
        counts: Counts = {}
        mask, classes = record["mask"], np.flatnonzero(record["cls_label"])
        for name in ("cam", "aux_cam"):
            with self.watch("CAM"):
                cam = maps.cam_of(name, classes)
                value = cam.max(axis=-1, initial=0)
                label = np.zeros(mask.shape, np.int64)
                if len(classes):
                    label = classes[cam.argmax(axis=-1)] + 1
            if name in self.maps:
                counts |= self._pixels(record, label * (value > self.bkg_thre), name, NATIVE)
            if name in self.maps and self.sweep:
                with self.watch("counting"):
                    sweep = scoring.sweep_counts(mask, value, label, self.num_labels)
                    counts[f"sweep/{name}/{NATIVE}"] = sweep
            if name == "cam" and self.write_pseudo_label is not None:
                with self.watch("pseudo label"):
                    self.write_pseudo_label(record, cam)
        return counts


def native_pass(
    run: Run,
    source: Any,
    places: Sequence[int],
    *,
    protocols: Sequence[str],
    extras: Extras,
    batch_size: int,
    num_threads: int,
    watch: Stopwatch,
    report: Callable[[str], None],
) -> Results:
    """Counts the images at `places` of a source at their own size by `NATIVE`, `CRF` or both.

    The source has masks and the network's classes. `num_threads` is also the number of CRF
    processes on a CPU. `report` receives a line on the shapes that the network was compiled for.
    """
    network = network_of(run, batch_size=batch_size)

    def read(place: int) -> dict[str, Any]:
        return source[place] | {"place": place}

    with refinement.crf_workers(num_threads, network.buckets.frame) as crf:
        count = NativeCounts(
            num_labels=run.config.num_classes + 1,
            bkg_thre=run.config.bkg_thre,
            protocols=tuple(protocols),
            maps=scored_maps(run.config),
            sweep=source.split.startswith("train"),
            watch=watch,
            crf=crf,
            crf_settings=extras.crf_settings,
            write_pseudo_label=_pseudo_label_writer(run, source, network, crf, extras),
            probs_dir=extras.probs,
            patch=run.model.backbone.patch if extras.baselines else 0,
        )
        results = finished(network, places, read, count, num_threads=num_threads, watch=watch)
        for record, counts in results:
            yield record["place"], counts
    shapes = ", ".join(f"{height}x{width}" for height, width in sorted(network.shapes))
    report(f"network compiled for {len(network.shapes)} shapes (in patches): {shapes}")


def _pseudo_label_writer(
    run: Run, source: Any, network: NativeNetwork, crf: refinement.Crf, extras: Extras
) -> Callable[[dict[str, Any], np.ndarray], None] | None:
    if extras.pseudo_labels is None:
        return None
    return refinement.pseudo_label_writer(
        extras.pseudo_labels,
        crf=crf if extras.refine == "crf" else None,
        frame_of=network.buckets.frame,
        high_thre=run.config.high_thre,
        low_thre=run.config.low_thre,
        num_present=source.num_present,
        # Numbered as the data set is, because the second network is trained on the data set.
        labels=source.own_labels() if isinstance(source, Renumbered) else None,
    )
