import pytest

from toco_jax.data.labelling.tools import fiftyone, recognise
from toco_jax.runtime.errors import DataError


def read(labels, classes=("cat", "dog", "emu")):
    content = {"classes": classes and list(classes), "labels": labels}
    project = recognise.of_json(content, "file x")
    assert project.tool == "FiftyOne"
    return project


def test_labels_of_every_kind():
    project = read(
        {
            "a": 1,
            "sub/b": "cat",
            "c": [2, 0, 2],
            "d": {"label": "emu", "confidence": 0.5},
            "e": [{"label": 1, "bounding_box": [0, 0, 1, 1]}, {"label": 2}],
            "f": [],
            "g": None,
        }
    )
    labels = {item.name: item.labels for item in project.images}
    assert labels == {
        **{"a": ["dog"], "sub/b": ["cat"], "c": ["emu", "cat"], "d": ["emu"]},
        **{"e": ["dog", "emu"], "f": [], "g": []},
    }
    assert [item.name for item in project.images if item.unlabelled] == ["g"]
    assert project.classes == ["cat", "dog", "emu"]
    assert read({"a": ["cat"]}, None).images[0].labels == ["cat"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "file x, sample 'a': label 3 is no place in the list of 3 classes"),
        (-1, "label -1 is no place"),
        (True, "label is True, not a text"),
        ([None], "label is missing"),
        ({"name": "cat"}, "label is missing"),
        ([[1]], "label is <list>, not a text"),
    ],
)
def test_broken_labels_are_named(target, message):
    with pytest.raises(DataError, match=message):
        read({"a": target})


def test_other_objects_are_not_taken_for_it():
    for content in ({"labels": {"a": 0}}, {"classes": "cat", "labels": {}}, {"a.jpg": ["cat"]}, []):
        assert not fiftyone.is_labels(content)
