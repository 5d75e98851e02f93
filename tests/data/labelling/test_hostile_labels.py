"""Label files that somebody made to fill the memory, or to keep a reader busy."""

import io
import json
import struct
import time

import numpy as np
import pytest

from toco_jax.data.build.coco_instances import read_annotations
from toco_jax.data.classes import in_label_order, name_problems
from toco_jax.data.labelling.annotations import read_annotation
from toco_jax.data.labelling.label_entries import as_vector
from toco_jax.data.labelling.label_files import read_label_file
from toco_jax.data.labelling.sidecars import read_sidecars
from toco_jax.runtime.errors import DataError

KNOWN = ("cat", "dog")


def refused(path, content, match, known=KNOWN):
    """A sentence, soon, whether it comes with the file or with its first entry."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(DataError, match=match) as caught:
        file = read_label_file(path, known=known)
        as_vector(next(iter(file.entries.values())), known, f"label file {path}")
    assert time.process_time() - start < 5
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[" * 10**5, "nested too deeply"),
        ('{"a":' * 900 + "1" + "}" * 900, "nested list or object"),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ('{"a": ' + "9" * 4000 + "}", "no vector"),
        ('{"a": [' + "9" * 4000 + "]}", "no vector"),
        (json.dumps({"a" * 10**6: [{}]}), r"'a+'\.\.\. \(999900 more\): a nested"),
        (json.dumps({"a": "b" * 10**6}), "longer than 200 characters"),
        (json.dumps({"a": ["b" * 10**6]}), "longer than 200 characters"),
        ('{"a\\u0000b": ["bird"]}', "bird"),
        ('{"a": ["b\\u0000"]}', "none of the 2 classes"),
        ('{"a": Infinity}', "a vector of shape"),
        ("\0", "zero bytes"),
    ],
)
def test_json(tmp_path, content, match):
    refused(tmp_path / "labels.json", content, match)


DIGITS = "9" * 4000


def task(ident, image, annotations="[]"):
    return f'[{{"id": {ident}, "data": {{"image": "{image}"}}, "annotations": {annotations}}}]'


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (task(DIGITS, "a.jpg", "[1]"), "task <int>: annotations holds 1 in place 1"),
        (task(1, "data:image/png;base64," + "A" * 10**6), "has no image"),
        (task('"' + "x" * 10**6 + '"', ""), r"task 'x+'\.\.\. \(999900 more\) has no image"),
        (task(1, "a.jpg", '[{"result": [{"type": [[]]}]}]'), "type of a result is <list>, not a"),
        (
            '{"images": [{"id": ' + DIGITS + '}], "annotations": [], "categories": []}',
            "id is <int>",
        ),
        ('{"classes": ["cat"], "labels": {"a": ' + DIGITS + "}}", "label <int> is no place"),
        ('{"shapes": [{}], "imagePath": "' + "../" * 10**5 + 'a"}', "label of a shape is missing"),
    ],
)
def test_json_of_tools(tmp_path, content, match):
    refused(tmp_path / "labels.json", content, match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("<!DOCTYPE l [<!ENTITY a 'b'>]><annotations>&a;</annotations>", "declares entities"),
        ("<annotations>" + "<image>" * 10**5, "malformed"),
        (
            "<annotations>" + "<image><tag/>" * 2 + "</image>" * 2 + "</annotations>",
            "a <tag> withou",
        ),
        ("<annotations><image id='" + "9" * 10**6 + "'/></annotations>", "has no name"),
        ("<a" + "b" * 10**6 + "/>", "outermost element is <a"),
    ],
)
def test_xml_of_tools(tmp_path, content, match):
    refused(tmp_path / "labels.xml", content, match)


@pytest.mark.parametrize(
    "label",
    [
        "1" * 10**5 + "x",
        "[" + "," * 10**5,
        "(" + "'" * 10**5,
        "{" + " x" * 10**4,
        "=.1" * 10**4,
        ". " * 10**4 + "1" * 10**4,
        "1." * 10**4,
        "a+" * 10**4,
    ],
)
def test_no_text_is_matched_in_quadratic_time(tmp_path, label):
    refused(tmp_path / "labels.csv", f"a.jpg;{label}\n", "labels.csv", known=())


@pytest.mark.parametrize(
    "text", ["1 " + "1" * 10**5, "9" * 5000 + " 1 1 1 1", "1 1 1 1 " + ("1" * 99 + " ") * 99 + "x"]
)
def test_texts_beside_images(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=r"longer than|coordinates|boxes") as caught:
        read_sidecars(tmp_path, {"a": path}, known=KNOWN, separator="")
    assert len(str(caught.value)) < 1000


def test_names_that_are_numbers_of_thousands_of_digits(tmp_path):
    digits = "9" * 5000
    assert "more than 200 characters" in name_problems([digits])[0]
    assert in_label_order([digits, "b"], masks=True)
    path = tmp_path / "labels.csv"
    path.write_text(f"{digits},cat\n")
    assert read_label_file(path, known=KNOWN, names=("9" * 3000,)).entries


def test_a_table_of_many_columns(tmp_path):
    path = tmp_path / "labels.csv"
    columns = 10_000
    path.write_text(f"file,{','.join(f'c{i}' for i in range(columns))}\na.jpg{',1' * columns}\n")
    start = time.process_time()
    assert len(read_label_file(path).entry("a")) == columns
    assert time.process_time() - start < 10


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "arrays",
    [
        {"names": np.array([["a", "b"]]), "labels": np.zeros((1, 2))},
        {"names": np.array(["a", "b"]), "labels": np.array(3)},
        {"names": np.array("a"), "labels": np.zeros((1, 2))},
        {"names": np.array(["a"]), "labels": np.zeros((2, 2))},
        {"names": np.array([1.5]), "labels": np.zeros((1, 2))},
        {"a": np.zeros((2, 2, 2))},
        {"a": np.array("text")},
    ],
)
def test_arrays_of_other_shapes(tmp_path, arrays):
    refused(tmp_path / "labels.npz", npz(**arrays), r"labels\.npz")


def pickled(instructions):
    """An `.npy` file of one pickled object."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    before = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01)cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R\x89]"
    )
    return file.getvalue() + before + instructions + b"atb."


