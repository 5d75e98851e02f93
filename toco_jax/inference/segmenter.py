"""The `Segmenter`: a trained network as a Python object that turns images into masks."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from PIL import Image

from toco_jax.data.photos import as_rgb, read_photo
from toco_jax.inference.native import (
    SEG_SCALES,
    Maps,
    NativeNetwork,
    Size,
    default_batch_size,
    network_of,
    resize_map,
    softmax,
)
from toco_jax.inference.refinement import refine_probs
from toco_jax.inference.stream import stream
from toco_jax.run import runs
from toco_jax.runtime.errors import UserError

SOURCES = ("seg", "cam", "aux_cam")


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The segmentation of one image.

    Attributes:
        mask: labels uint8 `[H, W]` at the image's size, background 0.
        class_scores: `[C]` float32 in [0, 1], the classifier's probability of each class.
        classes: ids in 0..C-1 of the predicted classes, whose probability reaches the threshold.
        cams: `[h, w, len(classes)]` float32 in [0, 1], at the size that was segmented; None if the
            segmenter was made without CAMs.
        segmented_at: the size `(h, w)` at which the network saw the image; smaller than the image
            if a side exceeds `max_side`.
    """

    mask: np.ndarray
    class_scores: np.ndarray
    classes: np.ndarray
    cams: np.ndarray | None
    segmented_at: Size


