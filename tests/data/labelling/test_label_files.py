import json

import numpy as np
import pytest

from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.labelling.label_files import classes_in_mask, read_label_file
from toco_jax.runtime.errors import DataError

CLASSES = ("cat", "dog", "emu")
VECTORS = {"one": [1, 0, 1], "two": [0, 0, 0]}


def labels_from_file(path, class_names):
    """Reader of a label file: a name to its vector."""
    file = read_label_file(path, known=class_names)
    return lambda name: as_vector(file.entry(name), class_names, f"label file {path}, {name!r}")


def write(path, entries=VECTORS):
    vectors = {name: np.asarray(vector, np.float32) for name, vector in entries.items()}
    if path.suffix == ".npy":
        np.save(path, vectors, allow_pickle=True)
    elif path.suffix == ".npz" and path.stem == "columns":
        np.savez(path, names=list(vectors), labels=np.stack(list(vectors.values())))
    elif path.suffix == ".npz":
        np.savez_compressed(path, **vectors)
    elif path.suffix == ".json":
        path.write_text(json.dumps({name: vector.tolist() for name, vector in vectors.items()}))
    return path


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "columns.npz", "x.json"])
def test_vectors(tmp_path, name):
    read = labels_from_file(write(tmp_path / name), CLASSES)
    for image, vector in VECTORS.items():
        np.testing.assert_array_equal(read(image), vector)
        assert read(image).dtype == np.uint8
    with pytest.raises(
        DataError, match=f"{name} has no entry for image 'three' .*; add it or take"
    ):
        read("three")


def test_names(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"one": ["emu", "cat"], "two": [], "three": "dog"}))
    read = labels_from_file(path, CLASSES)
    rows = [read(name).tolist() for name in ("one", "two", "three")]
    assert rows == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (
            [1, 0, 0, 1],
            r"'one': a vector of shape \(4,\), but there are 3 classes; give one value for each",
        ),
        ([[1, 0, 0]], "'one': a nested list or object is no label; save"),
        ([2, 0, 0], "'one': values other than 0 and 1; give one-hot sums"),
        ([0.5, 0, 0], "values other than 0 and 1"),
        ([1, "cat", 0], "'one': no vector, but there are 3 classes"),
        (["yak"], r"'yak' is none of the 3 classes \(cat, dog, emu\); correct the name"),
        ({"a": 1}, "'one': a nested list or object is no label; save"),
    ],
)
def test_wrong_entries_are_named(tmp_path, vector, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"one": vector}))
    with pytest.raises(DataError, match=f"label file {path}, .*{message}"):
        labels_from_file(path, CLASSES)("one")


VOC_KEYS = {2007000032: "2007_000032", 2012004331: "2012_004331", 32: "000032"}


@pytest.mark.parametrize("key_type", [int, np.int64, np.str_, np.bytes_, bytes, str])
@pytest.mark.parametrize("name", ["x.npy", "columns.npz"])
def test_names_of_every_type(tmp_path, key_type, name):
    vectors = {
        key_type(
            key
            if key_type in (int, np.int64)
            else image.encode()
            if "bytes" in key_type.__name__
            else image
        ): np.eye(3, dtype=np.float32)[k]
        for k, (key, image) in enumerate(VOC_KEYS.items())
    }
    if name == "x.npy":
        np.save(tmp_path / name, vectors)
    else:
        np.savez(tmp_path / name, names=list(vectors), labels=np.stack(list(vectors.values())))
    file = read_label_file(tmp_path / name, known=CLASSES, names=VOC_KEYS.values())
    for k, image in enumerate(VOC_KEYS.values()):
        np.testing.assert_array_equal(file.entry(image), np.eye(3)[k])
    told = any("3 names are numbers" in remark for remark in file.remarks)
    assert told == (key_type in (int, np.int64))
    assert not told or any("2007000032 as '2007_000032'" in remark for remark in file.remarks)


