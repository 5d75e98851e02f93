"""Sums of counts, rows with absent classes, the threshold sweep against a slow one."""

import numpy as np

from toco_jax.evaluation import metrics, scoring, squashed

NAMES = ("background", "cat", "dog", "owl")


def test_counts_add_up_and_survive_the_disk(tmp_path):
    counts = {"a": np.array([1, 2])}
    scoring.add(counts, {"a": np.array([10, 20]), "b": np.array(3)})
    scoring.add(counts, {"b": np.array(4)})
    path = tmp_path / "counts.npz"
    scoring.save(path, counts, "val, step 3")
    stored = scoring.load(path, "val, step 3")
    np.testing.assert_array_equal(stored["a"], [11, 22])
    assert stored["b"] == 7
    assert scoring.load(path, "val, step 4") is None
    assert scoring.load(tmp_path / "other.npz", "") is None
    np.testing.assert_array_equal(scoring.from_bytes(scoring.to_bytes(counts))["a"], [11, 22])


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


def test_training_and_evaluation_agree_on_absent_classes():
    confusion = np.array([[6, 1, 0, 1], [2, 6, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    counts = dict.fromkeys(squashed.PREDICTORS, confusion) | {"f1": np.array([1.0, 2.0])}
    trained = squashed.summarize(counts, class_names=NAMES[1:])
    counts = {"confusion/seg/32": confusion, "f1/32": counts["f1"]}
    row = scoring.make_row(counts, "seg", "32", description="d", names=NAMES)
    assert trained["seg_iou"] == row["iou"]
    assert trained["seg_iou"]["owl"] is None  # predicted, but never there
    assert (trained["seg_miou"], trained["cls_f1"]) == (row["miou"], row["cls_f1"])


def test_nothing_labelled_is_no_score():
    row = scoring.percentages(np.zeros((4, 4), np.int64), NAMES)
    assert {value for name, value in row.items() if name != "iou"} == {None}


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
