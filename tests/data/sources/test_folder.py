import json
import os

import cv2
import numpy as np
import PIL.Image
import pytest
from data.conftest import pictures, write_mask

from toco_jax import data
from toco_jax.data.folders import folder_masks, folder_splits
from toco_jax.runtime.errors import DataError

# File, size (width, height), Pillow mode, labels.
IMAGES = (
    ("a.jpg", (20, 12), "RGB", ("cat",)),
    ("deep/er/b.png", (1, 1), "RGBA", ("cat", "dog")),
    ("deep/c.png", (7, 90), "1", ()),
    ("d.webp", (33, 33), "RGB", ("dog",)),
    ("e.tif", (300, 5), "L", ("emu", "cat")),
    ("f.PNG", (16, 16), "P", ("dog",)),
    ("g.bmp", (9, 9), "RGB", ("emu",)),
    ("h.jpeg", (12, 20), "CMYK", ("cat",)),
)
CLASSES = ("cat", "dog", "emu")
NAMES = tuple(sorted(name.rpartition(".")[0] for name, *_ in IMAGES))


@pytest.fixture
def zoo(tmp_path):
    """Images of every size, mode and depth of folder, without labels."""
    root = tmp_path / "zoo"
    rng = np.random.default_rng(0)
    for name, size, mode, _ in IMAGES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8)
        PIL.Image.fromarray(pixels).convert(mode).save(root / name)
    (root / "notes.md").write_text("no image")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.jpg").write_bytes(b"")
    return root


def write_labels(root, kind):
    if kind == "csv":
        rows = "".join(f"{name},{';'.join(labels)}\n" for name, *_, labels in IMAGES)
        (root / "labels.csv").write_text(f"file,labels\n{rows}")
    elif kind == "csv without heading":
        (root / "labels.csv").write_bytes(
            b"\xef\xbb\xbf"
            + "".join(f"./{name},{' ; '.join(labels)}\r\n" for name, *_, labels in IMAGES).encode()
        )
    elif kind == "json":
        content = {name: list(labels) for name, *_, labels in IMAGES}
        content["d.webp"] = "dog"
        (root / "labels.json").write_text(json.dumps(content))
    elif kind == "sidecars":
        for name, *_, labels in IMAGES:
            (root / name).with_suffix(".txt").write_text("\n".join(labels))


def open_split(root, split="train", masks=False, **options):
    return data.open_source("folder", root=root, split=split, masks=masks, **options)


def words(source):
    return {
        name: tuple(source.class_names[c] for c in np.flatnonzero(row))
        for name, row in zip(source.names, source.cls_labels, strict=True)
    }


@pytest.mark.parametrize("kind", ["csv", "csv without heading", "json", "sidecars"])
def test_labels_of_every_kind(zoo, kind):
    write_labels(zoo, kind)
    train, val = open_split(zoo, val_fraction=0.25), open_split(zoo, "val", val_fraction=0.25)
    assert train.class_names == val.class_names == CLASSES
    assert (len(train), len(val)) == (6, 2)
    found = words(train) | words(val)
    assert found == {name.rpartition(".")[0]: tuple(sorted(labels)) for name, *_, labels in IMAGES}
    assert tuple(sorted(found)) == NAMES
    assert train.num_present in (1, 2)


def test_images_of_every_size_and_mode(zoo):
    write_labels(zoo, "csv")
    for split in ("train", "val"):
        source = open_split(zoo, split, val_fraction=0.5)
        sizes = {name.rpartition(".")[0]: size for name, size, *_ in IMAGES}
        for i, name in enumerate(source.names):
            record = source[i]
            assert record["image"].shape == (*sizes[name][::-1], 3)
            assert record["image"].dtype == np.uint8
            assert record["cls_label"].dtype == np.float32


