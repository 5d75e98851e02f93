"""What folders of images mean, one real arrangement a test."""

import os
import shutil

import numpy as np
import PIL.Image
import pytest
from data.conftest import pictures, write_mask
from data.sources.test_folder import open_split, words

from toco_jax.data import remarks
from toco_jax.runtime.errors import DataError


def both(root, **options):
    """The labels of both splits by name, and the classes."""
    sources = [open_split(root, split, val_fraction=0.25, **options) for split in ("train", "val")]
    assert sources[0].class_names == sources[1].class_names
    assert not set(sources[0].names) & set(sources[1].names)
    return words(sources[0]) | words(sources[1]), sources[0]


def said(source):
    return [str(remark) for remark in source.remarks]


def test_copies_in_several_class_folders_are_one_image_with_all_their_classes(tmp_path):
    pictures(tmp_path, *(f"{c}/{c}{i}.png" for c in ("cat", "dog") for i in range(3)))
    (tmp_path / "emu").mkdir()
    shutil.copy(tmp_path / "cat/cat0.png", tmp_path / "dog/both.png")
    shutil.copy(tmp_path / "cat/cat0.png", tmp_path / "emu/cat0.png")
    shutil.copy(tmp_path / "dog/dog1.png", tmp_path / "dog/again.png")
    found, source = both(tmp_path)
    assert found == {
        "cat/cat0": ("cat", "dog", "emu"),
        **{f"cat/cat{i}": ("cat",) for i in (1, 2)},
        **{f"dog/{n}": ("dog",) for n in ("dog0", "dog2", "again")},
    }
    (remark,) = said(source)
    assert remark.startswith("5 files hold 2 pictures (cat/cat0 = dog/both = emu/cat0, dog/again =")
    assert "with the classes of all folders; remove the copies or write labels.csv" in remark


