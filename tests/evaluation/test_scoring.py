"""Counts on the disk, rows with absent classes, the threshold sweep against a slow one."""

import types

import numpy as np
import pytest

from toco_jax.config import defaults
from toco_jax.evaluation import counting, metrics, scoring

NAMES = ("background", "cat", "dog", "owl")


def test_counts_add_up_and_survive_the_disk(tmp_path):
    counts = {"a": np.array([1, 2])}
    counting.add(counts, {"a": np.array([10, 20]), "b": np.array(3)})
    counting.add(counts, {"b": np.array(4)})
    path = tmp_path / "counts.npz"
    counting.save(path, counts, "val, step 3")
    stored = counting.load(path, "val, step 3")
    np.testing.assert_array_equal(stored["a"], [11, 22])
    assert stored["b"] == 7
    assert counting.load(path, "val, step 4") is None
    assert counting.load(tmp_path / "other.npz", "") is None
    np.testing.assert_array_equal(counting.from_bytes(counting.to_bytes(counts))["a"], [11, 22])


def test_each_image_counts_by_its_own_miou():
    counts = {"f1/32": np.zeros(2)}
    first = {"confusion/seg/32": np.array([[3, 1], [0, 4]]), "f1/32": np.array([1.0, 1.0])}
    counting.add_image(counts, first, 2, 3)
    counting.add_image(counts, {"confusion/seg/32": np.zeros((2, 2), np.int64)}, 0, 3)
    np.testing.assert_allclose(counts["image/seg/32"], [np.nan, 0, (3 / 4 + 4 / 5) / 2])
    np.testing.assert_array_equal(counts["confusion/seg/32"], [[3, 1], [0, 4]])
    np.testing.assert_array_equal(counts["f1/32"], [1, 1])


def test_absent_class_is_none_and_both_means_are_given():
    confusion = np.zeros((4, 4), np.int64)
    confusion[0] = (6, 1, 0, 1)  # "owl" is predicted but never there, "dog" is neither
    confusion[1] = (2, 6, 0, 0)
    row = scoring.make_row(
        {"confusion/seg/native": confusion, "f1/native": np.array([3.0, 4.0])},
        "seg",
        "native",
        description="d",
        names=NAMES,
    )
    iou_background, iou_cat = 6 / (6 + 2 + 2), 6 / (6 + 2 + 1)
    assert row["iou"] == {
        "background": 100 * iou_background,
        "cat": 100 * iou_cat,
        "dog": None,
        "owl": None,
    }
    np.testing.assert_allclose(row["miou"], 50 * (iou_background + iou_cat))
    np.testing.assert_allclose(row["miou_all_classes"], 25 * (iou_background + iou_cat))
    np.testing.assert_allclose(row["pixel_accuracy"], 75.0)
    np.testing.assert_allclose(row["mean_accuracy"], 75.0)
    assert row["cls_f1"] == 75
    assert row["confusion"] == confusion.tolist()


def test_a_class_of_one_pixel_is_present():
    confusion = np.diag([3, 1, 0, 0])
    row = scoring.make_row(
        {"confusion/seg/native": confusion, "f1/native": np.array([1.0, 2.0])},
        *("seg", "native"),
        description="d",
        names=NAMES,
    )
    assert row["iou"] == {"background": 100, "cat": 100, "dog": None, "owl": None}


CONFIG = defaults("deit_tiny")
CONFIG.update(crop_size=32, cam_scales=(1.0, 0.5), compute_dtype="float32")
SOURCE = types.SimpleNamespace(class_names=NAMES[1:], split="val", names="abcdef")


