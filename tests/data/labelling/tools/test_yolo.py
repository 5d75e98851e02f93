import time

import pytest

from toco_jax.data.labelling.tools import yolo
from toco_jax.runtime.errors import DataError


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, no, '10']",
        "names:\n- cat\n- no\n- 10",
        "names:\n  1: no\n  0: cat\n  2: 10  # ten",
        'names: {"0": cat, 1: "no", 2: 10}',
    ],
)
def test_names(names):
    text = f"# a data set\npath: ../x\ntrain: images/train\nval:\n{names}\nnc: 3\n"
    assert yolo.class_names(text, "x") == ["cat", "no", "10"]


@pytest.mark.parametrize("text", ["", "nc: 3", "[1]", "path: x"])
def test_files_without_names(text):
    assert yolo.class_names(text, "x") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [", r"x cannot be read as YAML \(.*\); correct it or list the classes"),
        ("a: &a [x]\nnames: *a", "refers to a value elsewhere in the file"),
        ("names: {1: a, 2: b}", "the names are not numbered from 0 on"),
        ("names: {a: 0, b: 1}", "the names are not numbered from 0 on"),
        ("names: cat", "names is no list of classes"),
        ("names: [a, [b]]", "a class of names is <list>, not a text"),
        ("names: ['']", "a class of names is missing or empty"),
        ("[" * 10**5, "cannot be read as YAML"),
        ("names: [" + "a, " * 10**5 + "]", "x has more than 200000 characters; list"),
        ("? " * 10**4, "cannot be read as YAML"),
        ("- " * 10**4, "cannot be read as YAML"),
        ("a: " * 10**4, "cannot be read as YAML"),
    ],
)
def test_other_files_are_refused_soon(text, message):
    start = time.process_time()
    with pytest.raises(DataError, match=message):
        yolo.class_names(text, "x")
    assert time.process_time() - start < 3
