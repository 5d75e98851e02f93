import json

import numpy as np
import pytest

from toco_jax.data import DataError
from toco_jax.data.label_files import as_vector, classes_in_mask, read_label_file

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
        ([1, 0, 0, 1], r"'one': a vector of shape \(4,\), but there are 3 classes; the background"),
        ([[1, 0, 0]], r"a vector of shape \(1, 3\)"),
        ([2, 0, 0], "'one': values other than 0 and 1; give one-hot sums"),
        ([0.5, 0, 0], "values other than 0 and 1"),
        ([1, "cat", 0], "'one': no vector, but there are 3 classes"),
        (["yak"], r"'yak' is none of the 3 classes \(cat, dog, emu\); correct the name"),
        ({"a": 1}, "no vector"),
    ],
)
def test_wrong_entries_are_named(tmp_path, vector, message):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"one": vector}))
    with pytest.raises(DataError, match=f"label file {path}, .*{message}"):
        labels_from_file(path, CLASSES)("one")


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
        ("x.txt", b"", r"ends in none of \.npy, \.npz, \.json, \.csv; convert it"),
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
    from toco_jax.data.labels import write_mask

    mask = np.array([[0, 3, 3], [1, 255, 0]], np.uint8)
    write_mask(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(classes_in_mask(tmp_path / "m.png", 3), [1, 0, 1])
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]  # nothing temporary is left