class Segmenter:
    """Segments images of any size with a trained network.

    `Segmenter("runs/x")(image)` is the mask of an image; a list of images gives a list of masks.

    Attributes:
        class_names: names of the labels 1, 2, ...; 0 is background.
        max_side: images with a longer side are scaled down to it before they are segmented.

    Args:
        checkpoint: a run's folder, one checkpoint in it, or `hf:owner/name[@revision]`.
        source: what the mask is made from: `"seg"` the decoder, `"cam"` or `"aux_cam"` the class
            activation maps of the predicted classes.
        threshold: classifier probability in [0, 1] from which a class counts as predicted.
        max_side: in pixels; by default 500 for a network trained at 448, in proportion for others.
        multi_scale: whether to use several scales, as the published figures do, or scale 1 alone.
        with_cams: whether `segment` also computes CAMs.
        crf: whether a dense CRF refines the decoder's mask.
        propagate_cams: whether CAMs are spread by the encoder's attention also if the run was
            trained without.
        batch_size: images per batch; by default 1 per CPU device and 8 per GPU or TPU.

    Raises:
        CheckpointError: there is no run; `HubError`: the hub refuses it.
        UserError: the source is unknown, a number is out of range, or `crf` does not go with the
            source.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        source: str = "seg",
        threshold: float = 0.5,
        max_side: int | None = None,
        multi_scale: bool = True,
        with_cams: bool = False,
        crf: bool = False,
        propagate_cams: bool = False,
        batch_size: int | None = None,
    ):
        if source not in SOURCES:
            raise UserError(f"source={source!r} must be one of {', '.join(SOURCES)}")
        if crf and source != "seg":
            raise UserError(
                f"crf refines the decoder's mask, but masks are made from {source!r}: omit crf, or "
                "make them from 'seg'"
            )
        if not 0 <= threshold <= 1:
            raise UserError(f"threshold={threshold} must lie in 0..1")
        if max_side is not None and max_side < 1:
            raise UserError(f"max_side={max_side} must be at least 1")
        self._run = runs.load(checkpoint, propagate_cams=propagate_cams)
        self._source, self._threshold, self._crf = source, threshold, crf
        self._with_cams = with_cams or source != "seg"
        cam_scales = tuple(self._run.config.cam_scales) if multi_scale else (1.0,)
        seg_scales = SEG_SCALES if multi_scale else (1.0,)
        self._network: NativeNetwork = network_of(
            self._run,
            batch_size=batch_size or default_batch_size(),
            seg_scales=seg_scales if source == "seg" else (),
            cam_scales=cam_scales if self._with_cams else (),
        )
        self.class_names = self._run.class_names
        self.max_side = max_side or self._network.buckets.longest
        self.step = self._run.step

    def __call__(self, images: Any) -> np.ndarray | list[np.ndarray]:
        """Segments one image or several.

        Args:
            images: one image, or a list or an array `[B, H, W, 3]` of images. An image is a path, a
                PIL picture, or an array that `photos.as_rgb` accepts.

        Returns:
            For each image a mask uint8 `[H, W]` of its size with labels 0..C, 0 for background.

        Raises:
            PhotoError: a file cannot be read as a picture.
            ValueError: an array is not an image.
        """
        is_single = isinstance(images, (str, os.PathLike, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        batch = [images] if is_single else list(images)

        def read(place: int) -> dict[str, Any]:
            image = batch[place]
            if isinstance(image, (str, os.PathLike)):
                return {"image": read_photo(image)[0], "place": place}
            return {"image": as_rgb(image), "place": place}

        masks: list = [None] * len(batch)
        for record, result in self.segment(range(len(batch)), read):
            masks[record["place"]] = result.mask
        return masks[0] if is_single else masks

    def segment(
        self, jobs: Iterable, read: Callable[[Any], dict[str, Any] | None]
    ) -> Iterator[tuple[dict[str, Any], Segmentation]]:
        """Yields records and their segmentations, not always in the order of the jobs.

        Args:
            jobs: what to read.
            read: returns the record of a job, with its `image`, uint8 `[H, W, 3]`, or None to leave
                it out. It is called in threads.
        """

        def scaled(job: Any) -> dict[str, Any] | None:
            record = read(job)
            if record is None:
                return None
            return {"record": record, "image": scaled_down(record["image"], self.max_side)}

        threads = os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            for small, maps in stream(self._network, jobs, scaled, pool):
                yield small["record"], self._finish(small["record"]["image"], small["image"], maps)

    def _finish(self, image: np.ndarray, small: np.ndarray, maps: Maps) -> Segmentation:
        class_scores = 1 / (1 + np.exp(-maps.cls_logits))
        classes = np.flatnonzero(class_scores >= self._threshold)
        cams = maps.cam_of("cam", classes) if self._with_cams else None
        size = image.shape[:2]
        if self._source == "seg":
            mask = best_label(self._seg_scores(small, maps), size)
        else:
            cam = cams if self._source == "cam" else maps.cam_of(self._source, classes)
            background = np.full((*maps.size, 1), self._run.config.bkg_thre, np.float32)
            label_of = np.array([0, *(classes + 1)], np.uint8)
            mask = label_of[best_label(np.concatenate([background, cam], axis=-1), size)]
        return Segmentation(mask, class_scores, classes, cams, maps.size)

    def _seg_scores(self, small: np.ndarray, maps: Maps) -> np.ndarray:
        logits = maps.seg_logits()
        if not self._crf:
            return logits
        return refine_probs(small, softmax(logits), self._network.buckets.frame(maps.size))


def scaled_down(image: np.ndarray, max_side: int) -> np.ndarray:
    """Scales an image uint8 `[H, W, 3]` so that no side exceeds `max_side` pixels."""
    longest = max(image.shape[:2])
    if longest <= max_side:
        return image
    size = [max(round(side * max_side / longest), 1) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def best_label(scores: np.ndarray, size: Size) -> np.ndarray:
    """Returns the index of the highest channel at each pixel, after resizing to `size`.

    Channels are resized one at a time, so that a large photo does not need K planes of its size. If
    channels are equal, the first wins.

    Args:
        scores: float32 `[h, w, K]`.
        size: `(H, W)` of the result.

    Returns:
        uint8 `[H, W]`.
    """
    best = np.full(size, -np.inf, np.float32)
    label = np.zeros(size, np.uint8)
    for k in range(scores.shape[-1]):
        plane = resize_map(np.ascontiguousarray(scores[..., k : k + 1]), size)[..., 0]
        better = plane > best
        label[better] = k
        best = np.where(better, plane, best)
    return label
