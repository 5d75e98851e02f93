"""What scores are compared with, on masks small enough to work out by hand."""

import numpy as np

from toco_jax.evaluation import baselines

MASK = np.uint8([[0, 2, 255, 3], [2, 2, 3, 3], [0, 0, 1, 255], [0, 0, 255, 1]])


def test_the_truth_keeps_the_larger_share_of_each_cell():
    cells = baselines.at_resolution(MASK, (2, 2), 4)
    # Corners have one cell alone; ignored pixels count for no label.
    np.testing.assert_array_equal(cells[[0, 0, 3, 3], [0, 3, 0, 3]], [2, 3, 0, 1])
    np.testing.assert_array_equal(baselines.at_resolution(MASK[:, :2], (4, 2), 4), MASK[:, :2])
    ignored = np.full((4, 4), 255, np.uint8)
    np.testing.assert_array_equal(baselines.at_resolution(ignored, (2, 2), 4), np.zeros((4, 4)))


def test_the_segmentation_is_kept_to_the_classes_given():
    scores = np.zeros((4, 4, 4), np.float32)
    scores[..., 1], scores[..., 2], scores[0, 0, 0] = 3, 2, 5
    found = baselines.label_maps(MASK, np.float32([0, 1, 1]), scores, (2, 2))
    expected = np.full((4, 4), 2)
    expected[0, 0] = 0
    np.testing.assert_array_equal(found["seg_of_tags"], expected)
    assert set(found) == {"background", "seg_of_tags", "token_truth"}
    assert not found["background"].any()
    no_classes = baselines.label_maps(MASK, np.zeros(3, np.float32), scores, (2, 2))
    assert not no_classes["seg_of_tags"].any()