def test_a_list_may_name_any_of_the_copies(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png")
    shutil.copy(tmp_path / "cat/a.png", tmp_path / "dog/a.png")
    (tmp_path / "train.txt").write_text("dog/a\ncat/b\ncat/a\n")
    (tmp_path / "val.txt").write_text("dog/c\n")
    assert words(open_split(tmp_path)) == {"dog/a": ("cat", "dog"), "cat/b": ("cat",)}


def test_copies_in_training_and_validation_are_named(tmp_path):
    pictures(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/cat/c.png")
    shutil.copy(tmp_path / "train/dog/b.png", tmp_path / "val/cat/b.png")
    train, val = open_split(tmp_path), open_split(tmp_path, "val")
    (remark,) = remarks.in_both(train, val)
    assert str(remark) == (
        "1 training image of 'train' is in 'val' too (train/dog/b = val/cat/b), so the scores are "
        "too good; take them out of one of the two"
    )


def test_a_copy_among_the_backgrounds_contradicts(tmp_path):
    pictures(tmp_path, "cat/a.png", "background/b.png")
    shutil.copy(tmp_path / "cat/a.png", tmp_path / "background/a.png")
    with pytest.raises(DataError, match=r"the same picture has several labels: background/a \(no "):
        open_split(tmp_path, val_fraction=0.1)


def test_a_background_folder_holds_images_without_any_class(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png", " BackGround/c.png", "dog/d.png")
    found, source = both(tmp_path)
    assert source.class_names == ("cat", "dog") and found[" BackGround/c"] == ()
    (remark,) = said(source)
    assert remark.startswith("1 image is labelled background alone ( BackGround/c) and taken as")


@pytest.mark.parametrize(
    ("one", "other"), [("Cat", "cat"), ("cat", "cat "), ("cafe\u0301", "caf\u00e9"), ("ﬁn", "fin")]
)
def test_classes_that_look_alike_are_refused(tmp_path, one, other):
    pictures(tmp_path, f"{one}/a.png", f"{other}/b.png", "dog/c.png")
    with pytest.raises(DataError, match=r"differ only in case, white .*; give both one") as hit:
        open_split(tmp_path)
    shown = [ascii, repr][one.isascii() and other.isascii()]
    assert shown(one) in str(hit.value) or repr(one) in str(hit.value)


@pytest.mark.parametrize("both_names", ["cat_dog", "cat+dog", "cat and dog", "cat,dog"])
def test_a_folder_of_two_classes_is_refused_unless_it_is_listed(tmp_path, both_names):
    pictures(tmp_path, "cat/a.png", "dog/b.png", f"{both_names}/c.png")
    with pytest.raises(DataError) as refusal:
        open_split(tmp_path)
    assert str(refusal.value) == (
        f"class {both_names!r} may stand for several others; copy its images into the folders of "
        f"these, or list all classes in {tmp_path}/classes.txt if it is one class"
    )
    (tmp_path / "classes.txt").write_text(f"cat\ndog\n{both_names}\n")
    assert len(open_split(tmp_path).class_names) == 3


def test_a_name_with_a_line_break_is_refused(tmp_path):
    pictures(tmp_path, "cat\n/a.png", "dog/c.png")
    with pytest.raises(
        DataError, match=r"class 'cat\\n' has .* line break in its name, .*; rename"
    ):
        open_split(tmp_path)


def test_folders_in_class_folders_are_of_the_class(tmp_path):
    names = [f"{c}/{b}/{c}{b}{i}.png" for c in ("cat", "dog") for b in ("b1", "b2") for i in (0, 1)]
    pictures(tmp_path, *names, "emu/e.png", "emu/young/f.png")
    found, source = both(tmp_path)
    assert source.class_names == ("cat", "dog", "emu")
    assert all(labels == (name.partition("/")[0],) for name, labels in found.items())
    assert said(source)[0].startswith(
        "9 images in sub-folders of class folders are taken as of the class of the first folder ("
    )


def test_a_folder_of_class_folders_is_refused_unless_the_classes_are_listed(tmp_path):
    pictures(tmp_path, "farm/cow/a.png", "farm/hen/b.png", "zoo/emu/c.png", "zoo/yak/d.png")
    with pytest.raises(
        DataError, match=r"lie in its sub-folders \(cow, hen\), and either 'farm' or these may be"
    ):
        open_split(tmp_path)
    (tmp_path / "classes.txt").write_text("cow\nhen\nemu\nyak\n")
    found, source = both(tmp_path)
    assert source.class_names == ("cow", "hen", "emu", "yak")
    assert found["farm/cow/a"] == ("cow",) and said(source) == []
    (tmp_path / "classes.txt").write_text("farm\nzoo\n")
    assert both(tmp_path)[0]["farm/cow/a"] == ("farm",)
    (tmp_path / "classes.txt").write_text("farm\nzoo\ncow\n")
    with pytest.raises(DataError, match=r"a\.png lies in folders of several classes \(farm, cow\)"):
        both(tmp_path)


@pytest.mark.parametrize("outer", [("2021", "2022"), ("batch_1", "batch_2"), ("Day1", "Day2")])
def test_batches_of_class_folders_are_refused_unless_the_classes_are_listed(tmp_path, outer):
    pictures(
        tmp_path, *(f"{o}/{c}/{o}{c}{i}.png" for o in outer for c in ("a", "b") for i in (0, 1))
    )
    with pytest.raises(DataError, match=rf"of folder '{outer[0]}' lie in its sub-folders \(a, b\)"):
        open_split(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    found, source = both(tmp_path)
    assert source.class_names == ("a", "b") and found[f"{outer[0]}/a/{outer[0]}a0"] == ("a",)


def test_splits_in_class_folders_are_refused_unless_there_are_lists(tmp_path):
    pictures(tmp_path, *(f"{c}/{s}/{c}{s}.png" for c in ("cat", "dog") for s in ("train", "Test")))
    with pytest.raises(DataError, match=r"named like splits \(Test, train\); put the split first"):
        open_split(tmp_path)
    (tmp_path / "train.txt").write_text("cat/train/cattrain\ndog/train/dogtrain\n")
    (tmp_path / "val.txt").write_text("cat/Test/catTest\ndog/Test/dogTest\n")
    assert words(open_split(tmp_path)) == {
        "cat/train/cattrain": ("cat",),
        "dog/train/dogtrain": ("dog",),
    }


def test_split_folders_in_capitals(tmp_path):
    pictures(tmp_path, *(f"{s}/{c}/{s}{c}.png" for s in ("Train", "VAL") for c in ("cat", "dog")))
    train, val = open_split(tmp_path), open_split(tmp_path, "val")
    assert words(train) == {"Train/cat/Traincat": ("cat",), "Train/dog/Traindog": ("dog",)}
    assert words(val) == {"VAL/cat/VALcat": ("cat",), "VAL/dog/VALdog": ("dog",)}
    pictures(tmp_path, "tRain/cat/x.png")
    with pytest.raises(DataError, match="differ in capitals alone, and either may be meant by"):
        open_split(tmp_path)


@pytest.mark.parametrize("holder", ["images", "JPEGImages"])
def test_split_folders_in_a_folder_of_all_images(tmp_path, holder):
    splits = [f"{s}/{c}/{s}{c}" for s in ("train", "Val") for c in ("cat", "dog")]
    pictures(tmp_path, *(f"{holder}/{name}.png" for name in splits), f"{holder}/extra/cat/x.png")
    train, val = open_split(tmp_path), open_split(tmp_path, "val")
    assert words(train) == {f"{holder}/train/{c}/train{c}": (c,) for c in ("cat", "dog")}
    assert words(val) == {f"{holder}/Val/{c}/Val{c}": (c,) for c in ("cat", "dog")}
    assert said(train)[0].startswith("1 image outside of the folders of splits is left out (")
    # Masks lie in folders of splits as the images do.
    for name in splits:
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, np.full((4, 5), 1 + name.endswith("dog"), np.uint8))
    assert [r["mask"].max() for r in open_split(tmp_path, "val", masks=True)] == [1, 2]
    rows = [f"{holder}/{name}.png,{name[-3:]}\n" for name in splits]
    (tmp_path / "labels.csv").write_text("".join(rows))
    assert words(open_split(tmp_path, "val")) == words(val)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train2017", "val2017"),
        ("training_set", "test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("trainA", "testA"),
    ],
)
def test_folders_named_like_splits_are_no_classes(tmp_path, train, val):
    pictures(tmp_path, *(f"{s}/{c}/{s[:4]}{c}.png" for s in (train, val) for c in ("cat", "dog")))
    one, other = (split.partition("/")[0] for split in (train, val))
    names = ", ".join(sorted((one, other)))
    with pytest.raises(
        DataError, match=rf"look like splits, not like classes: {names}; set data\.t"
    ):
        open_split(tmp_path)
    sources = [open_split(tmp_path, split, splits=(one, other)) for split in (one, other)]
    assert all(source.class_names == ("cat", "dog") and len(source) == 2 for source in sources)
    (tmp_path / "classes.txt").write_text(f"{one}\n{other}\n")
    assert open_split(tmp_path).class_names == (one, other)


def test_a_class_may_have_the_name_of_a_split_once_it_is_listed(tmp_path):
    pictures(tmp_path, *(f"{c}/{c}{i}.png" for c in ("bus", "train") for i in range(4)))
    with pytest.raises(DataError, match=r"\('train' is taken for a split unless classes\.txt"):
        open_split(tmp_path)
    (tmp_path / "classes.txt").write_text("bus\ntrain\n")
    found, source = both(tmp_path)
    assert found == {f"{c}/{c}{i}": (c,) for c in ("bus", "train") for i in range(4)}
    assert source.class_names == ("bus", "train")


def test_a_root_above_that_of_the_data_is_named(tmp_path):
    pictures(tmp_path, *(f"set/{s}/cat/{s}.png" for s in ("train", "val")))
    with pytest.raises(DataError, match=rf"like splits \(train, val\); give {tmp_path}/set as"):
        open_split(tmp_path)


def test_split_folders_of_any_name_are_no_classes(tmp_path):
    pictures(tmp_path, *(f"fold{k}/{c}/{c}{k}.png" for k in (1, 2, 3) for c in ("cat", "dog")))
    source = open_split(tmp_path, "fold1", splits=("fold1", "fold2"))
    assert source.class_names == ("cat", "dog") and len(source) == 2
    assert said(source)[0].startswith(
        "2 images outside of the folders of splits are left out (fold"
    )


def test_a_split_that_is_missing_names_the_folders_that_may_be_it(tmp_path):
    pictures(tmp_path, *(f"{s}/cat/{s}.png" for s in ("train", "valid", "test")))
    with pytest.raises(DataError, match=r"set data\.val_split to one of .* there \(test, valid\)"):
        open_split(tmp_path, "val")
    train, valid = (open_split(tmp_path, s, splits=("train", "valid")) for s in ("train", "valid"))
    (remark,) = remarks.in_neither(train, valid)
    assert str(remark).startswith("1 labelled image is in neither 'train' nor 'valid' (test/cat/")


@pytest.mark.parametrize("name", ["annotations", "SegmentationClass", "any"])
def test_masks_are_no_class(tmp_path, name):
    for i in range(3):
        pictures(tmp_path, f"cat/{i}.jpg")
        (tmp_path / name).mkdir(exist_ok=True)
        write_mask(tmp_path / name / f"{i}.png", np.full((4, 5), i, np.uint8))
    with pytest.raises(
        DataError, match=rf"folder .*{name} \(3 pictures\) looks like masks, .*data\.masks={name}, "
    ):
        open_split(tmp_path)
    assert open_split(tmp_path, mask_folder=name).class_names == ("cat",)
    (tmp_path / "classes.txt").write_text(f"cat\n{name}\n")
    assert open_split(tmp_path).class_names == ("cat", name)


def test_masks_beside_a_label_file_are_named(tmp_path):
    for i in range(4):
        pictures(tmp_path, f"{i}.jpg")
        (tmp_path / "annotations").mkdir(exist_ok=True)
        write_mask(tmp_path / "annotations" / f"{i}.png", np.full((4, 5), i, np.uint8))
    (tmp_path / "labels.csv").write_text("".join(f"{i}.jpg,cat\n" for i in range(4)))
    (remark,) = said(open_split(tmp_path))
    assert remark == (
        f"folder {tmp_path}/annotations (4 pictures) looks like masks; set data.masks to use them"
    )


def test_links_to_class_folders_are_followed(tmp_path):
    pictures(tmp_path, "store/cat/a.png", "store/cat/deep/b.png", "zoo/dog/c.png", "zoo/dog/d.png")
    os.symlink(tmp_path / "store" / "cat", tmp_path / "zoo" / "cat")
    os.symlink(tmp_path / "zoo", tmp_path / "zoo" / "dog" / "loop")
    found, source = both(tmp_path / "zoo")
    assert found == {
        "cat/a": ("cat",),
        "cat/deep/b": ("cat",),
        "dog/c": ("dog",),
        "dog/d": ("dog",),
    }
    assert any("zoo/dog/loop, a link back to a folder above" in remark for remark in said(source))


def test_what_is_passed_over_is_counted_and_named(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png", "_unlabeled/d.png")
    for name in ("cat/._a.png", "cat/Thumbs.db", "dog/.DS_Store"):
        (tmp_path / name).write_bytes(b"\0")
    found, source = both(tmp_path)
    assert sorted(found) == ["cat/a", "cat/b", "dog/c"] and source.class_names == ("cat", "dog")
    hidden, others, unlabelled = said(source)
    assert hidden.startswith(f"1 file passed over: {tmp_path}/cat/._a.png, ")
    assert others.startswith("2 files passed over: cat/Thumbs.db, dog/.DS_Store are no picture by")
    assert unlabelled.startswith("1 image in a folder of unlabelled images is left out (_unlabel")


def test_texts_that_serve_no_purpose_are_named(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png")
    for name in ("labels.txt", "Train.txt", "val.txt", "cat/a.txt", "cat/readme.txt"):
        (tmp_path / name).write_text("cat/a\n")
    source = open_split(tmp_path, labels="folders")
    assert said(source)[1] == (
        "2 text files passed over (cat/readme.txt, labels.txt), beside no image and neither "
        "classes.txt nor a list of these splits; rename those that are meant"
    )


def test_numbers_are_counted_as_numbers(tmp_path):
    pictures(tmp_path, *(f"{c}/{c}.png" for c in range(1, 13)))
    source = open_split(tmp_path)
    assert source.class_names == tuple(str(c) for c in range(1, 13))
    assert said(source) == [
        "the classes are numbers and taken in numeric order: '1' is label 1, '12' is label 12"
    ]
    (tmp_path / "masks").mkdir()
    assert len(open_split(tmp_path).class_names) == 12
    shutil.rmtree(tmp_path / "5")
    with pytest.raises(
        DataError, match=r"masks .* another order: .*'6' is label 5 of the masks; l"
    ):
        open_split(tmp_path)


def test_numbered_names_and_masks_need_an_order(tmp_path):
    pictures(tmp_path, *(f"c{c}/{c}.png" for c in (1, 2, 10)))
    assert open_split(tmp_path).class_names == ("c1", "c10", "c2")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"'c10' comes before 'c2' in the alphabet; list the clas"):
        open_split(tmp_path)
    (tmp_path / "classes.txt").write_text("c1\nc2\nc10\n")
    assert open_split(tmp_path).class_names == ("c1", "c2", "c10")


def test_masks_of_copies_are_one_mask(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png")
    (tmp_path / "dog").mkdir()
    shutil.copy(tmp_path / "cat/a.png", tmp_path / "dog/a.png")
    for name, value in (("cat/b", 1), ("dog/a", 2)):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True)
        write_mask(path, np.full((4, 5), value, np.uint8))
    source = open_split(tmp_path, masks=True, val_fraction=0.1)
    assert [(source[i]["mask"].max()) for i in range(2)] == [2, 1]
    write_mask(tmp_path / "masks" / "cat" / "a.png", np.full((4, 5), 1, np.uint8))
    with pytest.raises(
        DataError, match=r"has the masks .*cat/a\.png and .*dog/a\.png, which differ"
    ):
        open_split(tmp_path, masks=True, val_fraction=0.1)


def test_images_without_a_mask_are_refused_before_training(tmp_path):
    pictures(tmp_path, "cat/a.png", "cat/b.png")
    (tmp_path / "masks" / "cat").mkdir(parents=True)
    PIL.Image.new("L", (5, 4)).save(tmp_path / "masks" / "cat" / "a_mask.png")
    assert len(open_split(tmp_path, val_fraction=0.1)) == 2
    with pytest.raises(
        DataError,
        match=r"mask .*cat/a\.png is missing \(cat/a_mask\.png is there\), so that 2 of the 2 imag",
    ):
        open_split(tmp_path, masks=True, val_fraction=0.1)


@pytest.mark.parametrize("ending", ["tif", "BMP", "gif", "jpg"])
def test_masks_that_are_no_png_are_named(tmp_path, ending):
    pictures(tmp_path, "cat/a.png", "cat/b.png")
    (tmp_path / "masks" / "cat").mkdir(parents=True)
    for name in ("a", "b"):
        PIL.Image.new("L", (5, 4)).save(tmp_path / "masks" / "cat" / f"{name}.{ending}")
    with pytest.raises(DataError, match=rf"masks/cat/a\.{ending} is no PNG, as masks have to be;"):
        open_split(tmp_path, masks=True, val_fraction=0.1)
