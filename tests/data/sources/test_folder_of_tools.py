"""Folders whose labels come from annotation tools, from the file to the record source."""

import json

import pytest
from data.conftest import pictures

from toco_jax import data
from toco_jax.runtime.errors import DataError


def open_split(root, split="train", **options):
    return data.open_source("folder", root=root, split=split, masks=False, **options)


def words(source):
    rows = zip(source.names, source.cls_labels, strict=True)
    return {
        name: tuple(c for c, bit in zip(source.class_names, row, strict=True) if bit)
        for name, row in rows
    }


def said(source):
    return "\n".join(str(remark) for remark in source.remarks)


def task(number, *names, results=True):
    result = {"type": "choices", "value": {"choices": list(names)}}
    annotation = {"was_cancelled": False, "result": [result] if names else []}
    image = f"/data/upload/7/0000000{number}-i{number}.jpg"
    return {"id": number, "data": {"image": image}, "annotations": [annotation] * results}


def instances(*rows):
    """COCO's JSON of rows (file name, category...)."""
    categories = ("yak", "cat", "dog")
    return {
        "images": [{"id": k, "file_name": name} for k, (name, *_) in enumerate(rows)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories)],
        "annotations": [
            {"id": 0, "image_id": k, "category_id": categories.index(name)}
            for k, (_, *names) in enumerate(rows)
            for name in names
        ],
    }


@pytest.fixture
def root(tmp_path):
    pictures(tmp_path, *(f"images/i{k}.jpg" for k in range(5)), "images/other.jpg")
    return tmp_path


def write(root, content, name="labels.json"):
    path = root / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_label_studio(root, encoding):
    tasks = [task(0, "cat"), task(1, "dog", "cat"), task(2), task(3, results=False), task(9, "cat")]
    tasks[1]["annotations"].append({"was_cancelled": True, "result": []})
    path = write(root, tasks)
    path.write_bytes(path.read_text().encode(encoding))
    source = open_split(root, val_fraction=0.01)
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("cat", "dog"), "images/i2": ()}
    remarks = said(source)
    assert (
        "labels.json: Label Studio, 5 tasks; left out as not labelled: 1 unfinished (/d" in remarks
    )
    assert (
        "labels.json: 1 image labelled with no class (images/i2), taken as without any" in remarks
    )
    assert "2 of 6 images have no entry in labels.json (images/i4, images/other)" in remarks
    assert "1 of 4 entries in labels.json names no image (/data/upload/7/00000009-i9.j" in remarks


def test_exports_by_the_names_of_label_studio(root):
    name = "project-3-at-2024-05-01-10-{}-02a4d7c2.json"
    write(root, [task(0, "cat"), task(1, "dog")], name.format("00"))
    source = open_split(root, val_fraction=0.01)
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("dog",)}
    assert f"{name.format('00')}: Label Studio, 2 tasks" in said(source)
    write(root, [task(0, "cat")], name.format("30"))
    with pytest.raises(DataError, match=r"several exports of Label Studio \(project-3-.*-00-.*-30"):
        open_split(root)
    assert len(open_split(root, val_fraction=0.01, labels=name.format("00"))) == len(source)


def test_an_image_that_a_list_names_has_to_be_labelled(root):
    write(root, [task(0, "cat"), task(3, results=False)])
    write(root, "images/i0\nimages/i3\n", "train.txt")
    with pytest.raises(DataError, match=r"image 'images/i3' is not labelled \(unfinished\); label"):
        open_split(root)


@pytest.mark.parametrize("name", ["annotations/instances_default.json", "result.json", "my.json"])
def test_coco(root, name):
    rows = ("i0.jpg", "cat"), ("i1.jpg", "dog", "cat", "dog"), ("images/i2.jpg",)
    write(root, instances(*rows), name)
    source = open_split(root, val_fraction=0.01, labels=name if name == "my.json" else "")
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("cat", "dog")}
    assert f"{name}: COCO instances, 3 images; left out as not labelled: 1 with" in said(source)
    file = name.rpartition("/")[2]
    assert f"{file}: no image has these labels of its list, which are no classes" in said(source)
    assert ": yak; list all classes in classes.txt" in said(source)
    write(root, "yak\ncat\ndog\n", "classes.txt")
    source = open_split(root, val_fraction=0.01, labels=name if name == "my.json" else "")
    assert source.class_names == ("yak", "cat", "dog") and "no classes then" not in said(source)


def test_masks_and_a_list_in_another_order(root):
    write(root, instances(("i0.jpg", "yak"), ("i1.jpg", "cat", "dog")))
    (root / "masks").mkdir()
    with pytest.raises(DataError, match=r"the label file lists 'yak' earlier .*; list the classes"):
        open_split(root)
    write(root, "yak\ncat\ndog\n", "classes.txt")
    assert open_split(root).class_names == ("yak", "cat", "dog")


