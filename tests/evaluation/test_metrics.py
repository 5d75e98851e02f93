"""Scores against published values and hand counts."""

import numpy as np
import pytest

from toco_jax.evaluation import metrics


def test_golden(golden):
    data = golden("metrics")
    for prefix, predictions in (("", "preds"), ("pseudo/", "pseudo/preds")):
        counted = data[predictions] < 21
        label = np.where(counted, data["gts"], 255)
        confusion = metrics.confusion_matrix(label, data[predictions], 21)
        result = metrics.scores(confusion)
        np.testing.assert_allclose(result["pixel_accuracy"], data[f"{prefix}pAcc"], rtol=1e-12)
        np.testing.assert_allclose(result["mean_accuracy"], data[f"{prefix}mAcc"], rtol=1e-12)
        np.testing.assert_allclose(result["miou"], data[f"{prefix}miou"], rtol=1e-12)
        np.testing.assert_allclose(result["iou"], data[f"{prefix}iou"], rtol=1e-12)
    f1 = metrics.multilabel_f1(data["f1/y_true"], data["f1/y_pred"])
    np.testing.assert_allclose(f1, data["f1/value"], rtol=1e-12)


def test_by_hand():
    label = np.array([[0, 0, 1, 1, 255, 3]])
    prediction = np.array([[0, 1, 1, 1, 2, 2]])
    confusion = metrics.confusion_matrix(label, prediction, 3)
    assert confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    result = metrics.scores(confusion)
    np.testing.assert_allclose(result["iou"], [1 / 2, 2 / 3, np.nan])
    assert result["miou"] == pytest.approx(7 / 12)
    assert result["miou_all_classes"] == pytest.approx(7 / 18)
    assert result["pixel_accuracy"] == pytest.approx(3 / 4)
    assert result["mean_accuracy"] == pytest.approx(3 / 4)


def test_class_predicted_but_absent_counts_in_iou_only():
    result = metrics.scores(np.array([[3, 1], [0, 0]]))
    assert result["iou"].tolist() == [0.75, 0.0]
    assert result["miou"] == 0.75


def test_class_of_one_pixel_is_present():
    assert metrics.scores(np.array([[3, 0], [1, 0]]))["miou"] == pytest.approx(3 / 8)


def test_streaming_equals_whole():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 4, (2, 6, 50))
    parts = sum(metrics.confusion_matrix(label[i], prediction[i], 4) for i in range(6))
    np.testing.assert_array_equal(parts, metrics.confusion_matrix(label, prediction, 4))


def test_nothing_counted():
    result = metrics.scores(metrics.confusion_matrix(np.array([255]), np.array([0]), 2))
    assert np.isnan(result["miou"])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        metrics.confusion_matrix(np.zeros(2, int), np.zeros(3, int), 2)
    for low, high in ((0, 255), (1, 2), (-1, 1)):
        with pytest.raises(ValueError, match=rf"{low}\.\.{high}, expected 0\.\.1"):
            metrics.confusion_matrix(np.array([0, 1]), np.array([low, high]), 2)
    lowest = metrics.confusion_matrix(np.array([0, 1]), np.array([1, 1]), 2)
    assert lowest.tolist() == [[0, 1], [0, 1]]


def test_f1_by_hand():
    label = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    prediction = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(metrics.multilabel_f1(label, prediction), [2 / 3, 0, 0])
    np.testing.assert_allclose(metrics.multilabel_f1(label[0], prediction[0]), 2 / 3)
