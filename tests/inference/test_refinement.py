"""CRF in worker processes and pseudo labels made from CAMs."""

import functools
import itertools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import photo

from toco_jax.inference import refinement
from toco_jax.method.par import refine_pseudo_label
from toco_jax.ops.crf import dense_crf
from toco_jax.ops.gaussian import gaussian_kernel

SIZE, FRAME = (20, 30), (24, 32)
THRESHOLDS = {"high_thre": 0.7, "low_thre": 0.25}


@pytest.fixture(scope="module")
def probs():
    values = np.random.default_rng(0).random((*SIZE, 4), np.float32)
    return values / values.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def crf():
    with refinement.crf_workers(1, lambda size: FRAME) as crf:
        yield crf


@pytest.fixture(scope="module")
def cam():
    """Two classes, each strong in one half."""
    slope = np.linspace(0, 1, SIZE[1], dtype=np.float32)
    return np.stack([np.tile(slope, (SIZE[0], 1)), np.tile(slope[::-1], (SIZE[0], 1))], axis=-1)


def test_the_crf_of_cams_has_the_published_settings():
    assert refinement.SEED_CRF == {
        "gaussian_xy": 3,
        "gaussian_weight": 3,
        "bilateral_xy": 36,
        "bilateral_rgb": 3,
        "bilateral_weight": 4,
    }


def test_workers_refine_padded_probabilities_like_the_plain_call(crf, probs):
    image = np.array(photo(SIZE, 0))
    image[10:, 15:] = 0  # as dark as the padding, which must not count
    refined = crf(image, probs, **refinement.SEED_CRF)
    plain = functools.partial(dense_crf, **refinement.SEED_CRF)
    expected = jax.jit(plain, compiler_options={"xla_backend_optimization_level": 0})(image, probs)
    np.testing.assert_allclose(refined, expected, atol=1e-3)
    assert np.abs(refined - probs).max() > 0.1


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.delenv("PJRT_NPROC", raising=False)
    before = dict(os.environ)
    with refinement.crf_workers(1, lambda size: FRAME):
        assert os.environ == before


def test_the_spatial_kernel_is_made_once_for_a_size(probs, monkeypatch):
    made = []

    def counted(*args):
        made.append(args)
        return gaussian_kernel(*args)

    monkeypatch.setattr(refinement, "gaussian_kernel", counted)
    refinement.gaussian_of_size.cache_clear()
    settings = refinement.SEED_CRF | {"gaussian_xy": 5.0, "iterations": 1}  # as no other test
    first = refinement.refine_probs(photo(SIZE, 0), probs, FRAME, **settings)
    again = refinement.refine_probs(photo(SIZE, 1), probs, FRAME, **settings)
    info = refinement.gaussian_of_size.cache_info()
    assert (info.misses, info.hits, len(made)) == (1, 1, 1)
    assert np.abs(first - again).max() > 0
    # Another size is another kernel of the same program.
    refinement.refine_probs(photo(SIZE, 0)[:-1], probs[:-1], FRAME, **settings)
    assert (refinement.gaussian_of_size.cache_info().misses, len(made)) == (2, 1)


