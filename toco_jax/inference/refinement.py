"""Refines the network's maps: a dense CRF for probabilities, CRF or PAR for pseudo labels."""

import collections
import functools
import inspect
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toco_jax.data.mask_files import write_mask
from toco_jax.inference.buckets import Size
from toco_jax.inference.native import softmax
from toco_jax.method.par import refine_pseudo_label
from toco_jax.ops.crf import dense_crf
from toco_jax.ops.gaussian import GaussianKernel, gaussian_kernel
from toco_jax.runtime.host_memory import keep_memory

Crf = Callable[..., np.ndarray]
# Number of CRF calls that form one batch on a device.
_CRF_BATCH = 4
# The CRF's settings for CAMs: narrower in space and colour than for segmentation (section 4.1).
SEED_CRF = {"gaussian_xy": 3.0, "gaussian_weight": 3.0}
SEED_CRF |= {"bilateral_xy": 36.0, "bilateral_rgb": 3.0, "bilateral_weight": 4.0}


def refine_probs(
    image: np.ndarray, probs: np.ndarray, frame: Size, **settings: float
) -> np.ndarray:
    """Refines probabilities with a dense CRF on this process's default device.

    Args:
        image: uint8 `[H, W, 3]`.
        probs: float32 `[H, W, K]`, summing to 1.
        frame: `(height, width)` to which both are padded, so that few programs are compiled.
        **settings: keyword arguments of `ops.crf.dense_crf`.

    Returns:
        float32 `[H, W, K]`.
    """
    refined = _jitted_crf(_key_of(settings))(*_crf_arrays(image, probs, frame, settings))
    return np.asarray(refined)[: image.shape[0], : image.shape[1]]


def _key_of(settings: dict[str, Any]) -> tuple:
    return tuple(sorted(settings.items()))


def _crf_arrays(
    image: np.ndarray, probs: np.ndarray, frame: Size, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, GaussianKernel | None]:
    """Returns the padded image and probabilities, their size, and the spatial kernel for it."""
    height, width = image.shape[:2]
    pad = ((0, frame[0] - height), (0, frame[1] - width), (0, 0))
    parameters = inspect.signature(dense_crf).parameters
    used = {name: one.default for name, one in parameters.items()} | settings
    kernel = None
    if not used["exact_gaussian"]:
        kernel = gaussian_of_size((height, width), frame, used["gaussian_xy"])
    true_size = np.array([height, width], np.int32)
    return np.pad(image, pad), np.pad(probs, pad), true_size, kernel


@functools.lru_cache(maxsize=32)
def gaussian_of_size(size: Size, frame: Size, sigma: float) -> GaussianKernel:
    """Returns the CRF's spatial kernel, computed once per image size."""
    return _jitted_gaussian(frame, sigma)(np.array(size, np.int32))


@functools.cache
def _jitted_gaussian(frame: Size, sigma: float) -> Callable:
    return jax.jit(lambda size: gaussian_kernel(frame, size, sigma))


@functools.cache
def _jitted_crf(settings: tuple) -> Callable:
    def refine(image, probs, size, kernel):
        return dense_crf(image, probs, size=size, gaussian=kernel, **dict(settings))

    return jax.jit(refine)


@functools.cache
def _jitted_batch(settings: tuple) -> Callable:
    """Returns a compiled function that refines the first `count` of `_CRF_BATCH` calls."""

    def refine(calls: tuple, count: jax.Array) -> tuple[jax.Array, ...]:
        batch = jax.tree.map(lambda *arrays: jnp.stack(arrays), *calls)

        def refine_one(i: jax.Array, refined: jax.Array) -> jax.Array:
            arrays = jax.tree.map(lambda array: array[i], batch)
            return refined.at[i].set(_jitted_crf(settings)(*arrays))

        return tuple(lax.fori_loop(0, count, refine_one, jnp.zeros_like(batch[1])))

    return jax.jit(refine)


@contextmanager
def device_crf(frame_of: Callable[[Size], Size]) -> Iterator[Crf]:
    """Yields a function `crf(image, probs, **settings)` for several threads to call.

    It computes what `refine_probs` does. One thread feeds the default device. Calls that wait while
    it is busy form a batch if they have the same frame, number of classes and settings. `frame_of`
    maps the size of an image to the size it is padded to.
    """
    waiting: dict[tuple, collections.deque] = {}

    def run_batch(key: tuple) -> None:
        # Each call submits one `run_batch`; an earlier one may have processed the call already.
        count = min(len(waiting[key]), _CRF_BATCH)
        batch = [waiting[key].popleft() for _ in range(count)]
        if not batch:
            return
        try:
            calls = [jax.device_put(arrays) for arrays, _ in batch]
            calls += [calls[-1]] * (_CRF_BATCH - count)
            refined = _jitted_batch(key[0])(tuple(calls), count)
            results = [np.asarray(array) for array in refined[:count]]
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)

    def crf(image: np.ndarray, probs: np.ndarray, **settings: Any) -> np.ndarray:
        height, width = image.shape[:2]
        frame = frame_of((height, width))
        future: Future[np.ndarray] = Future()
        key = _key_of(settings), frame, probs.shape[2], image.dtype, probs.dtype
        arrays = _crf_arrays(image, probs, frame, settings)
        waiting.setdefault(key, collections.deque()).append((arrays, future))
        feeder.submit(run_batch, key)
        return future.result()[:height, :width]

    with ThreadPoolExecutor(1) as feeder:
        yield crf