def test_a_folder_a_class(tmp_path):
    pictures(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    found = words(open_split(tmp_path, val_fraction=0.01))
    assert found == {"cat/1": ("cat",), "cat/2": ("cat",), "dog/1": ("dog",)}


def test_folders_of_splits_hold_folders_of_classes(tmp_path):
    pictures(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/2.png")
    train, val = open_split(tmp_path), open_split(tmp_path, "val")
    assert words(train) == {"train/cat/1": ("cat",), "train/dog/1": ("dog",)}
    assert words(val) == {"val/cat/2": ("cat",)}
    assert train.class_names == val.class_names == ("cat", "dog")  # val has no dog


def test_lists_make_splits_with_and_without_endings(zoo):
    write_labels(zoo, "csv")
    (zoo / "train.txt").write_text("a.jpg\ndeep/er/b\n\n./f.PNG\n")
    (zoo / "val.txt").write_text("g\n")
    assert open_split(zoo).names == ("a", "deep/er/b", "f")
    assert open_split(zoo, "val").names == ("g",)
    with pytest.raises(DataError, match=r"split 'test': .*neither a list test\.txt nor a folder"):
        open_split(zoo, "test")


def test_one_list_alone_is_no_seeded_split(zoo):
    write_labels(zoo, "csv")
    (zoo / "train.txt").write_text("a.jpg\n")
    with pytest.raises(DataError, match=r"split 'val': .*neither a list val\.txt nor a folder val"):
        open_split(zoo, "val")


def test_seeded_split():
    names = [f"n{i}" for i in range(1000)]
    one, same, other = (folder_splits.seeded_split(names, 0.1, seed) for seed in (0, 0, 1))
    assert one == same and one != other
    assert (len(one["val"]), len(one["train"])) == (100, 900)
    assert sorted(one["val"] + one["train"]) == sorted(names)
    more = folder_splits.seeded_split([*names, *(f"m{i}" for i in range(100))], 0.1, 0)
    assert len(set(one["val"]) - set(more["val"])) < 15  # new images move few of the old ones
    assert len(set(one["val"]) & {f"n{i}" for i in range(500)}) in range(30, 71)


def test_masks_are_optional(zoo):
    write_labels(zoo, "csv")
    source = open_split(zoo, "val", masks=True, val_fraction=0.5)
    for i in range(len(source)):
        assert (source[i]["mask"] == 255).all()
        assert source[i]["mask"].shape == source[i]["image"].shape[:2]
    values = {}
    for name, size, _, labels in IMAGES:
        path = (zoo / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        values[name.rpartition(".")[0]] = CLASSES.index(labels[0]) + 1 if labels else 0
        write_mask(path, np.full(size[::-1], values[name.rpartition(".")[0]], np.uint8))
    source = open_split(zoo, "val", masks=True, val_fraction=0.5)
    assert len(source) == 4 and not any(name.startswith("masks/") for name in source.names)
    assert all((source[i]["mask"] == values[source.names[i]]).all() for i in range(len(source)))
    (zoo / "masks").rename(zoo / "truth")
    source = open_split(zoo, "val", masks=True, val_fraction=0.5, mask_folder="truth")
    assert (source[0]["mask"] == values[source.names[0]]).all()


def test_classes_can_be_given(zoo):
    write_labels(zoo, "csv")
    (zoo / "classes.txt").write_text("emu\ncat\ndog\nyak\n")
    source = open_split(zoo)
    assert source.class_names == ("emu", "cat", "dog", "yak")
    assert words(source)["a" if "a" in source.names else "g"] in (("cat",), ("emu",))
    fixed = open_split(zoo, class_names=("dog", "cat", "emu"))
    assert fixed.class_names == ("dog", "cat", "emu")
    (zoo / "classes.txt").write_text("emu\ncat\n")
    with pytest.raises(DataError, match=r"'dog' is none of the 2 classes \(emu, cat\); correct"):
        open_split(zoo)


@pytest.mark.parametrize("count", [1, 500])
def test_one_class_and_five_hundred(tmp_path, count):
    rows = []
    for i in range(max(count // 5, 4)):
        name = f"{i}.png"
        cv2.imwrite(str(tmp_path / name), np.full((3, 4, 3), i % 256, np.uint8))
        rows.append(f"{name},{';'.join(f'c{(5 * i + k) % count:03d}' for k in range(5))}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    source = open_split(tmp_path, "val", masks=True, val_fraction=0.25)
    assert len(source.class_names) == count
    assert source[0]["cls_label"].sum() == source.num_present == min(count, 5)
    # Pixels of unknown label must not be one of the classes.
    assert (source[0]["mask"] > count).all()
    (tmp_path / "masks").mkdir()
    if count > folder_masks.MAX_CLASSES:
        with pytest.raises(DataError, match="500 classes do not fit 8-bit masks, which hold 254"):
            open_split(tmp_path, "val", masks=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg,cat,dog\n", "line 1: 'a.jpg,cat,dog' is not `file,label;label`; write two"),
        ("a.jpg,cat\na.jpg,dog\n", "line 2: 'a.jpg' is there twice with other labels, .* join"),
        ("\n", r"labels\.csv is empty; give every image its labels"),
        ("file,label\na.jpg,\n", "name no class; write class names, or list them in"),
    ],
)
def test_broken_csv(zoo, content, message):
    (zoo / "labels.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_split(zoo)


def test_broken_folders(zoo, tmp_path):
    with pytest.raises(DataError, match="is not a folder; give the one that holds your images as"):
        open_split(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image \(\.jpg, .*\); correct data\.root"):
        open_split(tmp_path / "empty")
    with pytest.raises(DataError, match=r"lies in no class folder, and there are no labels\.csv"):
        open_split(zoo)
    with pytest.raises(DataError, match=r"data\.labels='oops' is none of sidecars, labelme, fold"):
        open_split(zoo, labels="oops")
    with pytest.raises(
        DataError, match=r"label file .*no\.csv is missing; give data\.labels as a full"
    ):
        open_split(zoo, labels="no.csv")
    write_labels(zoo, "csv")
    with pytest.raises(
        DataError, match=r"split 'val' is empty with data\.val_fraction=0\.01 of 8 images; change"
    ):
        open_split(zoo, "val", val_fraction=0.01)
    (zoo / "train.txt").write_text("zebra.jpg\n")
    with pytest.raises(
        DataError, match=r"labels\.csv has no entry for image 'zebra' \(its first one is 'a'\); add"
    ):
        open_split(zoo)
    (zoo / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.(png|jpg) have the same name without ending; rename"):
        open_split(zoo)


def said(source):
    return [str(remark) for remark in source.remarks]


def write_csv(root, *rows):
    (root / "labels.csv").write_text("".join(f"{row}\n" for row in rows))


def test_images_without_an_entry_and_entries_without_an_image_are_named(tmp_path):
    pictures(tmp_path, *(f"{i}.png" for i in range(6)))
    write_csv(tmp_path, "0.png,cat", "1.png,dog", "2.png,cat", "3.png,", "gone.png,dog")
    train, val = (open_split(tmp_path, split, val_fraction=0.25) for split in ("train", "val"))
    assert sorted(train.names + val.names) == ["0", "1", "2", "3"]
    assert (
        said(train)
        == said(val)
        == [
            f"label file {tmp_path / 'labels.csv'}: 1 image has no label, the first one '3', and "
            "counts as an image without any class; take it out of the splits if it is not labelled "
            "yet",
            "2 of 6 images have no entry in labels.csv (4, 5); add it, or one with no label for an "
            "image without any class",
            "1 of 5 entries in labels.csv names no image (gone.png); correct the name or restore "
            "the file",
        ]
    )


def test_a_label_may_have_the_name_of_a_folder_of_a_split(tmp_path):
    pictures(tmp_path, "train/0.png", "train/1.png", "val/2.png")
    write_csv(tmp_path, "train/0.png,train", "train/1.png,bus", "val/2.png,train")
    assert words(open_split(tmp_path)) == {"train/0": ("train",), "train/1": ("bus",)}


def test_entries_of_another_folder_are_refused(tmp_path):
    pictures(tmp_path, "a/0.png", "a/1.png")
    write_csv(tmp_path, "0.png,cat", "1.png,dog")
    with pytest.raises(
        DataError, match=r"none of the 2 entries .* \(its first one is '0.png', the first image 'a/"
    ):
        open_split(tmp_path)


def test_names_are_found_in_other_spellings(tmp_path):
    pictures(tmp_path, "de\u0301ep/cafe\u0301.png", "b.png", "c .png", "d.png")
    rows = ("d\u00e9ep\\caf\u00e9.png,cat", f"{tmp_path}/b.png,dog", "c ,cat", "./d,dog")
    write_csv(tmp_path, *rows)
    (tmp_path / "train.txt").write_text(f"d\u00e9ep\\caf\u00e9\n{tmp_path}/b.png\n")
    (tmp_path / "val.txt").write_text("c\nd.png\n")
    found = words(open_split(tmp_path)) | words(open_split(tmp_path, "val"))
    assert found == {
        "de\u0301ep/cafe\u0301": ("cat",),
        "b": ("dog",),
        "c ": ("cat",),
        "d": ("dog",),
    }


def test_one_image_in_two_spellings_is_refused(tmp_path):
    pictures(tmp_path, "a.png", "b.png")
    write_csv(tmp_path, "a.png,cat", "./a.png,dog", "b,cat", "b.png,dog")
    with pytest.raises(
        DataError,
        match=r"line 2: './a.png' is there twice with other labels, .* \(1 other image likewise\)",
    ):
        open_split(tmp_path)


def test_equal_files_with_one_label_are_one_image(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    write_csv(tmp_path, "a.png,cat", "b.png,dog", "c.png,dog", "d.png,cat")
    train, val = (open_split(tmp_path, split, val_fraction=0.3) for split in ("train", "val"))
    assert sorted(train.names + val.names) == ["a", "b", "c"]
    assert said(train)[0].startswith("2 files hold 1 picture (a = d), which a split takes once")


def test_equal_files_with_other_labels_are_refused_and_left_out_of_clean_lists(tmp_path):
    pictures(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    write_csv(tmp_path, "a.png,cat", "b.png,dog", "c.png,dog", "d.png,cat;dog")
    found = []
    for split in ("train", "val"):
        open_split(tmp_path, split, val_fraction=0.3, on_problem=lambda *p: found.append(p))
    ((name, error),) = found
    assert name == "a" and str(error) == (
        "the same picture has several labels: a (cat), d (cat, dog); remove all files but one of "
        "them and label that one with all of its classes"
    )


def test_background_as_a_label(tmp_path):
    pictures(tmp_path, *(f"{i}.png" for i in range(4)))
    (tmp_path / "train.txt").write_text("0\n1\n2\n3\n")
    write_csv(tmp_path, "0.png,Background", "1.png,dog", "2.png,cat", "3.png,")
    source = open_split(tmp_path)
    assert source.class_names == ("cat", "dog") and words(source).get("0", ()) == ()
    assert said(source)[1].startswith("1 image is labelled background alone (0) and taken as with")
    write_csv(tmp_path, "0.png,dog;background", "1.png,dog", "2.png,cat", "3.png,")
    with pytest.raises(
        DataError, match=r"1 image is labelled background beside other classes \(0\)"
    ):
        open_split(tmp_path)
    # A network that was trained before this was refused is still scored with its own classes.
    kept = open_split(tmp_path, class_names=("background", "cat", "dog"))
    assert kept.class_names == ("background", "cat", "dog")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("background\ncat\ndog\n", r"lists the background, .*take the line out, so that 'cat' has"),
        ("Background\n", r"lists the background alone, which is no class; add the classes"),
        ("cat\n\ndog\n\n", r"classes\.txt, line 2 is blank, and classes are numbered by their li"),
        ("cat\ndog\ncat\n", r"list .*classes\.txt has 'cat' twice; keep one of the lines"),
        ("# mine\ncat\ndog\n", r"classes\.txt, line 1 '# mine' begins with #, but every line is a"),
        ("cat\ndog\nDog\n", r"classes\.txt: classes 'dog' and 'Dog' differ only in case, white"),
    ],
)
def test_lists_of_classes_that_cannot_be(tmp_path, content, message):
    pictures(tmp_path, "0.png", "1.png")
    write_csv(tmp_path, "0.png,cat", "1.png,dog")
    (tmp_path / "classes.txt").write_text("cat\ndog\n\n")
    assert open_split(tmp_path, val_fraction=0.5).class_names == ("cat", "dog")
    (tmp_path / "classes.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        open_split(tmp_path, val_fraction=0.5)


@pytest.mark.parametrize("name", ["classes.txt", "Classes.TXT"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_classes_of_every_spelling(tmp_path, name, encoding):
    pictures(tmp_path, "0.png", "1.png")
    write_csv(tmp_path, "0.png,cat", "1.png,dog")
    (tmp_path / "labels.csv").rename(tmp_path / "Labels.CSV")
    (tmp_path / name).write_bytes("dog\r\ncat\r\n".encode(encoding))
    source = open_split(tmp_path, val_fraction=0.5)
    assert source.class_names == ("dog", "cat") and said(source) == []
    (tmp_path / name).write_bytes("dog\r\n\r\ncat\r\n".encode(encoding))
    with pytest.raises(DataError, match=rf"{name}, line 2 is blank"):
        open_split(tmp_path, val_fraction=0.5)


def test_text_files_count_however_late_they_begin(tmp_path):
    names = [f"{i:03d}" for i in range(120)]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    for name in names[110:]:
        (tmp_path / f"{name}.txt").write_text(["cat", "dog"][int(name) % 2])
    source = open_split(tmp_path, val_fraction=0.5)
    assert source.class_names == ("cat", "dog") and len(source) == 5
    assert said(source)[0].startswith("110 of 120 images have no text file of the same name (000, ")


def test_texts_and_class_folders_are_told_apart_by_the_user(tmp_path):
    pictures(tmp_path, "cat/0.png", "cat/train.png", "dog/1.png")
    (tmp_path / "cat" / "train.txt").write_text("notes of mine\n")
    with pytest.raises(
        DataError, match=r"only 1 of 3 images has a text file .* \(cat/train\), .*; set"
    ):
        open_split(tmp_path)
    source = open_split(tmp_path, labels="folders")
    assert source.class_names == ("cat", "dog")
    assert said(source)[0].startswith("1 text file beside images passed over (cat/train), as label")


def test_the_second_label_file_is_named(tmp_path):
    pictures(tmp_path, "0.png", "1.png")
    write_csv(tmp_path, "0.png,cat", "1.png,dog")
    (tmp_path / "labels.json").write_text("{}")
    assert said(open_split(tmp_path, val_fraction=0.5)) == [
        "labels come from labels.csv, so labels.json is passed over; remove the one that is out of "
        "date or set data.labels"
    ]


def test_a_list_with_more_than_names_is_refused(tmp_path):
    pictures(tmp_path, "cat/0.png", "dog/1.png")
    (tmp_path / "train.txt").write_text("cat/0.png 0\ndog/1.png 1\n")
    with pytest.raises(
        DataError, match=r"has the line 'cat/0.png 0', which is more than the name of an image"
    ):
        open_split(tmp_path)


def test_names_that_are_no_text_are_refused(tmp_path):
    pictures(tmp_path, "cat/0.png", "cat/1.png")
    os.rename(tmp_path / "cat" / "1.png", os.fsencode(tmp_path / "cat") + b"/caf\xe9.png")
    with pytest.raises(
        DataError, match=r"1 image below .* is named in letters that are no UTF-8 \('cat/caf\\udce9"
    ) as refusal:
        open_split(tmp_path)
    assert str(refusal.value).isprintable()