def test_cvat(root):
    write(
        root,
        '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version>'
        '<image id="0" name="i0.jpg"><tag label="cat"/></image>'
        '<image id="1" name="i1.jpg"><box label="background"/><box label="dog"/></image>'
        '<image id="2" name="i2.jpg"><tag label="background"/></image>'
        '<image id="3" name="i3.jpg"/></annotations>',
        "annotations.xml",
    )
    source = open_split(root, val_fraction=0.01)
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("dog",), "images/i2": ()}
    assert "annotations.xml: CVAT for images, 4 images; left out as not labelled" in said(source)
    assert "background is left out where there are others, in 1 image; every" in said(source)
    assert "1 image is labelled background alone" in said(source)


def test_fiftyone(root):
    labels = {"i0": 0, "i1": [1, 0], "i2": None, "i3": []}
    write(root, {"classes": ["cat", "dog"], "labels": labels})
    source = open_split(root, val_fraction=0.01)
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("cat", "dog"), "images/i3": ()}
    assert "FiftyOne, 4 samples; left out as not labelled: 1 without a label (i2)" in said(source)


@pytest.mark.parametrize("place", ["images/train/{}", "train/images/{}", "train/{}"])
def test_subsets_with_images_of_one_name(tmp_path, place):
    other = place.replace("train", "val")
    pictures(tmp_path, *(p.format(n) for p in (place, other) for n in ("a.jpg", "b.jpg")))
    for subset, category in (("train", "cat"), ("val", "dog")):
        content = instances(("a.jpg", category), ("b.jpg",))
        write(tmp_path, content, f"annotations/instances_{subset}.json")
    if "train/images" in place:  # which the subset alone does not tell
        with pytest.raises(DataError, match="may be any of 2 images"):
            open_split(tmp_path)
        return
    expected = {place.format("a"): ("cat",)}, {other.format("a"): ("dog",)}
    source = open_split(tmp_path)
    assert (words(source), words(open_split(tmp_path, "val"))) == expected
    assert "annotations/instances_val.json: COCO instances, 2 images; left out" in said(source)
    items = [
        f'<image id="{k}" name="a.jpg" subset="{subset}"><tag label="{label}"/></image>'
        for k, (subset, label) in enumerate((("train", "cat"), ("val", "dog")))
    ]
    write(tmp_path, f"<annotations>{''.join(items)}</annotations>", "annotations.xml")
    assert (words(open_split(tmp_path)), words(open_split(tmp_path, "val"))) == expected


def test_contradictions_and_ambiguities_are_refused_together(root):
    write(root, instances(("images/i0.jpg", "cat"), ("i0.jpg", "dog"), ("b/i0.jpg", "dog")))
    with pytest.raises(DataError, match=r"image 1: 'i0.jpg' is there twice with other labels, .*"):
        open_split(root)
    pictures(root, "more/i1.jpg")
    write(root, instances(("images/i0.jpg", "cat"), ("i1.jpg", "dog"), ("i1.png", "dog")))
    message = r"image 1, names 'i1.jpg', .* \(images/i1, more/i1\).* \(1 other entry likewise\)"
    with pytest.raises(DataError, match=message):
        open_split(root)


def test_files_without_a_label_are_refused(root):
    write(root, instances(("i0.jpg",)))
    with pytest.raises(
        DataError, match=r"COCO instances\) has no labelled image among its 1 image"
    ):
        open_split(root)
    write(root, instances())
    with pytest.raises(DataError, match=r"\(COCO instances\) has no image; export it anew"):
        open_split(root)


def test_a_file_for_each_split(tmp_path):
    pictures(tmp_path, "train/a.jpg", "train/b.jpg", "valid/a.jpg", "test/c.jpg")
    name = "_annotations.coco.json"
    write(tmp_path, instances(("a.jpg", "cat"), ("b.jpg",)), f"train/{name}")
    write(tmp_path, instances(("a.jpg", "dog")), f"valid/{name}")
    write(tmp_path, instances(("c.jpg", "cat"), ("gone.jpg", "cat")), f"test/{name}")
    options = {"splits": ("train", "valid")}
    train, valid = (open_split(tmp_path, split, **options) for split in ("train", "valid"))
    assert words(train) == {"train/a": ("cat",)} and words(valid) == {"valid/a": ("dog",)}
    assert f"train/{name}: COCO instances, 2 images; left out as not labelled: 1" in said(train)
    assert f"1 of 4 entries in {name} names no image (gone.jpg)" in said(train)
    assert "passed over" not in said(train)
    write(tmp_path, instances(("../train/a.jpg", "dog")), f"valid/{name}")
    with pytest.raises(
        DataError, match=r"'train/a' has other labels in .*valid/_.* than in .*trai"
    ):
        open_split(tmp_path, **options)
    for labels, message in (("*/x.json", "fits no file in"), ("/*/x.json", "is no pattern of fil")):
        with pytest.raises(DataError, match=message):
            open_split(tmp_path, labels=labels, **options)


