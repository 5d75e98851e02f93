"""CRF in worker processes and pseudo labels made from CAMs."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import photo

from toco_jax import refinement
from toco_jax.ops.crf import dense_crf
from toco_jax.par import refine_pseudo_label

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


def test_workers_refine_padded_probabilities_like_the_plain_call(crf, probs):
    image = photo(SIZE, 0)
    refined = crf(image, probs, **refinement.SEED_CRF)
    plain = functools.partial(dense_crf, **refinement.SEED_CRF)
    expected = jax.jit(plain, compiler_options={"xla_backend_optimization_level": 0})(image, probs)
    np.testing.assert_allclose(refined, expected, atol=1e-3)
    assert np.abs(refined - probs).max() > 0.1


def test_crf_labels_are_uncertain_between_foreground_and_background(crf, cam):
    label = refinement.crf_labels(photo(SIZE, 1), cam, crf, max_classes=4, **THRESHOLDS)
    assert label.shape == SIZE
    assert set(np.unique(label)) <= {0, 1, 2, 255}
    assert (label[:, -4:] == 1).all() and (label[:, :4] == 2).all()


def test_par_labels_are_those_of_training(cam):
    image = photo(SIZE, 1)
    settings = THRESHOLDS | {"max_classes": 4}
    label = refinement.par_labels(image, cam, SIZE, **settings)
    scattered = np.zeros((1, *SIZE, 6), np.float32)
    scattered[0, ..., [2, 5]] = np.moveaxis(cam, -1, 0)
    cls_label = np.float32([[0, 0, 1, 0, 0, 1]])
    expected = jax.jit(refine_pseudo_label, static_argnames="max_classes")(
        image[None].astype(np.float32) / 255,
        scattered,
        cls_label,
        np.int32([[0, SIZE[0], 0, SIZE[1]]]),
        **settings,
    )[0]
    class_of = np.full(256, 255)
    class_of[:3] = (0, 3, 6)
    np.testing.assert_array_equal(class_of[label], expected)
    padded = refinement.par_labels(image, cam, FRAME, **settings)
    assert (padded == label).mean() > 0.9


@pytest.mark.parametrize("classes", [(), (4,)])
def test_pseudo_labels_are_written_as_class_ids(tmp_path, classes):
    write = refinement.pseudo_label_writer(
        tmp_path, crf=None, frame_of=lambda size: FRAME, max_classes=4, **THRESHOLDS
    )
    cls_label = np.zeros(20, np.float32)
    cls_label[list(classes)] = 1
    write(
        {"name": "a", "image": photo(SIZE, 2), "cls_label": cls_label},
        np.ones((*SIZE, len(classes)), np.float32),
    )
    label = np.asarray(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(label, 5 if classes else 0)