def _enter_worker() -> None:
    """Gives a worker one thread, as there is a worker for each core, and no accelerator.

    Without keeping its memory it would take twice the time outside the CRF's iterations.
    """
    os.environ.setdefault("PJRT_NPROC", "1")
    jax.config.update("jax_platforms", "cpu")
    keep_memory()


@contextmanager
def crf_workers(num: int, frame_of: Callable[[Size], Size]) -> Iterator[Crf]:
    """Yields a function `crf(image, probs, **settings)` for several threads to call.

    It computes what `refine_probs` does. On a CPU each call runs in one of `num` processes of one
    thread each, while the network runs in this one; on a GPU or TPU it runs on the device, see
    `device_crf`. Processes start at the first call.
    """
    if jax.default_backend() != "cpu":
        with device_crf(frame_of) as on_device:
            yield on_device
        return

    def crf(image: np.ndarray, probs: np.ndarray, **settings: float) -> np.ndarray:
        frame = frame_of(image.shape[:2])
        return pool.submit(refine_probs, image, probs, frame, **settings).result()

    pool = ProcessPoolExecutor(num, multiprocessing.get_context("spawn"), initializer=_enter_worker)
    try:
        yield crf
    finally:
        pool.shutdown(cancel_futures=True)


def par_labels(
    image: np.ndarray,
    cam: np.ndarray,
    frame: Size,
    *,
    high_thre: float,
    low_thre: float,
    num_present: int,
) -> np.ndarray:
    """Computes pseudo labels from CAMs refined by PAR (paper, section 3.2).

    Args:
        image: uint8 `[H, W, 3]`.
        cam: `[H, W, n]` in [0, 1], one channel for each class in the image.
        frame: `(height, width)` to which both are padded, so that few programs are compiled.
        high_thre: background score that a class must exceed for a foreground label.
        low_thre: background score that must exceed every class for a background label.
        num_present: the most foreground classes in any image of the data.

    Returns:
        `[H, W]`: 0 for background, k for channel k - 1 of the CAM, 255 for uncertain pixels.
    """
    height, width = image.shape[:2]
    pad = ((0, frame[0] - height), (0, frame[1] - width), (0, 0))
    missing = num_present - cam.shape[-1]
    padded = np.pad(np.pad(cam, pad, mode="edge"), ((0, 0), (0, 0), (0, missing)))
    present = np.arange(num_present) < cam.shape[-1]
    label = _jitted_par()(
        np.pad(image, pad, mode="edge")[None].astype(np.float32) / 255,
        padded[None],
        present[None].astype(np.float32),
        np.array([[0, height, 0, width]], np.int32),
        high_thre=high_thre,
        low_thre=low_thre,
    )
    return np.asarray(label[0, :height, :width])


@functools.cache
def _jitted_par() -> Callable:
    unrolled = jax.default_backend() != "cpu"
    return jax.jit(functools.partial(refine_pseudo_label, unrolled=unrolled))


def crf_labels(
    image: np.ndarray,
    cam: np.ndarray,
    crf: Crf,
    *,
    high_thre: float,
    low_thre: float,
    num_present: int,
) -> np.ndarray:
    """Returns labels like those of `par_labels`, refined by a dense CRF at the image's size."""
    missing = num_present - cam.shape[-1]
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
    labels: np.ndarray | None = None,
    **settings: Any,
) -> Callable[[dict[str, Any], np.ndarray], None]:
    """Makes a function that writes an image's pseudo labels as `<name>.png`.

    The labels are refined CAMs; 255 marks uncertain pixels.

    Args:
        folder: the folder of the files; it is created if needed.
        crf: a CRF that refines the labels in place of PAR; PAR if None.
        frame_of: maps the size of an image to the size it is padded to.
        labels: the value to write for each label, background first; the label itself if None.
        **settings: `high_thre`, `low_thre` and `num_present` of `par_labels`.

    Returns:
        A function of a record and the CAMs `[H, W, n]` of the n classes in its image.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write(record: dict[str, Any], cam: np.ndarray) -> None:
        image, classes = record["image"], np.flatnonzero(record["cls_label"])
        if crf is not None:
            channel = crf_labels(image, cam, crf, **settings)
        else:
            channel = par_labels(image, cam, frame_of(image.shape[:2]), **settings)
        class_of = np.full(256, 255, np.uint8)
        own = np.array([0, *(classes + 1)])
        class_of[: len(own)] = own if labels is None else labels[own]
        path = folder / f"{record['name']}.png"
        path.parent.mkdir(parents=True, exist_ok=True)  # the name may have folders
        write_mask(path, class_of[channel])

    return write