def test_hugging_face(tmp_path):
    pictures(tmp_path, "train/a.jpg", "train/sub/b.jpg", "val/c.jpg")
    write(
        tmp_path,
        '{"file_name": "a.jpg", "animals": ["cat", "dog"]}\n\n'
        '{"file_name": "sub/b.jpg", "animals": "dog"}\n',
        "train/metadata.jsonl",
    )
    boxes = {"bbox": [[0, 0, 1, 1]] * 2, "categories": ["dog", "dog"]}
    write(tmp_path, json.dumps({"file_name": "c.jpg", "objects": boxes}), "val/metadata.jsonl")
    assert words(open_split(tmp_path)) == {"train/a": ("cat", "dog"), "train/sub/b": ("dog",)}
    assert words(open_split(tmp_path, "val")) == {"val/c": ("dog",)}
    write(tmp_path, '{"file_name": "a.jpg", "x": 1}\n{"file_name"\n', "train/metadata.jsonl")
    with pytest.raises(DataError, match=r"metadata\.jsonl cannot be read \(line 2: "):
        open_split(tmp_path)


def test_yolo_of_cvat(tmp_path):
    pictures(tmp_path, "obj_train_data/a.jpg", "obj_train_data/sub/b.jpg", "obj_val_data/c.jpg")
    for name in ("obj_train_data/a", "obj_train_data/sub/b", "obj_val_data/c"):
        write(tmp_path, BOX.format(1), f"{name}.txt")
    write(tmp_path, "cat\ndog\n", "obj.names")
    write(tmp_path, "data/obj_train_data/a.jpg\ndata/obj_train_data/sub/b.jpg\n", "train.txt")
    write(tmp_path, "data/obj_val_data/c.jpg\n", "val.txt")
    source = open_split(tmp_path)
    assert words(source) == {"obj_train_data/a": ("dog",), "obj_train_data/sub/b": ("dog",)}
    assert words(open_split(tmp_path, "val")) == {"obj_val_data/c": ("dog",)}
    assert source.class_names == ("cat", "dog") and "passed over" not in said(source)


def test_other_files_of_such_names_are_passed_over(tmp_path):
    pictures(tmp_path, "cat/a.jpg", "dog/b.jpg")
    write(tmp_path, "file_name,camera\na.jpg,3\n", "metadata.csv")
    write(tmp_path, {"accuracy": 1}, "result.json")
    write(tmp_path, "file_name,text\na.jpg,a cat\n", "cat/metadata.csv")
    source = open_split(tmp_path, val_fraction=0.01)
    assert words(source) == {"cat/a": ("cat",), "dog/b": ("dog",)}
    assert "3 files passed over: cat/metadata.csv, metadata.csv, result.json are" in said(source)


TABLE = """annotation_id;annotator;choice;created_at;id;image;lead_time;updated_at
100;1;cat;2024;1;/data/upload/7/00000000-i0.jpg;1.0;2024
101;1;"{""choices"":[""cat"",""dog""]}";2024;2;/data/upload/7/00000001-i1.jpg;1.0;2024
;;;;3;/data/upload/7/00000002-i2.jpg;;
"""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_table_of_label_studio(root, delimiter):
    # Commas within quotes stay.
    text = TABLE.replace(",", "&").replace(";", delimiter).replace("&", ",")
    write(root, text, "labels.csv")
    source = open_split(root, val_fraction=0.01)
    assert words(source) == {"images/i0": ("cat",), "images/i1": ("cat", "dog")}
    assert "labels.csv: Label Studio (CSV), 3 tasks; left out as not labelled: 1 un" in said(source)


BOX = "{} 0.5 0.5 0.25 0.25\n"


@pytest.mark.parametrize("layout", ["images/{split}/{name}.jpg", "{split}/images/{name}.jpg"])
def test_yolo(tmp_path, layout):
    texts = {"a": BOX.format(0) + BOX.format(2) * 2, "b": "1 0.1 0.1 0.2 0.1 0.2 0.2\n", "c": None}
    for split, files in (("train", texts), ("val", {"d": "", "e": BOX.format(1)})):
        for name, text in files.items():
            image = layout.format(split=split, name=name)
            pictures(tmp_path, image)
            if text is not None:
                write(tmp_path, text, image.replace("images", "labels").replace(".jpg", ".txt"))
    names = "names:\n  0: cat\n  1: yak\n  2: dog\n"
    write(tmp_path, f"train: images/train\nval: images/val\n{names}", "data.yaml")
    train, val = open_split(tmp_path), open_split(tmp_path, "val")
    assert train.class_names == ("cat", "yak", "dog")
    assert list(words(train).values()) == [("cat", "dog"), ("yak",)]
    assert list(words(val).values()) == [(), ("yak",)]
    assert "1 of 5 images has no text file of the same name" in said(train)
    assert "passed over" not in said(train)
    assert ": 1 is empty (" in said(train) and "its image counts as without any class" in said(
        train
    )
    write(tmp_path, "nc: 3\n", "data.yaml")
    with pytest.raises(DataError, match=r"holds boxes, .*; list the classes in .*classes\.txt"):
        open_split(tmp_path)
    write(tmp_path, "cat\nyak\ndog\n", "classes.txt")
    assert open_split(tmp_path).class_names == ("cat", "yak", "dog")
