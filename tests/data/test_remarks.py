import numpy as np

from toco_jax.data import remarks


def said(found):
    return [str(remark) for remark in found]


def test_counts_and_names():
    assert remarks.some(["a", "b", "c"]) == "a, b, c"
    assert remarks.some(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert (remarks.count(1, "image"), remarks.count(0, "image")) == ("1 image", "0 images")


def test_classes_without_images():
    names = ("cat", "dog", "emu", "yak")
    assert remarks.without_images(names, np.ones(4), np.zeros(4)) == []
    empty, unlearnt = remarks.without_images(names, np.array([1, 0, 0, 0]), np.array([0, 3, 0, 0]))
    assert str(empty).startswith("2 classes (emu, yak) have no training image and cannot be learnt")
    assert str(unlearnt).startswith("class 'dog' has validation images (3) but no training image")
    assert (empty.names, unlearnt.names) == (("emu", "yak"), ("dog",))
    (alone,) = said(remarks.without_images(names, np.array([1, 1, 1, 0]), None))
    assert alone.startswith("class 'yak' has no training image and cannot be learnt; add some or")
