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


def test_names_that_cannot_be_told_apart():
    same = ("Hot  Dog", "hot dog", " HOT\u00a0DOG", "hot\u200b dog", "\uff48ot dog")
    assert len({classes.folded(name) for name in same}) == 1
    assert len(classes.name_problems(same)) == 4
    assert classes.name_problems(("hot dog", "hotdog", "日本", "[x]", "é")) == []
    assert len(classes.name_problems(("7", "007", "cat", "cat."))) == 2
    for other in ("hot_dog", "Hot-Dog", "__hot  dog", "hot dog.", "(hot dog)"):
        assert len(classes.name_problems(("hot dog", other))) == 1
    (found,) = classes.name_problems(("caf\u00e9", "cafe\u0301"))
    assert r"'caf\xe9' and 'cafe\u0301' differ" in found  # they look the same otherwise


def test_names_that_no_table_can_show():
    for name in ("a\nb", "a\tb", "\x1b[31m", "a\u2028b", "\udcff", "cat\u202e", " ", "", "_"):
        (found,) = classes.name_problems((name,))
        assert "rename it" in found and found.isprintable()


def test_names_that_a_conversion_damaged():
    (found,) = classes.name_problems(("caf\ufffd", "cat"))
    assert found.startswith("class 'caf\ufffd' lost a letter when its text was converted from")


def test_spellings_of_the_background():
    for name in ("background", " Background", "BACKGROUND", "__background__", "_background_"):
        assert classes.is_background(name)
    for name in ("0_background", "002.Background", "0 - background", "00-BACKGROUND"):
        assert classes.is_background(name)
    for name in ("background car", "no background", "background2"):
        assert not classes.is_background(name)


def test_names_that_are_several_others():
    names = {"cat", "Dog", "polar bear"}
    for joined in ("cat+dog", "cat_dog", "cat and Dog", "cat, dog", "polar bear / cat", "CAT dog"):
        found, between = classes.several_names({*names, joined})
        assert found == joined and joined.split(between)[0].casefold() in ("cat", "polar bear")
    for single in ("hot dog", "cat-cat", "cats and dogs", "cat_2", "dog-fish"):
        assert classes.several_names({*names, single}) is None


def test_order_of_names():
    assert classes.in_label_order(["b", "a10", "a2"], masks=False) == (("a10", "a2", "b"), "", "")
    numbers = [str(n) for n in range(1, 12)]
    ordered, remark, guessed = classes.in_label_order(numbers, masks=True)
    assert (ordered, guessed) == (tuple(numbers), "")
    assert remark == "in numeric order: '1' is label 1, '11' is label 11"
    assert classes.in_label_order(["3", "1", "2"], masks=True) == (("1", "2", "3"), "", "")
    assert classes.in_label_order(["0", "1"], masks=False)[2] == ""
    assert "'0' is label 1 of the masks" in classes.in_label_order(["0", "1"], masks=True)[2]
    assert "'a10' comes before 'a2'" in classes.in_label_order(["a2", "a10"], masks=True)[2]
