import numpy as np

from toco_jax.data import classes


def test_voc_classes_are_the_twenty_in_label_order():
    assert len(classes.VOC_CLASSES) == len(set(classes.VOC_CLASSES)) == 20
    assert list(classes.VOC_CLASSES) == sorted(classes.VOC_CLASSES)
    assert (classes.VOC_CLASSES[0], classes.VOC_CLASSES[14]) == ("aeroplane", "person")
    assert classes.VOC_CLASSES[19] == "tvmonitor"


def test_coco_classes_are_the_eighty_in_label_order():
    names = classes.COCO_CLASSES
    assert len(names) == len(set(names)) == 80
    places = {0: "person", 9: "traffic light", 24: "backpack", 39: "bottle", 56: "chair"}
    assert {i: names[i] for i in places} == places
    assert (names[62], names[79]) == ("tv", "toothbrush")


def test_palette_by_hand():
    colours = classes.palette()
    assert colours.shape == (256, 3) and colours.dtype == np.uint8
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(colours[label].tolist()) for label in known} == known
    assert len(np.unique(colours, axis=0)) == 256


def test_palette_equals_published(golden):
    stored = golden("metrics")
    np.testing.assert_array_equal(classes.palette(21), stored["colormap21"])
    np.testing.assert_array_equal(classes.palette()[255], stored["colormap255"])
