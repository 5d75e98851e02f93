import json

import cv2
import numpy as np
import PIL.Image
import pytest
from data.conftest import write_mask

from toco_jax import data
from toco_jax.data import DataError, folder

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
    assert train.max_classes in (1, 2)


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
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 5, 3), np.uint8))
    found = words(open_split(tmp_path, val_fraction=0.01))
    assert found == {"cat/1": ("cat",), "cat/2": ("cat",), "dog/1": ("dog",)}


def test_folders_of_splits_hold_folders_of_classes(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((4, 5, 3), np.uint8))
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
    one, same, other = (folder.seeded_split(names, 0.1, seed) for seed in (0, 0, 1))
    assert one == same and one != other
    assert (len(one["val"]), len(one["train"])) == (100, 900)
    assert sorted(one["val"] + one["train"]) == sorted(names)
    more = folder.seeded_split([*names, *(f"m{i}" for i in range(100))], 0.1, 0)
    assert len(set(one["val"]) - set(more["val"])) < 15  # new images move few of the old ones
    assert len(set(one["val"]) & {f"n{i}" for i in range(500)}) in range(30, 71)


def test_masks_are_optional(zoo):
    write_labels(zoo, "csv")
    source = open_split(zoo, "val", masks=True, val_fraction=0.5)
    for i in range(len(source)):
        assert (source[i]["mask"] == 255).all()
        assert source[i]["mask"].shape == source[i]["image"].shape[:2]
    for name, size, *_ in IMAGES:
        path = (zoo / "masks" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_mask(path, np.full(size[::-1], 3, np.uint8))
    source = open_split(zoo, "val", masks=True, val_fraction=0.5)
    assert len(source) == 4 and not any(name.startswith("masks/") for name in source.names)
    assert all((source[i]["mask"] == 3).all() for i in range(len(source)))
    (zoo / "masks").rename(zoo / "truth")
    source = open_split(zoo, "val", masks=True, val_fraction=0.5, mask_folder="truth")
    assert (source[0]["mask"] == 3).all()


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
    assert source[0]["cls_label"].sum() == source.max_classes == min(count, 5)
    # Pixels of unknown label must not be one of the classes.
    assert (source[0]["mask"] > count).all()
    (tmp_path / "masks").mkdir()
    if count > folder.MAX_CLASSES:
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
    with pytest.raises(DataError, match=r"data\.labels='oops' is none of sidecars, folders or a"):
        open_split(zoo, labels="oops")
    with pytest.raises(
        DataError, match=r"label file .*no\.csv is missing; give data\.labels as a full"
    ):
        open_split(zoo, labels="no.csv")
    write_labels(zoo, "csv")
    with pytest.raises(DataError, match=r"split 'val' is empty: data\.val_fraction=0\.01 of 8 im"):
        open_split(zoo, "val", val_fraction=0.01)
    (zoo / "train.txt").write_text("zebra.jpg\n")
    with pytest.raises(
        DataError, match=r"labels\.csv has no entry for image 'zebra' \(its first one is 'a'\); add"
    ):
        open_split(zoo)
    (zoo / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.(png|jpg) have the same name without ending; rename"):
        open_split(zoo)
