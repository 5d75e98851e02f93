import pytest

from toco_jax.data.labelling.tools import coco
from toco_jax.runtime.errors import DataError


def instances(**changes):
    content = {
        "images": [{"id": 4, "file_name": "a.jpg"}, {"id": "9", "file_name": "sub/b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 70, "bbox": [0, 0, 1, 1]},
            {"id": 2, "image_id": 4, "category_id": 3, "iscrowd": 1},
            {"id": 3, "image_id": 4, "category_id": 70},
        ],
        "categories": [{"id": 70, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 0, "name": "x"}],
    }
    return content | changes


def test_objects_are_labels():
    project = coco.of_instances(instances(), "x")
    assert project.images == [
        ("a.jpg", ["dog", "cat"], "image 4", "", ""),
        ("sub/b.jpg", [], "image 9", "without annotations", ""),
    ]
    assert project.classes == ["dog", "cat", "x"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": [{"image_id": 5, "category_id": 3}]}, "number 1: image_id 5 is none of"),
        ({"annotations": [{"image_id": 4, "category_id": 5}]}, "category_id 5 is none of the file"),
        ({"annotations": [{"image_id": 4}]}, "category_id is None, not a whole number"),
        ({"images": [{"id": 4, "file_name": 3}]}, "image 4: file_name is 3, not a text"),
        ({"images": [{"id": 1}] * 2}, "x: image 1 is there twice"),
        ({"images": [{"id": 1.5}]}, "image number 1: id is 1.5, not a whole"),
        ({"categories": [{"id": 3, "name": " "}]}, "category 3: name is ' ', not a text"),
        ({"categories": [None]}, "categories holds None in place 1, not an object"),
    ],
)
def test_broken_files_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        coco.of_instances(instances(**changes), "x")
