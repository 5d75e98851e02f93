"""Names in lists and label files that lead out of the folder of the data set."""

import json

import numpy as np
import pytest

from toco_jax.data.build.coco_instances import read_annotations
from toco_jax.data.classes import COCO_CLASSES
from toco_jax.data.labelling.label_files import read_label_file
from toco_jax.data.labelling.lists import finder, read_names
from toco_jax.data.sources.coco import CATEGORY_IDS, open_coco
from toco_jax.evaluation.submission import ListedImages, SubmissionError
from toco_jax.runtime.errors import DataError

OUTSIDE = ("../outside/x", "a/../../x.jpg", "..", "..\\x", "/etc/x.png", "C:\\x")


@pytest.mark.parametrize("name", OUTSIDE)
def test_lists(tmp_path, name):
    path = tmp_path / "train.txt"
    path.write_text(f"a/b\n{name}\n")
    for name_of in ({}, {"name_of": finder(tmp_path, {"a/b": tmp_path / "a" / "b.jpg"})}):
        with pytest.raises(DataError, match=r"train\.txt has the line .* is not below") as caught:
            read_names(path, **name_of)
        assert repr(name) in str(caught.value)


def test_a_full_path_below_the_folder_is_a_name(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(f"{tmp_path}/a/b.jpg\n./c.png\n")
    find = finder(tmp_path, {"a/b": tmp_path / "a" / "b.jpg", "c": tmp_path / "c.png"})
    assert read_names(path, find) == ("a/b", "c")


@pytest.mark.parametrize("name", [*OUTSIDE, "a\0b"])
def test_label_files(tmp_path, name):
    contents = {
        "labels.json": json.dumps({name: ["cat"]}).encode(),
        "labels.csv": b"" if "\0" in name else f"{name},cat\n".encode(),
    }
    np.save(tmp_path / "labels.npy", np.array({name: np.ones(2)}, object))
    np.savez(tmp_path / "labels.npz", names=np.array([name]), labels=np.ones((1, 2)))
    for file, content in contents.items():
        (tmp_path / file).write_bytes(content)
    for file in [*filter(contents.get, contents), "labels.npy", "labels.npz"]:
        with pytest.raises(DataError, match=rf"{file} has an entry for .*is not below") as caught:
            read_label_file(tmp_path / file, known=("cat", "dog"))
        assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "a\0b"])
def test_the_index_of_coco(tmp_path, name):
    (tmp_path / "prepared").mkdir()
    labels = np.zeros((1, len(COCO_CLASSES)), np.uint8)
    np.savez(tmp_path / "prepared" / "val2014.npz", names=np.array([f"{name}x"]), labels=labels)
    with pytest.raises(DataError, match=r"val2014\.npz cannot be read .names are not those"):
        open_coco(tmp_path, "val", masks=False)


@pytest.mark.parametrize("name", ["../..", "a\0b.jpg"])
def test_instances_of_coco(tmp_path, name):
    ids = zip(CATEGORY_IDS, COCO_CLASSES, strict=True)
    content = {
        "images": [{"id": 1, "file_name": name, "height": 2, "width": 2}],
        "annotations": [],
        "categories": [{"id": number, "name": word} for number, word in ids],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="no name of a file"):
        read_annotations(tmp_path / "instances.json")


@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..\\x"])
def test_the_list_of_a_submission(tmp_path, name):
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text(f"2007_000001\n{name}\n")
    with pytest.raises(SubmissionError, match=r"test\.txt has .* no name of an image") as caught:
        ListedImages(tmp_path, "test")
    assert repr(name) in str(caught.value)
