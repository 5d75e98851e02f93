import json
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
from data.conftest import write_mask

from toco_jax import data
from toco_jax.data import labels
from toco_jax.data.sources import voc
from toco_jax.runtime.errors import DataError

LISTS = pathlib.PurePath("ImageSets", "Segmentation")


def _open(root, split="train_aug", masks=True):
    return data.open_source("voc", root=root, split=split, masks=masks)


def test_records_of_a_devkit(devkit):
    source = _open(devkit)
    assert (source.split, len(source)) == ("train_aug", 2)
    assert source.names == ("2007_000001", "2007_000003")  # all with a mask, but not val's
    assert source.class_names == voc.VOC_CLASSES
    assert source.num_present == 2
    record = source[1]
    assert set(record) == {"name", "image", "cls_label", "mask"}
    assert record["name"] == "2007_000003"
    assert record["image"].shape == (12, 20, 3) and record["image"].dtype == np.uint8
    assert record["cls_label"].shape == (20,) and record["cls_label"].dtype == np.float32
    assert [voc.VOC_CLASSES[k] for k in np.flatnonzero(record["cls_label"])] == ["cat", "dog"]
    assert record["mask"].dtype == np.uint8
    assert (record["mask"][:2] == 255).all() and (record["mask"][2:] == 2).all()


def test_listed_split_wins_over_the_derived_one(devkit):
    (devkit / LISTS / "train_aug.txt").write_text("2007_000003\n\n2007_000001\n")
    assert _open(devkit).names == ("2007_000003", "2007_000001")
    assert _open(devkit, "val").names == ("2007_000002",)


def test_training_opens_no_masks(devkit):
    (devkit / LISTS / "train_aug.txt").write_text("2007_000001\n2007_000003\n")
    shutil.rmtree(devkit / "SegmentationClassAug")
    source = _open(devkit, masks=False)
    assert [set(source[i]) for i in range(2)] == [{"name", "image", "cls_label"}] * 2
    with pytest.raises(DataError, match="neither SegmentationClassAug nor SegmentationClass, and"):
        _open(devkit, masks=True)


def test_plain_masks_serve_where_there_are_no_augmented_ones(devkit):
    (devkit / "SegmentationClassAug").rename(devkit / "SegmentationClass")
    assert (_open(devkit, "val")[0]["mask"][2:] == 1).all()
    with pytest.raises(
        DataError, match=r"train_aug\.txt is missing, and so is .*ClassAug to deriv"
    ):
        _open(devkit)


@pytest.mark.parametrize("up", [0, 1])
def test_a_folder_above_the_devkit_names_the_right_one(devkit, up):
    with pytest.raises(DataError, match=f"{devkit.parents[up]} holds a devkit .* give {devkit} as"):
        _open(devkit.parents[up])


def test_broken_folders(devkit):
    with pytest.raises(DataError, match=f"{devkit}/no is not a folder; give the devkit's"):
        _open(devkit / "no")
    for name in ("JPEGImages", "Annotations", str(LISTS)):
        (devkit / name).rename(devkit / "away")
        with pytest.raises(DataError, match=f"{devkit} has no folder {name}.*; unpack"):
            _open(devkit)
        (devkit / "away").rename(devkit / name)


