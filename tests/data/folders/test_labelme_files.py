import json

import pytest
from data.conftest import pictures

from toco_jax import data
from toco_jax.runtime.errors import DataError


def file(image, *shapes, **flags):
    return {
        **{"version": "5.5.0", "flags": flags, "imagePath": image, "imageData": None},
        **{"shapes": [{"label": name, "points": [[0, 0]], "flags": {}} for name in shapes]},
    }


def write(root, **files):
    for name, content in files.items():
        path = root / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def opened(root, split="train", **options):
    options = {"val_fraction": 0.01, **options}
    return data.open_source("folder", root=root, split=split, masks=False, **options)


def words(source):
    rows = zip(source.names, source.cls_labels, strict=True)
    return {
        name: [c for c, bit in zip(source.class_names, row, strict=True) if bit]
        for name, row in rows
    }


def said(source):
    return "\n".join(str(remark) for remark in source.remarks)


def test_files_beside_images(tmp_path):
    pictures(tmp_path, *(f"{name}.jpg" for name in "abcdef"))
    write(
        tmp_path,
        a=file("a.jpg", "dog", "dog", "__ignore__"),
        b=file("renamed.jpg", "dog", cat=True, emu=False),
        c=file("c.jpg", cat=False),
        d=file("d.jpg"),
        notes={"a": 1},
    )
    source = opened(tmp_path)
    assert words(source) == {"a": ["dog"], "b": ["cat", "dog"], "c": []}
    remarks = said(source)
    assert "*.json: labelme, 4 files; left out as not labelled: 1 without flags or shape" in remarks
    assert "2 of 6 images have no entry in *.json (e, f)" in remarks
    assert "1 file passed over: notes.json is no picture" in remarks


def test_files_elsewhere(tmp_path):
    pictures(tmp_path, "images/cats/a.jpg", "images/b.jpg")
    write(
        tmp_path,
        annotations__a=file("..\\images\\cats\\a.jpg", "cat"),
        annotations__b=file("b.jpg", "dog"),
    )
    source = opened(tmp_path, labels="labelme")
    assert words(source) == {"images/cats/a": ["cat"], "images/b": ["dog"]}
    assert "passed over" not in said(source)


def test_broken_files_are_named_with_their_images(tmp_path):
    pictures(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, a="{", b=file("b.jpg", "dog"))
    problems = {}
    source = opened(tmp_path, on_problem=problems.__setitem__)
    assert words(source) == {"a": [], "b": ["dog"]} and list(problems) == ["a"]
    assert "a.json cannot be read (Expecting property name" in str(problems["a"])
    for content, message in (
        (file("b.jpg", "dog"), "lies beside the image 'a' and says that it is of 'b.jpg'; correct"),
        (file("a.jpg", dog=1), "a.json: flag 'dog' is 1, neither true nor false"),
        (file("a.jpg", 3), "label of a shape is 3, not a text"),
    ):
        write(tmp_path, a=content)
        with pytest.raises(DataError, match=message):
            opened(tmp_path)
    write(tmp_path, a="{}", b="[]")
    with pytest.raises(DataError, match="holds no file of labelme, a JSON with imagePath and shap"):
        opened(tmp_path, labels="labelme")


def test_class_folders_with_some_files_are_refused(tmp_path):
    pictures(tmp_path, "cat/a.jpg", "cat/b.jpg")
    write(tmp_path, cat__a=file("a.jpg", "dog"))
    message = r"only 1 of 2 images has a file of labelme of the same name \(cat/a\).* to labelme or"
    with pytest.raises(DataError, match=message):
        opened(tmp_path)
    assert words(opened(tmp_path, labels="labelme")) == {"cat/a": ["dog"]}
    assert words(opened(tmp_path, labels="folders")) == {"cat/a": ["cat"], "cat/b": ["cat"]}
