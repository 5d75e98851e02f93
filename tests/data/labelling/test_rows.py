import pytest

from toco_jax.data.labelling.label_files import read_label_file
from toco_jax.runtime.errors import DataError

LONG = "file,tag\na.jpg,cat\na.jpg,dog\nb.jpg,dog\nc.jpg,emu\nc.jpg,cat\nc.jpg,emu\n"


def read(path, text, **options):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_label_file(path, **options)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_one_row_per_label(tmp_path, encoding, delimiter):
    text = LONG.replace(",", delimiter).replace("cat", "chätte")
    file = read(tmp_path / "x.csv", text.encode(encoding))
    assert file.entries == {"a": ["chätte", "dog"], "b": ["dog"], "c": ["emu", "chätte"]}
    said = "has one row for each label: 2 images with several rows (a, c) get the labels of all"
    assert said in file.remarks[0] and len(file.remarks) == 1


def test_numbers_of_classes(tmp_path):
    file = read(tmp_path / "x.csv", "a.jpg,0\na.jpg,2\nb.jpg,1\nb.jpg,0\n", known=("x", "y", "z"))
    assert {name: entry.numbers for name, entry in file.entries.items()} == {
        "a": (0, 2),
        "b": (1, 0),
    }


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,cat\na.jpg,dog\nb.jpg,dog\n",  # one image alone may be a mistake
        LONG + "d.jpg,cat;dog\n",  # rows of several labels
        LONG.replace("a.jpg,dog", "./a.jpg,dog"),  # another spelling
        LONG + "".join(f"{k}.jpg,cat\n" for k in range(40)),  # two of 43
        "file,cat,dog\na.jpg,1,1\na.jpg,0,1\nb.jpg,1,0\nb.jpg,0,1\n",  # vectors
    ],
)
def test_contradictions_are_refused(tmp_path, text):
    with pytest.raises(DataError, match=r"there twice with other labels, .*; join the labels of"):
        read(tmp_path / "x.csv", text)
