"""What refines an evaluation's maps: the dense CRF beside the network, pseudo labels from CAMs."""

import functools
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from toco_jax.inference import Size, softmax
from toco_jax.mask_files import write_mask
from toco_jax.ops.crf import dense_crf
from toco_jax.par import refine_pseudo_label

Crf = Callable[..., np.ndarray]
# Of CAM seeds: narrower in space and in colour than for segmentation (paper, section 4.1).
SEED_CRF = {"gaussian_xy": 3.0, "gaussian_weight": 3.0}
SEED_CRF |= {"bilateral_xy": 36.0, "bilateral_rgb": 3.0, "bilateral_weight": 4.0}


def refine_probs(
    image: np.ndarray, probs: np.ndarray, frame: Size, **settings: float
) -> np.ndarray:
    """Probabilities `[H, W, K]` refined by a dense CRF on this process's default device.

    Args:
        image: uint8 `[H, W, 3]`.
        probs: float32 `[H, W, K]`, summing to 1.
        frame: size that both are padded to, so that few programs are compiled.
        **settings: of `ops.crf.dense_crf`.
    """
    height, width = image.shape[:2]
    pad = ((0, frame[0] - height), (0, frame[1] - width), (0, 0))
    refine = _jitted_crf(tuple(sorted(settings.items())))
    refined = refine(np.pad(image, pad), np.pad(probs, pad), size=np.int32([height, width]))
    return np.asarray(refined)[:height, :width]


@functools.cache
def _jitted_crf(settings: tuple) -> Callable:
    return jax.jit(functools.partial(dense_crf, **dict(settings)))


def _refine_in_worker(image, probs, frame: Size, settings: dict[str, Any]) -> np.ndarray:
    return refine_probs(image, probs, frame, **settings)


def _enter_worker() -> None:
    """A worker has one core and leaves the accelerators alone."""
    jax.config.update("jax_platforms", "cpu")


@contextmanager
def crf_workers(num: int, frame_of: Callable[[Size], Size]) -> Iterator[Crf]:
    """`crf(image, probs, **settings)` like `refine_probs`, to be called by several threads.

    On CPU each call runs in one of `num` processes with a core each, beside the network; on a GPU
    or TPU it runs on the device. Processes start with the first call.

    Args:
        num: worker processes.
        frame_of: size of an image to the size it is padded to.
    """
    if jax.default_backend() != "cpu":
        yield lambda image, probs, **settings: refine_probs(
            image, probs, frame_of(image.shape[:2]), **settings
        )
        return

    def crf(image: np.ndarray, probs: np.ndarray, **settings: float) -> np.ndarray:
        frame = frame_of(image.shape[:2])
        return pool.submit(_refine_in_worker, image, probs, frame, settings).result()

    # Read by XLA when a worker starts it: a thread pool in each would fight for the cores.
    flags = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{flags or ''} --xla_cpu_multi_thread_eigen=false"
    pool = ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), initializer=_enter_worker)
    try:
        yield crf
    finally:
        pool.shutdown(cancel_futures=True)
        if flags is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = flags


def par_labels(
    image: np.ndarray,
    cam: np.ndarray,
    frame: Size,
    *,
    high_thre: float,
    low_thre: float,
    max_classes: int,
) -> np.ndarray:
    """Labels `[H, W]` refined by PAR, as numbers of the CAM's channels from 1 (paper, section 3.2).

    Args:
        image: uint8 `[H, W, 3]`.
        cam: `[H, W, n]` in [0, 1], one channel a class of the image.
        frame: size that image and CAM are padded to, so that few programs are compiled.
        high_thre: background score that a foreground label has to beat.
        low_thre: background score that has to beat all classes for a background label.
        max_classes: most classes of any image, background included.
    """
    height, width = image.shape[:2]
    pad = ((0, frame[0] - height), (0, frame[1] - width), (0, 0))
    missing = max_classes - 1 - cam.shape[-1]
    padded = np.pad(np.pad(cam, pad, mode="edge"), ((0, 0), (0, 0), (0, missing)))
    present = np.arange(max_classes - 1) < cam.shape[-1]
    label = _jitted_par(max_classes)(
        np.pad(image, pad, mode="edge")[None].astype(np.float32) / 255,
        padded[None],
        present[None].astype(np.float32),
        np.int32([[0, height, 0, width]]),
        high_thre=high_thre,
        low_thre=low_thre,
    )
    return np.asarray(label[0, :height, :width])


@functools.cache
def _jitted_par(max_classes: int) -> Callable:
    return jax.jit(functools.partial(refine_pseudo_label, max_classes=max_classes))


def crf_labels(
    image: np.ndarray,
    cam: np.ndarray,
    crf: Crf,
    *,
    high_thre: float,
    low_thre: float,
    max_classes: int,
) -> np.ndarray:
    """Labels like those of `par_labels`, refined by a dense CRF at the image's size."""
    missing = max_classes - 1 - cam.shape[-1]
    absent = np.full((*cam.shape[:2], missing), -np.inf, np.float32)

    def run(background_score: float) -> np.ndarray:
        background = np.full((*cam.shape[:2], 1), background_score, np.float32)
        probs = softmax(np.concatenate([background, cam, absent], axis=-1))
        return crf(image, probs, **SEED_CRF)[..., : cam.shape[-1] + 1].argmax(axis=-1)

    high, low = run(high_thre), run(low_thre)
    return np.where(high > 0, high, np.where(low > 0, 255, 0))


def pseudo_label_writer(
    folder: pathlib.Path,
    *,
    crf: Crf | None,
    frame_of: Callable[[Size], Size],
    **settings: float,
) -> Callable[[dict[str, Any], np.ndarray], None]:
    """Writes refined CAM labels as `<name>.png`, 255 where uncertain.

    Args:
        folder: where the files go.
        crf: refines in place of PAR, where it is given.
        frame_of: size of an image to the size it is padded to.
        **settings: `high_thre`, `low_thre`, `max_classes` of `par_labels`.

    Returns:
        A function of a record and the CAMs `[H, W, n]` of its classes.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write(record: dict[str, Any], cam: np.ndarray) -> None:
        image, classes = record["image"], np.flatnonzero(record["cls_label"])
        if crf is not None:
            channel = crf_labels(image, cam, crf, **settings)
        else:
            channel = par_labels(image, cam, frame_of(image.shape[:2]), **settings)
        class_of = np.full(256, 255, np.uint8)
        class_of[: len(classes) + 1] = (0, *(classes + 1))
        write_mask(folder / f"{record['name']}.png", class_of[channel])

    return write
