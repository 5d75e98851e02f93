"""The evaluation in training from the network's maps on, against plain loops over the pixels."""

import numpy as np
import pytest

from toco_jax.evaluation import counting, metrics, squashed
from toco_jax.inference.native import resize_map
from toco_jax.runtime.sharding import local_mesh

SIZES = ((6, 9), (8, 8), (5, 4))


@pytest.fixture(scope="module")
def found():
    """Records, the maps that the network is said to give, and what is predicted from them."""
    rng = np.random.default_rng(0)
    outputs = {"cam": rng.random((4, 8, 8, 3), np.float32)}
    outputs["aux_cam"] = rng.random((4, 8, 8, 3), np.float32)
    outputs["seg_logits"] = rng.standard_normal((4, 2, 2, 4)).astype(np.float32)
    outputs["cls_logits"] = np.float32([[1, -1, 2], [-1, -2, -3], [0, 3, 1], [0, 0, 0]])
    batch = {
        "image": rng.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "cls_label": np.float32([[1, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]]),
        "name": ["a", "b", "c"],
        "mask": [rng.choice(np.uint8([0, 1, 2, 3, 255]), size) for size in SIZES],
    }
    predictions = squashed.predictions(
        lambda params, images: outputs,
        {},
        [batch],
        local_mesh(),
        bkg_thre=0.6,
        with_baselines=True,
    )
    return batch, outputs, list(predictions)


def test_labels_are_at_the_size_of_the_mask(found):
    batch, outputs, predictions = found
    assert [prediction.record["name"] for prediction in predictions] == ["a", "b", "c"]
    for i, prediction in enumerate(predictions):
        np.testing.assert_array_equal(prediction.record["image"], batch["image"][i])
        logits = resize_map(outputs["seg_logits"][i], SIZES[i])
        np.testing.assert_array_equal(prediction.labels["seg"], logits.argmax(axis=-1))
        for name in ("cam", "aux_cam"):
            cam = resize_map(outputs[name][i], SIZES[i]) * batch["cls_label"][i]
            expected = np.where(cam.max(axis=-1) > 0.6, cam.argmax(axis=-1) + 1, 0)
            assert len(np.unique(expected)) > 1
            np.testing.assert_array_equal(prediction.labels[name], expected)
        np.testing.assert_array_equal(prediction.cam, outputs["cam"][i])
        np.testing.assert_array_equal(prediction.classes, outputs["cls_logits"][i] > 0)


def test_counts_are_those_of_all_pixels(found):
    batch, _, predictions = found
    names, total = ("seg", "cam", "aux_cam", "seg_of_tags"), {}
    for prediction in predictions:
        counting.add(total, squashed.count(prediction, names, protocol="8"))
    # F1 of {cat, owl} for {cat, dog}, of nothing for {owl}, of {dog, owl} for {dog, owl}.
    np.testing.assert_allclose(total.pop("f1/8"), [0.5 + 0 + 1, 3])
    truth = np.concatenate([mask.ravel() for mask in batch["mask"]])
    for name in names:
        label = np.concatenate([prediction.labels[name].ravel() for prediction in predictions])
        expected = metrics.confusion_matrix(truth, label, 4)
        np.testing.assert_array_equal(total.pop(f"confusion/{name}/8"), expected)
    assert not total