@pytest.mark.parametrize(
    "content",
    [
        "2007_000002.jpg\n2007_000003.png\n",
        "\ufeff2007_000002  \r\n\r\n2007_000003\t\r\n\x1a",
        "2007_000002\u00a0\n2007_000003\u200b\n",
        "2007_000002\r2007_000003\r",
        "./2007_000002\n2007_000003",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_lists_of_every_make(devkit, content, encoding):
    (devkit / LISTS / "odd.txt").write_bytes(content.encode(encoding))
    assert _open(devkit, "odd", masks=False).names == ("2007_000002", "2007_000003")


def test_broken_lists(devkit):
    path = devkit / LISTS / "odd.txt"
    with pytest.raises(
        DataError, match=rf"split 'odd' has no list {path}; choose .*\(val\) or add"
    ):
        _open(devkit, "odd")
    path.write_text("\n\n")
    with pytest.raises(DataError, match=f"split 'odd' is empty: {path} names no image"):
        _open(devkit, "odd")
    pair = "JPEGImages/2007_000001.jpg SegmentationClassAug/2007_000001.png"
    for line in ("a/2007_000001", f"/{pair}", pair, "2007_000001 1", "2007_000001 -1", "a,1"):
        path.write_text(f"2007_000002\n{line}\n")
        with pytest.raises(DataError, match=f"list {path} has the line '{line}'.*; write one imag"):
            _open(devkit, "odd")
    path.write_text("2007_000001\n2007_000002\n2007_000001\n")
    with pytest.raises(DataError, match=f"list {path} has '2007_000001' twice"):
        _open(devkit, "odd")
    path.write_text("2007_000001\n2007_000001.jpg\n")
    with pytest.raises(DataError, match=f"list {path} has '2007_000001' twice"):
        _open(devkit, "odd")
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=f"list {path} cannot be read as text"):
        _open(devkit, "odd")
    for mask in (devkit / "SegmentationClassAug").glob("*.png"):
        mask.unlink()
    with pytest.raises(
        DataError, match=r"split 'train_aug' is empty: .*SegmentationClassAug names"
    ):
        _open(devkit)


def test_voc_2007_layout(devkit):
    """Six-digit names, a test list, and SegmentationClass alone."""
    root = devkit.rename(devkit.with_name("VOC2007"))
    for folder, ending in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        (root / folder / f"2007_000001.{ending}").rename(root / folder / f"000032.{ending}")
    (root / "SegmentationClassAug").rename(root / "SegmentationClass")
    masks = root / "SegmentationClass"
    (masks / "2007_000001.png").rename(masks / "000032.png")
    (root / LISTS / "test.txt").write_text("000032\n")
    record = _open(root, "test")[0]
    assert record["name"] == "000032" and record["mask"].shape == (12, 20)
    assert record["cls_label"][voc.VOC_CLASSES.index("cat")] == 1


def test_labels_from_masks_need_no_annotations(devkit):
    shutil.rmtree(devkit / "Annotations")
    with pytest.raises(DataError, match=r"set data\.labels to 'masks' or to a label file"):
        _open(devkit)
    source = data.open_source("voc", root=devkit, split="train_aug", masks=False, labels="masks")
    assert set(source[1]) == {"name", "image", "cls_label"}
    present = [[voc.VOC_CLASSES[k] for k in np.flatnonzero(row)] for row in source.cls_labels]
    assert present == [[], ["bicycle"]]  # the masks hold 0 and 2
    assert source.num_present == 1


@pytest.mark.parametrize("ending", ["npy", "npz", "json"])
def test_labels_from_a_label_file(devkit, ending):
    shutil.rmtree(devkit / "Annotations")
    vectors = {
        f"2007_{k:06d}": np.eye(20, dtype=np.float32)[k] + np.eye(20, dtype=np.float32)[0]
        for k in (1, 2, 3)
    }
    path = devkit / f"cls_labels_onehot.{ending}"
    if ending == "npy":
        np.save(path, vectors, allow_pickle=True)
    elif ending == "npz":
        np.savez(path, **vectors)
    else:
        path.write_text(json.dumps({name: vector.tolist() for name, vector in vectors.items()}))
    for labels_key in (path.name, str(path)):  # in the root, or anywhere
        source = data.open_source(
            "voc", root=devkit, split="train_aug", masks=False, labels=labels_key
        )
        assert [np.flatnonzero(row).tolist() for row in source.cls_labels] == [[0, 1], [0, 3]]
        assert source[0]["cls_label"].dtype == np.float32


def test_masks_folder_can_be_chosen(devkit):
    shutil.copytree(devkit / "SegmentationClassAug", devkit / "Mine")
    write_mask(devkit / "Mine" / "2007_000002.png", np.full((12, 20), 9, np.uint8))
    for folder, value in (("", 1), ("SegmentationClassAug", 1), ("Mine", 9)):
        source = data.open_source("voc", root=devkit, split="val", masks=True, mask_folder=folder)
        assert (source[0]["mask"][2:] == value).all()
    with pytest.raises(DataError, match=r"No is not a folder; correct data\.masks or data\.tr"):
        data.open_source("voc", root=devkit, split="val", masks=True, mask_folder="No")


def test_images_may_lack_a_mask_where_that_is_allowed(devkit):
    opened = {"root": devkit, "split": "train_aug", "masks": True}
    source = data.open_source("voc", **opened)
    names = "\n".join(source.names)
    (devkit / "ImageSets" / "Segmentation" / "train_aug.txt").write_text(names)
    path = source.masks[0]
    path.unlink()
    with pytest.raises(DataError, match=path.name):
        data.open_source("voc", **opened)[0]
    source = data.open_source("voc", **opened, partial_masks=True)
    assert source.masks[0] is None and None not in source.masks[1:]
    assert (source[0]["mask"] == 255).all()


def test_annotations_are_checked_when_opening(devkit):
    path = devkit / "Annotations" / "2007_000003.xml"
    path.write_text("<annotation><object><name>unicorn</name></object></annotation>")
    with pytest.raises(DataError, match=f"annotation {path} names an object 'unicorn'"):
        _open(devkit)
    path.unlink()
    with pytest.raises(DataError, match=f"annotation {path} is missing; .* '2007_000003' out of"):
        _open(devkit)


@pytest.mark.parametrize("ending", [".JPG", ".jpeg", ".png"])
def test_images_of_other_endings(devkit, ending):
    for path in sorted((devkit / "JPEGImages").glob("*.jpg")):
        path.rename(path.with_suffix(ending))
    source = _open(devkit, masks=False)
    assert [path.suffix for path in source.images] == [ending] * 2
    assert source[1]["image"].shape == (12, 20, 3)
    shutil.copy(source.images[0], source.images[0].with_suffix(".jpg"))
    assert _open(devkit, masks=False).images[0].suffix == ".jpg"  # the devkit's own goes first


def test_images_and_masks_are_checked_when_read(devkit):
    image = devkit / "JPEGImages" / "2007_000001.jpg"
    mask = devkit / "SegmentationClassAug" / "2007_000001.png"
    source = _open(devkit)
    PIL.Image.new("P", (10, 12)).save(mask)
    with pytest.raises(DataError, match=f"mask {mask} is 10 x 12 pixels but image {image} is 20 x"):
        source[0]
    mask.unlink()
    with pytest.raises(DataError, match=f"mask {mask} is missing"):
        source[0]
    image.write_bytes(b"broken")
    with pytest.raises(DataError, match=rf"image {image} \(6 bytes\) cannot be decoded"):
        source[0]
    assert source[1]["name"] == "2007_000003"


def test_open_source_names_its_choices(devkit):
    with pytest.raises(
        DataError, match="unknown data source 'vok'; choose one of voc, coco, folder, tfds, sh"
    ):
        data.open_source("vok", root=devkit, split="val", masks=False)
    for nothing in (None, ""):
        with pytest.raises(
            DataError, match=r"data source 'voc' got root=.*; give the data set's fo"
        ):
            data.open_source("voc", root=nothing, split="val", masks=False)


def test_open_source_makes_procedural_scenes_from_the_seed():
    one, same, other = (
        data.open_source("shapes", root=None, split="train", masks=True, seed=seed)[0]["image"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_real_splits(voc_folder):
    root = voc_folder / "voc_animals" / "VOCdevkit" / "VOC2012"
    train = _open(root, masks=False)
    assert len(train) == 3131 and train.num_present == 5
    derived = voc.derived_train_aug(root)
    assert set(derived) == set(train.names) and list(derived) == sorted(derived)
    val = _open(root, "val")
    assert len(val) == 220 and not set(val.names) & set(train.names)
    first = val[val.names.index("2007_000332")]
    assert max(first["image"].shape) == 192
    assert np.unique(first["mask"]).tolist() == [0, voc.VOC_CLASSES.index("horse") + 1, 255]
    native = _open(voc_folder / "voc_native" / "VOCdevkit" / "VOC2012", "val")
    assert len(native) == 24
    assert native[native.names.index("2007_000332")]["image"].shape == (333, 500, 3)


def test_real_labels_cover_the_masks(voc_folder):
    """val agrees exactly; some augmented train masks lack an object that the annotation has."""
    root = voc_folder / "voc_animals" / "VOCdevkit" / "VOC2012"
    for split, lacking in (("val", 0), ("train_aug", 208)):
        source = _open(root, split, masks=False)
        unlabelled = unmasked = 0
        for i, name in enumerate(source.names):
            mask = labels.read_mask(root / "SegmentationClassAug" / f"{name}.png", 20)
            in_mask = np.bincount(mask.ravel(), minlength=256)[1:21] > 0
            in_label = source.cls_labels[i] > 0
            unlabelled += np.sum(in_mask & ~in_label)
            unmasked += np.sum(in_label & ~in_mask)
        assert (unlabelled, unmasked) == (0, lacking)


def test_images_of_other_endings_are_found(devkit):
    (devkit / "JPEGImages" / "2007_000001.jpg").rename(devkit / "JPEGImages" / "2007_000001.JPEG")
    source = data.open_source("voc", root=devkit, split="train_aug", masks=False)
    assert source.images[0].name == "2007_000001.JPEG" and source[0]["image"].shape == (12, 20, 3)
