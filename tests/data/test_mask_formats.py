"""Masks that would mislead are recognised: right labels, or one sentence."""

import logging

import numpy as np
import PIL.Image
import pytest
from data.conftest import small_config

from toco_jax.cli import commands
from toco_jax.data import check, labels, mask_formats, open_source
from toco_jax.data.classes import VOC_CLASSES, palette
from toco_jax.runtime.errors import DataError

CAT, DOG = 1, 2


def squares(*values):
    """A mask of a square a value."""
    mask = np.zeros((16, 24), np.uint8)
    for k, value in enumerate(values):
        mask[4:12, 1 + 6 * k : 6 + 6 * k] = value
    return mask


def sorted_palette(mask):
    """The mask as a painting program leaves it: the colours that occur, the most frequent last."""
    labels_there, counts = np.unique(mask, return_counts=True)
    order = labels_there[np.argsort(counts, kind="stable")]
    place = np.zeros(256, np.uint8)
    place[order] = np.arange(len(order))
    picture = PIL.Image.fromarray(place[mask])
    picture.putpalette(palette()[order].tobytes())
    return picture


def with_palette(mask, colours):
    picture = PIL.Image.fromarray(mask)
    picture.putpalette(np.uint8(colours).tobytes())
    return picture


@pytest.fixture
def folder(tmp_path):
    """Writes a folder with pairs of a label and a mask picture; the last half is val."""

    def write(pairs, classes=("cat", "dog")):
        (tmp_path / "masks").mkdir()
        for i, (_, picture) in enumerate(pairs):
            PIL.Image.new("RGB", (24, 16), (9 * i, 0, 0)).save(tmp_path / f"{i}.png")
            picture.save(tmp_path / "masks" / f"{i}.png")
        (tmp_path / "labels.csv").write_text(
            "".join(f"{i}.png,{label}\n" for i, (label, _) in enumerate(pairs))
        )
        (tmp_path / "classes.txt").write_text("\n".join(classes))
        half = len(pairs) // 2
        (tmp_path / "train.txt").write_text("".join(f"{i}\n" for i in range(half)))
        (tmp_path / "val.txt").write_text("".join(f"{i}\n" for i in range(half, len(pairs))))
        return tmp_path

    return write


def masks_of(root, **options):
    source = open_source("folder", root=root, split="val", masks=True, **options)
    return [source[i]["mask"] for i in range(len(source))]


def checked(root, **values):
    config = small_config("folder")
    config.data.root = str(root)
    config.data.update(values)
    return check.check(config, threads=2, show=lambda _, states: list(states))[1]


LABELLED = {"cat": (CAT,), "dog": (DOG,), "cat;dog": (CAT, DOG)}
MIXED = ("cat", "dog", "cat;dog", "cat", "dog", "cat;dog")


# 0 and 255.


def two_valued():
    grey = PIL.Image.fromarray
    return [("cat", grey(squares(255))), ("", grey(squares()))] * 2


def test_masks_of_0_and_255_are_refused_with_the_key_that_helps(folder):
    root = folder(two_valued(), classes=("cat",))
    with pytest.raises(DataError, match=r"hold 0 and 255 alone \(1 of 2 .* set data\.mask_foregro"):
        masks_of(root)
    problems = [(p.kind, p.split, p.fatal) for p in checked(root)]
    assert {("masks", "train", False), ("split", "val", True)} <= set(problems)


def test_the_key_makes_255_the_class(folder):
    root = folder(two_valued(), classes=("cat",))
    first, second = masks_of(root, mask_foreground=255)
    np.testing.assert_array_equal(first, squares(CAT))
    assert not second.any()
    problems = checked(root, mask_foreground=255)
    assert [p.kind for p in problems] == ["labels as read"]  # one image has no label


def test_another_value_can_be_the_class_and_255_is_ignored_then(folder):
    mask = squares(200)
    mask[0] = 255
    root = folder([("cat", PIL.Image.fromarray(mask))] * 2, classes=("cat",))
    expected = squares(CAT)
    expected[0] = 255
    np.testing.assert_array_equal(masks_of(root, mask_foreground=200)[0], expected)
    with pytest.raises(DataError, match=r"200, but labels are .* set data\.mask_foreground=200 "):
        masks_of(root)
    with pytest.raises(DataError, match="holds the value 200, which stands for no label; set data"):
        masks_of(root, mask_foreground=1)


def test_the_key_needs_one_class(folder, devkit):
    root = folder([("cat", PIL.Image.fromarray(squares(1)))] * 2)
    with pytest.raises(DataError, match=r"data\.mask_foreground=255 must .* not of 2; set it"):
        masks_of(root, mask_foreground=255)
    with pytest.raises(DataError, match=r"data\.mask_foreground=255 must .* not of 20; set it"):
        open_source("voc", root=devkit, split="val", masks=True, mask_foreground=255)