def test_numbers_name_the_image_that_is_there(tmp_path):
    np.save(tmp_path / "x.npy", {2007000032: np.ones(3), 5: np.zeros(3), 8: np.zeros(3)})
    (tmp_path / "x.csv").write_text("file,label\n2007000032,cat\n5,dog\n8.jpg,dog\n")
    for name in ("x.npy", "x.csv"):  # a spreadsheet takes the zeros in front away
        file = read_label_file(tmp_path / name, names=("2007000032", "000005", "8"))
        assert set(file.entries) == {"2007000032", "000005", "8"}
        file = read_label_file(tmp_path / name, names=("2007_000032", "5", "08"))
        assert set(file.entries) == {"2007_000032", "5", "08"}
        with pytest.raises(DataError, match=rf"{name} has the number 5, .* '005'.*'05'"):
            read_label_file(tmp_path / name, names=("05", "005"))


def test_endings_in_keys_and_capitals_in_the_files_own(tmp_path):
    np.save(tmp_path / "x.npy", {"one.jpg": np.ones(3)})
    (tmp_path / "x.npy").rename(tmp_path / "X.NPY")
    np.testing.assert_array_equal(labels_from_file(tmp_path / "X.NPY", CLASSES)("one"), [1, 1, 1])


def test_keys_and_arrays_that_are_no_names(tmp_path):
    np.save(tmp_path / "x.npy", {1.5: np.ones(3)})
    with pytest.raises(DataError, match=r"x\.npy has the key 1\.5, which is no name of an image"):
        read_label_file(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", names=["a", "b"], labels=np.ones((3, 3)))
    with pytest.raises(
        DataError, match=r"x\.npz cannot be read \(names of shape \(2,\), labels of"
    ):
        read_label_file(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    with pytest.raises(DataError, match=r"x\.npy .*shape \(2, 3\) .*; save \{name: label\} w"):
        read_label_file(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", {2007000032: np.ones(3), "2007_000032.jpg": np.zeros(3)})
    with pytest.raises(DataError, match=r"'2007_000032.jpg' is there twice .* first as 2007000032"):
        read_label_file(tmp_path / "x.npy", names=("2007_000032",))


def test_a_vector_with_the_background_is_told(tmp_path):
    np.save(tmp_path / "x.npy", {"one": np.float32([1, 1, 0, 0])})
    with pytest.raises(
        DataError,
        match=r"shape \(4,\).* 3 classes; give one value for each and none for the background",
    ):
        labels_from_file(tmp_path / "x.npy", CLASSES)("one")


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": {}, "categories": []},
        {"version": "5.0", "flags": {"cat": True}, "shapes": {}, "imagePath": "a.jpg"},
        {"classes": {"0": "cat"}, "labels": {"a": 0}},
    ],
)
def test_json_of_other_tools_is_named(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        DataError, match=rf"label file {path}, '\w+': a nested .* is no label; save"
    ):
        read_label_file(path, known=CLASSES)


def test_deep_json_is_no_traceback(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"x\.json cannot be read"):
        read_label_file(tmp_path / "x.json")


class Evil:
    def __reduce__(self):
        return print, ("this must not be run",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.npy", b"junk", r"cannot be read \(.*x.npy is not a .npy file, or is damaged"),
        ("x.npz", b"junk", "cannot be read"),
        ("x.json", b"{", "cannot be read"),
        ("x.json", b"[1]", "holds list, not a dictionary from image names to labels; save"),
        ("x.json", b"{}", "is empty; give every image its labels"),
        ("x.txt", b"", r"ends in none of \.npy, \.npz, \.json, \.jsonl, \.csv, \.xml; convert it"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"label file {tmp_path / name} {message}"):
        labels_from_file(tmp_path / name, CLASSES)


def test_a_pickle_is_not_run(tmp_path, capsys):
    np.save(tmp_path / "x.npy", {"one": Evil()}, allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        labels_from_file(tmp_path / "x.npy", CLASSES)
    assert capsys.readouterr().out == ""
    np.save(tmp_path / "plain.npy", np.eye(3))
    with pytest.raises(DataError, match=r"holds an array of shape \(3, 3\)"):
        labels_from_file(tmp_path / "plain.npy", CLASSES)


def test_classes_in_mask(tmp_path):
    from toco_jax.data.mask_files import write_mask

    mask = np.array([[0, 3, 3], [1, 255, 0]], np.uint8)
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(classes_in_mask(tmp_path / "m.png", 3), [1, 0, 1])
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]  # nothing temporary is left