NAME = b"}X\x01\x00\x00\x00a"
LONG = b"\x8b" + struct.pack("<i", 10**4) + b"\x7f" * 10**4
U1 = b"cnumpy\ndtype\nX\x02\x00\x00\x00U1K\x00K\x01\x87R"
TEXT = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01\x85"
    + U1
    + b"\x89C\x04\xff\xff\xff\xfftb"
)
SCALAR = b"cnumpy.core.multiarray\nscalar\n" + U1 + b"C\x04\xff\xff\xff\xff\x86R"
DOUBLED = b")q\x01" + b"h\x01\x86q\x01" * 40


@pytest.mark.parametrize(
    ("instructions", "match"),
    [
        (NAME + DOUBLED + b"s", "nested list or object"),
        (NAME + b"]q\x01h\x01as", "nested list or object"),
        (NAME + LONG + b"s", "no vector"),
        (b"}" + LONG + b"K\x01s", "has the key <int>"),
        (b"}K\x01" + DOUBLED + b"s", "nested list or object"),
        (NAME + TEXT + b"s", "stand for no character"),
        (b"}" + SCALAR + b"K\x01s", "stand for no character"),
        (NAME + b"cnumpy\ndtype\n" + DOUBLED + b"\x85Rs", "arrays of type <tuple> are refused"),
    ],
)
def test_pickled_dictionaries(tmp_path, instructions, match):
    refused(tmp_path / "labels.npy", pickled(instructions), match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'<?xml version="1.0" encoding="base64"?><annotation/>', "encoding 'base64'"),
        (b'<?xml version="1.0" encoding="punycode"?><annotation/>', "encoding 'punycode'"),
        (b'<?xml version="1.0" encoding="Raw_Unicode_Escape"?><annotation>\\ud800', "which is unk"),
        (b'<?xml version="1.0" encoding="' + b"x" * 10**5 + b'"?><annotation/>', "which is unkno"),
        ("<!ENTITY a 'b'>".encode("utf-16-le"), "no text"),
        (b"<!DOCTYPE l [<!ENTITY a 'b'>]><annotation>&a;</annotation>", "declares entities"),
        (b"<annotation>" + b"<a>" * 10**5, "malformed"),
        (b"<" + b"a" * 10**5 + b"/>", "outermost element is"),
        (b"<annotation><object><name>" + b"a" * 10**5 + b"</name></object></annotation>", "an obj"),
        (b"<annotation>\0</annotation>", "no text"),
    ],
)
def test_annotations(tmp_path, content, match):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read_annotation(path, KNOWN)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content",
    [
        "[" * 10**5,
        '{"images": [], "annotations": [], "categories": [{"id": "' + "9" * 4000 + '"}]}',
        '{"images": [], "annotations": [], "categories": [{"id": [' + "1," * 10**5 + "1]}]}",
    ],
)
def test_instances_of_coco(tmp_path, content):
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"instances\.json") as caught:
        read_annotations(path)
    assert len(str(caught.value)) < 500