@pytest.mark.parametrize("order", [("32", "native", "native+crf"), ("native+crf", "native", "32")])
def test_the_scores_at_the_top_are_those_of_the_trainings_size(order):
    counts = {f"f1/{name}": np.array([i + 1.0, 4.0]) for i, name in enumerate(sorted(order))}
    for i, predictor in enumerate(("seg", "cam", "aux_cam")):
        for protocol in order[: 3 if predictor == "seg" else None]:
            confusion = np.diag([9, 3 + i, 0, 0])
            confusion[1, 0] = len(protocol)
            counts[f"confusion/{predictor}/{protocol}"] = confusion
            counts[f"image/{predictor}/{protocol}"] = np.array([0.5, np.nan, 0.25, 1.0])
    for predictor in ("cam", "aux_cam"):
        del counts[f"confusion/{predictor}/native+crf"]
    counts["seconds"] = np.array(1.23)
    found = scoring.summarize(
        counts, order, config=CONFIG, step=7, source=SOURCE, crf_settings={"top_k": 3}
    )
    rows = {(row["predictor"], row["protocol"]): row for row in found.pop("rows")}
    assert [p for s, p in rows if s == "seg"] == list(order)
    assert len(rows) == 7
    assert rows["seg", "32"]["description"] == "32, single scale (CAM scales 1, 0.5)"
    assert rows["seg", "native+crf"]["description"].endswith("CRF (approximate: top_k=3)")
    assert found == {
        **{"step": 7, "split": "val", "images": 4, "seconds": 1.2, "compute_dtype": "float32"},
        **{"bkg_thre": 0.5, "protocol": "32", "cls_f1": 25.0},
        **{f"{name}_miou": rows[name, "32"]["miou"] for name in ("seg", "cam", "aux_cam")},
    }
    assert len({row["miou"] for row in rows.values()}) == 7
    worst = [("c", 25.0), ("a", 50.0), ("d", 100.0)]
    for row in rows.values():
        assert [(image["name"], image["miou"]) for image in row["worst"]] == worst
        assert [(image["name"], image["miou"]) for image in row["best"]] == worst[::-1]


def test_without_the_trainings_size_native_is_at_the_top():
    def top(*names):
        counts = {f"confusion/seg/{name}": np.eye(4, dtype=np.int64) for name in names}
        counts |= {f"f1/{name}": np.ones(2) for name in names} | {"seconds": np.zeros(())}
        counts |= {f"image/seg/{name}": np.ones(1) for name in names}
        return scoring.summarize(counts, names, config=CONFIG, step=7, source=SOURCE)["protocol"]

    assert top("16", "native+crf", "native") == "native"
    assert top("native+crf", "16") == "native+crf"


def test_nothing_labelled_is_no_score():
    row = scoring.percentages(np.zeros((4, 4), np.int64), NAMES)
    assert {value for name, value in row.items() if name != "iou"} == {None}


def test_no_threshold_is_the_best_where_nothing_is_labelled(capsys):
    mask = np.full((2, 2), 255)
    counts = {
        "sweep/cam/native": scoring.sweep_counts(mask, np.ones((2, 2)), np.ones((2, 2)), 4),
        "confusion/cam/native": np.zeros((4, 4), np.int64),
        "f1/native": np.array([0.5, 1.0]),
    }
    row = scoring.make_row(counts, "cam", "native", description="d", names=NAMES)
    assert "sweep" not in row
    scoring.print_tables({"step": 1, "split": "train", "images": 1, "rows": [row]})
    assert "absent" in capsys.readouterr().out


def test_thresholds_lie_between_0_and_1():
    np.testing.assert_allclose(scoring.THRESHOLDS, np.arange(0.05, 0.96, 0.05))
    assert len(scoring.THRESHOLDS) == 19


def test_sweep_equals_labelling_at_every_threshold():
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 3, 255], (40, 50))
    label = rng.integers(1, 4, (40, 50))
    # Values on the thresholds themselves count as background.
    value = rng.choice(np.float32([*scoring.THRESHOLDS, 0.33, 0.0, 1.0]), (40, 50))
    mious = scoring.sweep_mious(scoring.sweep_counts(mask, value, label, 4))
    for threshold, miou in zip(scoring.THRESHOLDS, mious, strict=True):
        slow = metrics.confusion_matrix(mask, label * (value > np.float32(threshold)), 4)
        np.testing.assert_allclose(miou, 100 * metrics.scores(slow)["miou"])
    assert len(set(mious)) > 10


def test_row_names_the_best_threshold():
    mask = np.array([[0, 0, 1, 1]])
    value, label = np.float32([[0.1, 0.42, 0.48, 0.9]]), np.ones((1, 4), int)
    counts = {"sweep/cam/native": scoring.sweep_counts(mask, value, label, 2)}
    counts["confusion/cam/native"] = np.array([[2, 0], [1, 1]])
    counts["f1/native"] = np.array([1.0, 1.0])
    row = scoring.make_row(counts, "cam", "native", description="d", names=("background", "cat"))
    assert row["sweep"]["best_threshold"] == 0.45
    assert row["sweep"]["best_miou"] == 100
