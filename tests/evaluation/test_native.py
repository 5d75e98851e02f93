"""What is counted of one image at its own size, against plain loops over its pixels."""

import contextlib

import numpy as np
import pytest

from toco_jax.evaluation import metrics, native, scoring
from toco_jax.evaluation.protocols import CRF, NATIVE
from toco_jax.inference.native import softmax
from toco_jax.runtime.stopwatch import Stopwatch

SIZE = (5, 4)


class MadeUp:
    """In place of `inference.Maps`: maps of four classes, given at the image's size."""

    cls_logits = np.float32([0.1, -0.2, 3.0, -0.1])

    def __init__(self):
        rng = np.random.default_rng(0)
        self.logits = rng.standard_normal((*SIZE, 5)).astype(np.float32)
        self.maps = {name: rng.random((*SIZE, 4), np.float32) for name in ("cam", "aux_cam")}
        self.maps["cam"][0, 0] = (0.5, 0.0, 0.5, 0.0)  # at the threshold: background

    def seg_logits(self):
        return self.logits

    def cam_of(self, name, classes):
        return self.maps[name][..., classes]


@pytest.fixture
def maps():
    return MadeUp()


@pytest.fixture
def record():
    mask = np.random.default_rng(1).choice(np.uint8([0, 1, 2, 3, 4, 255]), SIZE)
    mask[0, 0] = 1
    return {"name": "a", "mask": mask, "cls_label": np.float32([1, 0, 1, 1]), "image": None}


def make_count(**changes):
    options = {"num_labels": 5, "bkg_thre": 0.5, "protocols": (NATIVE,), "sweep": False}
    options["maps"] = ("seg", "cam", "aux_cam")
    return native.NativeCounts(**options | {"watch": Stopwatch(), "crf": None} | changes)


def slow_confusion(mask, label_at):
    confusion = np.zeros((5, 5), np.int64)
    for place in np.ndindex(mask.shape):
        if mask[place] != 255:
            confusion[mask[place], label_at(place)] += 1
    return confusion


def test_segmentation_and_classes(maps, record):
    counts = make_count()(record, maps)
    assert set(counts) == {
        "f1/native",
        *(f"confusion/{name}/native" for name in ("seg", "cam", "aux_cam")),
    }
    expected = slow_confusion(record["mask"], lambda place: maps.logits[place].argmax())
    np.testing.assert_array_equal(counts["confusion/seg/native"], expected)
    # Classes 0 and 2 of 0, 2 and 3 are found: 2 * 2 / (3 + 2).
    np.testing.assert_allclose(counts["f1/native"], [0.8, 1])


@pytest.mark.parametrize("name", ["cam", "aux_cam"])
def test_cams_are_labelled_with_the_classes_of_the_image(maps, record, name):
    def label_at(place):
        values = maps.maps[name][place] * record["cls_label"]
        return values.argmax() + 1 if values.max() > 0.5 else 0

    counts = make_count(sweep=True)(record, maps)
    expected = slow_confusion(record["mask"], label_at)
    np.testing.assert_array_equal(counts[f"confusion/{name}/native"], expected)
    at = scoring.THRESHOLDS.index(0.5)
    miou = 100 * metrics.scores(expected)["miou"]
    np.testing.assert_allclose(scoring.sweep_mious(counts[f"sweep/{name}/native"])[at], miou)


def test_maps_that_are_not_trained_are_not_counted(maps, record):
    counts = make_count(maps=("cam",), sweep=True)(record, maps)
    assert set(counts) == {"f1/native", "confusion/cam/native", "sweep/cam/native"}


def test_baselines_are_counted_beside(maps, record):
    counts = make_count(maps=("seg",), patch=1)(record, maps)
    names = ("seg", "background", "seg_of_tags", "token_truth")
    assert set(counts) == {"f1/native", *(f"confusion/{name}/native" for name in names)}
    # With cells of one pixel the truth is exact.
    expected = slow_confusion(record["mask"], lambda place: record["mask"][place])
    np.testing.assert_array_equal(counts["confusion/token_truth/native"], expected)


def test_an_image_without_classes_is_background(maps, record):
    counts = make_count()(record | {"cls_label": np.zeros(4, np.float32)}, maps)
    expected = slow_confusion(record["mask"], lambda place: 0)
    np.testing.assert_array_equal(counts["confusion/cam/native"], expected)


def test_the_refined_segmentation_is_counted_apart(maps, record):
    asked = []

    def crf(image, probs, **settings):
        asked.append((probs, settings))
        return probs[..., ::-1]

    count = make_count(protocols=(CRF,), crf=crf, crf_settings={"top_k": 3})
    counts = count(record, maps)
    assert set(counts) == {"f1/native+crf", "confusion/seg/native+crf"}
    np.testing.assert_allclose(asked[0][0], softmax(maps.logits))
    assert asked[0][1] == {"top_k": 3}
    expected = slow_confusion(record["mask"], lambda place: 4 - maps.logits[place].argmax())
    np.testing.assert_array_equal(counts["confusion/seg/native+crf"], expected)


def test_what_is_written_beside(maps, record, tmp_path):
    written = []
    count = make_count(
        protocols=(NATIVE, CRF),
        crf=lambda image, probs: probs**2 / (probs**2).sum(axis=-1, keepdims=True),
        write_pseudo_label=lambda *given: written.append(given),
        probs_dir=tmp_path / "out" / "probs",
    )
    for name in ("a", "b"):
        count(record | {"name": name}, maps)
    # The final layer's CAMs of the image's own classes.
    assert [given["name"] for given, _ in written] == ["a", "b"]
    np.testing.assert_array_equal(written[0][1], maps.maps["cam"][..., [0, 2, 3]])
    expected = {"native": softmax(maps.logits), "native+crf": softmax(2 * maps.logits)}
    for protocol, name in ((p, n) for p in expected for n in ("a", "b")):
        with contextlib.closing(np.load(count.probs_dir / protocol / f"{name}.npz")) as stored:
            np.testing.assert_allclose(stored["probs"], expected[protocol], atol=1e-3)