def test_several_classes_in_255_are_refused_too(folder):
    root = folder([("cat", PIL.Image.fromarray(squares(255)))] * 4)
    with pytest.raises(DataError, match=r"means ignored; save each class as its own value \('c"):
        masks_of(root)


def test_ignored_pixels_of_images_without_a_class_are_no_foreground(folder):
    pairs = [(label, PIL.Image.fromarray(squares(255))) for label in ("cat", "", "", "")]
    root = folder(pairs, classes=("cat",))
    assert set(np.unique(masks_of(root))) == {0, 255}


def test_records_can_be_built_of_such_masks(folder, tmp_path, capsys):
    pytest.importorskip("tensorflow_datasets")
    root = folder(two_valued(), classes=("cat",))
    command = ["tfds", "--source", "folder", "--root", str(root), "--out", str(tmp_path / "r")]
    commands.run("prepare", [*command, "--mask-foreground", "255"])
    built = capsys.readouterr().out.rpartition("data.root=")[2].strip()
    source = open_source("tfds", root=built, split="val", masks=True)
    np.testing.assert_array_equal(source[0]["mask"], squares(CAT))


# Palettes.


def test_a_reordered_palette_is_read_by_its_colours(folder, caplog):
    root = folder([(label, sorted_palette(squares(*LABELLED[label]))) for label in MIXED])
    with caplog.at_level(logging.WARNING):
        found = masks_of(root)
    for mask, label in zip(found, MIXED[3:], strict=True):
        np.testing.assert_array_equal(mask, squares(*LABELLED[label]))
    assert "3 of 3 masks looked at" in caplog.text and "their colours are taken" in caplog.text
    problems = checked(root)
    assert {(p.kind, p.fatal) for p in problems} == {("mask with another palette", False)}
    assert len(problems) == len(MIXED)


def test_masks_in_order_among_reordered_ones_keep_their_labels(folder):
    pairs = [(label, sorted_palette(squares(*LABELLED[label]))) for label in MIXED]
    pairs[3] = ("cat", with_palette(squares(CAT), palette()))
    for mask, label in zip(masks_of(folder(pairs)), MIXED[3:], strict=True):
        np.testing.assert_array_equal(mask, squares(*LABELLED[label]))


def test_somebodys_own_palette_that_happens_to_hold_vocs_colours(folder):
    own = palette()[[0, 2, 1]]
    root = folder([(label, with_palette(squares(*LABELLED[label]), own)) for label in MIXED])
    for mask, label in zip(masks_of(root), MIXED[3:], strict=True):
        np.testing.assert_array_equal(mask, squares(*LABELLED[label]))
    assert {p.kind for p in checked(root)} == {"mask with another palette"}


def test_palettes_that_labels_do_not_decide_are_refused(folder):
    picture = with_palette(squares(CAT, DOG), palette()[[0, 2, 1]])
    with pytest.raises(DataError, match="do not tell which of the two is right; save them wi"):
        masks_of(folder([("cat;dog", picture)] * 4))


@pytest.mark.parametrize(
    "colours", [[(0, 0, 0), (255, 0, 0), (0, 255, 0)], [(0, 0, 0)] * 3, [(9, 9, 9)] * 3]
)
def test_other_palettes_say_nothing(folder, colours):
    root = folder([(label, with_palette(squares(*LABELLED[label]), colours)) for label in MIXED])
    for mask, label in zip(masks_of(root), MIXED[3:], strict=True):
        np.testing.assert_array_equal(mask, squares(*LABELLED[label]))
    assert checked(root) == []


@pytest.mark.parametrize("kind", ["", "masks"])
def test_reordered_masks_of_a_devkit_are_read_by_their_colours(devkit, kind):
    classes = {"2007_000001": ("cat",), "2007_000002": ("dog", "person"), "2007_000003": ("dog",)}
    for name, there in classes.items():
        mask = np.zeros((12, 20), np.uint8)
        for k, label in enumerate(there):
            mask[:, k : k + 1] = VOC_CLASSES.index(label) + 1
        sorted_palette(mask).save(devkit / "SegmentationClassAug" / f"{name}.png")
    source = open_source("voc", root=devkit, split="val", masks=True, labels=kind)
    assert set(np.unique(source[0]["mask"])) == {0, 12, 15}
    assert np.flatnonzero(source.cls_labels[0]).tolist() == [11, 14]