def test_the_device_refines_what_waits_in_batches(probs, monkeypatch):
    sizes = [SIZE, SIZE, (18, 30), (20, 25), (13, 21), SIZE]
    images = [photo(size, i) for i, size in enumerate(sizes)]
    given = [probs[: size[0], : size[1]] for size in sizes]
    other = refinement.SEED_CRF | {"gaussian_weight": 1.0}
    settings = [other] + [refinement.SEED_CRF] * 5
    events, busy, asked = [], threading.Event(), threading.Semaphore(0)
    device_put = jax.device_put

    class Announced(Future):
        def result(self, timeout=None):
            asked.release()
            return super().result(timeout)

        def set_result(self, result):
            if "done" not in events:  # the device is busy with the first call until all others wait
                busy.set()
                assert all(asked.acquire(timeout=60) for _ in sizes)
            events.append("done")
            super().set_result(result)

    def put(*args, **kwargs):
        events.append("put")
        return device_put(*args, **kwargs)

    monkeypatch.setattr(refinement, "Future", Announced)
    monkeypatch.setattr(jax, "device_put", put)
    with ThreadPoolExecutor(6) as threads, refinement.device_crf(lambda size: FRAME) as crf:
        calls = [threads.submit(crf, images[0], given[0], **settings[0])]
        assert busy.wait(60)
        for i in range(1, 6):
            calls.append(threads.submit(crf, images[i], given[i], **settings[i]))
        results = [call.result(120) for call in calls]
    monkeypatch.undo()
    counts = [(event, len(list(group))) for event, group in itertools.groupby(events)]
    assert counts == [("put", 1), ("done", 1), ("put", 4), ("done", 4), ("put", 1), ("done", 1)]
    for image, values, chosen, result in zip(images, given, settings, results, strict=True):
        expected = refinement.refine_probs(image, values, FRAME, **chosen)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_errors_reach_those_who_called_the_device(probs):
    image = photo(SIZE, 0)
    with refinement.device_crf(lambda size: FRAME) as crf:
        with ThreadPoolExecutor(2) as threads:
            bad = [threads.submit(crf, image, probs, bilateral_rgb=0.01) for _ in range(2)]
            for call in bad:
                with pytest.raises(ValueError, match="use larger sigmas"):
                    call.result(120)
        with pytest.raises(TypeError, match="sharpness"):
            crf(image, probs, sharpness=1.0)
        # A failed call leaves the others be.
        refined = crf(image, probs, **refinement.SEED_CRF)
    expected = refinement.refine_probs(image, probs, FRAME, **refinement.SEED_CRF)
    np.testing.assert_allclose(refined, expected, atol=1e-5)


def test_crf_labels_are_uncertain_between_foreground_and_background(crf, cam):
    label = refinement.crf_labels(photo(SIZE, 1), cam, crf, num_present=3, **THRESHOLDS)
    assert label.shape == SIZE
    assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert (label[:, -4:] == 1).all() and (label[:, :4] == 2).all()


def test_par_labels_are_those_of_training(cam):
    image = photo(SIZE, 1)
    settings = THRESHOLDS | {"num_present": 3}
    label = refinement.par_labels(image, cam, SIZE, **settings)
    scattered = np.zeros((1, *SIZE, 6), np.float32)
    scattered[0, ..., [2, 5]] = np.moveaxis(cam, -1, 0)
    cls_label = np.float32([[0, 0, 1, 0, 0, 1]])
    expected = jax.jit(refine_pseudo_label)(
        image[None].astype(np.float32) / 255,
        scattered,
        cls_label,
        np.int32([[0, SIZE[0], 0, SIZE[1]]]),
        **THRESHOLDS,
    )[0]
    class_of = np.full(256, 255)
    class_of[:3] = (0, 3, 6)
    np.testing.assert_array_equal(class_of[label], expected)
    padded = refinement.par_labels(image, cam, FRAME, **settings)
    assert (padded == label).mean() > 0.9


@pytest.mark.parametrize("classes", [(), (4,)])
def test_pseudo_labels_are_written_as_class_ids(tmp_path, classes):
    write = refinement.pseudo_label_writer(
        tmp_path, crf=None, frame_of=lambda size: FRAME, num_present=3, **THRESHOLDS
    )
    cls_label = np.zeros(20, np.float32)
    cls_label[list(classes)] = 1
    record = {"name": "a", "image": photo(SIZE, 2), "cls_label": cls_label}
    cam = np.ones((*SIZE, len(classes)), np.float32)
    write(record, cam)
    label = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(label, 5 if classes else 0)
    own = np.full(21, 255)
    own[[0, 5]] = 0, 1  # class 4 is the data set's first
    write = refinement.pseudo_label_writer(
        tmp_path, crf=None, frame_of=lambda size: FRAME, labels=own, num_present=3, **THRESHOLDS
    )
    write(record | {"name": "deep/er/a"}, cam)
    label = np.asarray(Image.open(tmp_path / "deep" / "er" / "a.png"))
    np.testing.assert_array_equal(label, 1 if classes else 0)