def test_one_reordered_mask_that_was_not_looked_at_is_refused(tmp_path):
    sorted_palette(squares(CAT, DOG)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png has VOC's colours in another order than its v"):
        labels.read_mask(tmp_path / "x.png", 20)


# Values that are those of other classes.


def test_masks_in_another_order_than_the_classes_are_refused(folder):
    swapped = {CAT: DOG, DOG: CAT}
    pairs = [
        (label, PIL.Image.fromarray(squares(*(swapped[k] for k in LABELLED[label]))))
        for label in MIXED
    ]
    root = folder(pairs)
    message = r"2 of 3 masks .* show none .*3\.png shows dog, its image is labelled cat.*cat 1, dog"
    with pytest.raises(DataError, match=message):
        masks_of(root)
    assert {(p.kind, p.fatal) for p in checked(root)} == {("masks", False), ("split", True)}


@pytest.mark.parametrize("from_0", [True, False])
def test_masks_that_show_nothing_are_refused(folder, from_0):
    """Labels that are counted from 0 on an ignored ground, and masks of zeros."""
    pairs = []
    for label in MIXED * 2:
        mask = squares(*LABELLED[label])
        counted_from_0 = np.where(mask == 0, 255, mask - 1).astype(np.uint8)
        mask = counted_from_0 if from_0 else np.zeros_like(mask)
        pairs.append((label, PIL.Image.fromarray(mask)))
    message = r"(4|6) of 6 masks .* show none .*/6\.png shows no class, its image is labelled cat"
    with pytest.raises(DataError, match=message):
        masks_of(folder(pairs))


def test_masks_that_ignore_all_say_nothing(folder):
    pairs = [(label, PIL.Image.fromarray(np.full((16, 24), 255, np.uint8))) for label in MIXED]
    assert [mask.min() for mask in masks_of(folder(pairs))] == [255, 255, 255]


def test_a_few_masks_of_other_classes_are_remarked_alone(folder):
    pairs = [(label, PIL.Image.fromarray(squares(*LABELLED[label]))) for label in MIXED]
    pairs[3] = ("cat", pairs[4][1])
    problems = checked(folder(pairs))
    assert {(p.kind, p.name) for p in problems} == {
        ("mask shows more", "3"),
        ("label says more", "3"),
    }


def test_a_palette_of_its_own_makes_one_mask_enough(folder):
    own = [(0, 0, 0), (51, 0, 0), (0, 51, 0)]
    root = folder([("cat", with_palette(squares(DOG), own))] * 2)
    with pytest.raises(DataError, match="1 of 1 masks looked at show none of the classes"):
        masks_of(root)


# Modes.


def test_masks_of_one_bit_are_masks_of_one_class(folder):
    picture = PIL.Image.fromarray(squares(255)).convert("1")
    root = folder([("cat", picture)] * 2, classes=("cat",))
    for options in ({}, {"mask_foreground": 255}):
        np.testing.assert_array_equal(masks_of(root, **options)[0], squares(CAT))


@pytest.mark.parametrize("mode", ["F", "I", "I;16", "LA", "RGB", "RGBA", "1"])
def test_other_modes_are_refused(folder, mode):
    root = folder([("cat", PIL.Image.fromarray(squares(CAT)))] * 2)
    picture = PIL.Image.fromarray(squares(CAT)).convert(mode)
    picture.save(root / "masks" / "1.png", "TIFF")
    with pytest.raises(DataError, match=r"1\.png is stored as .*, not as palette indices; save it"):
        masks_of(root)


def test_a_jpeg_is_no_mask(folder):
    root = folder([("cat", PIL.Image.fromarray(squares(CAT)))] * 2)
    PIL.Image.fromarray(squares(CAT)).save(root / "masks" / "1.png", "JPEG")
    with pytest.raises(DataError, match=r"1\.png is a JPEG, which blurs labels; save it anew"):
        masks_of(root)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_hold_labels(tmp_path, bits):
    mask, path = squares(1, 2, 3), tmp_path / "x.png"
    PIL.Image.fromarray(mask * (255 // (2**bits - 1))).save(path, bits=bits)
    assert path.read_bytes()[24:26] == bytes([bits, 0])  # grey
    np.testing.assert_array_equal(labels.read_mask(path, 3), mask)


def test_ready_made_masks_of_coco_are_looked_at_too(tmp_path):
    PIL.Image.fromarray(squares(255)).save(tmp_path / "x.png")
    stored = labels.stored_mask((tmp_path / "x.png").read_bytes(), tmp_path / "x.png")
    probes = [(0, tmp_path / "x.png", stored)] * 2
    with pytest.raises(DataError, match="hold 0 and 255 alone"):
        mask_formats.refuse_two_valued(probes, np.ones((1, 80)), VOC_CLASSES)
