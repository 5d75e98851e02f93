"""Weight files that somebody made to fill the memory, or to keep a reader busy."""

import json
import struct
import zipfile
import zlib

import numpy as np
import pytest

from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import class_rows, files, inspection, torch_file

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def long(num_bytes):
    """A pickle's whole number of so many bytes."""
    return b"\x8b" + struct.pack("<i", num_bytes) + b"\x7f" * num_bytes


def tensor(numbers):
    """A tensor of one stored number that comes again and again."""
    shape = b"J" + struct.pack("<i", numbers) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00" + shape + b"K\x00\x85tR"


def write_pth(path, instructions, **records):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("file/data.pkl", b"\x80\x02" + instructions)
        archive.writestr("file/data/0", b"1234")
        for name, content in records.items():
            archive.writestr(f"file/{name}", content)
    return path


def refused(path, match):
    with pytest.raises(WeightsError, match=match) as caught:
        files.read(path)
    assert len(str(caught.value)) < 1000 and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("instructions", "match"),
    [
        (b"}" + long(10**4) + b"K\x01s.", "entry <int> is a int"),
        (b"}" + text(b"a" * 10**6) + b"K\x01s.", r"entry 'a+'\.\.\. \(999900 more\)"),
        (STORAGE.replace(b"K\x01tQ", long(10**4) + b"tQ") + b".", "not <int> of float32"),
        (b"I" + b"9" * 10**6 + b"\n.", "damaged"),
        (b"F" + b"x" * 10**6 + b"\n.", "damaged"),
    ],
)
def test_pickles_with_large_values(tmp_path, instructions, match):
    refused(write_pth(tmp_path / "x.pth", instructions), match)


def test_other_entries_of_a_checkpoint_are_named_in_short(tmp_path):
    others = b"".join(text(b"%05d" % i + b"a" * 300) + b"K\x01" for i in range(100))
    path = write_pth(tmp_path / "x.pth", b"}(" + text(b"model") + b"}" + others + b"u.")
    (note,) = files.read(path).notes
    assert len(note) < 3000 and "and 80 more: not used" in note


def test_tensors_that_repeat_their_storage(tmp_path):
    path = write_pth(tmp_path / "x.pth", b"}" + text(b"a") + tensor(2**20) + b"s.")
    assert files.read(path).tensors["a"].shape == (2**20,)
    refused(write_pth(path, b"}" + text(b"a") + tensor(2**28) + b"s."), "repeat their storage")
    many = b"".join(text(b"%d" % i) + tensor(2**20) for i in range(30))
    refused(write_pth(path, b"}(" + many + b"u."), "repeat their storage")


def test_a_pickle_larger_than_any_network_s(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_file, "_LARGEST_PICKLE", 100)
    refused(write_pth(tmp_path / "x.pth", b"}" + b"N0" * 100 + b"."), "no network's")


def nested_records(names, innermost):
    """Local records of a zip file, each the content of the one before it; and their directory."""
    content, directory, offsets = innermost, b"", []
    for name in reversed(names):
        about = struct.pack("<HHHHHIII", 20, 0, 0, 0, 0, zlib.crc32(content), *[len(content)] * 2)
        directory += b"PK\x01\x02\x14\0" + about + struct.pack("<HHHHHI", len(name), 0, 0, 0, 0, 0)
        offsets.append((len(directory), len(content) + 30 + len(name)))
        directory += struct.pack("<I", 0) + name
        content = b"PK\x03\x04" + about + struct.pack("<HH", len(name), 0) + name + content
    found = bytearray(directory)
    for at, length in offsets:
        struct.pack_into("<I", found, at, len(content) - length)
    end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(found), len(content), 0)
    return content + bytes(found) + b"PK\x05\x06" + end


def test_records_that_lie_in_each_other_are_not_all_read(tmp_path):
    def pickled(innermost):
        """A pickle that asks for each of the 20 storages."""
        sizes = [innermost + 43 + 42 * (19 - i) for i in range(20)]
        asked = [
            STORAGE.replace(b"Float", b"Byte")
            .replace(text(b"0"), text(b"%02d" % i))
            .replace(b"K\x01tQ", b"J" + struct.pack("<i", size) + b"tQ")
            for i, size in enumerate(sizes)
        ]
        return b"\x80\x02" + b"".join(asked) + b"}."

    names = [b"file/data/%02d" % i for i in range(20)]
    content = pickled(len(pickled(0)))
    (tmp_path / "x.pth").write_bytes(nested_records([*names, b"file/data.pkl"], content))
    refused(tmp_path / "x.pth", "overlap")


def write_safetensors(path, header, content=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + content)
    return path


def one(shape, end):
    return {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    ("header", "content", "match"),
    [
        ({"cls_token": one([1] * 10_000, 4)}, b"1234", "damaged.*dimension"),
        ({"cls_token": one([0, 2**62, 2**62], 0)}, b"", "damaged.*too big"),
        ({"__metadata__": ["a"], "cls_token": one([1], 4)}, b"1234", "damaged"),
        ({"__metadata__": {"a": 1}, "cls_token": one([1], 4)}, b"1234", "damaged"),
        (b'{"a":' + b"[" * 10**5, b"", "damaged"),
        ({"cls_token": one([2**40], 2**42)}, b"1234", "damaged"),
    ],
)
def test_headers_of_safetensors(tmp_path, header, content, match):
    refused(write_safetensors(tmp_path / "x.safetensors", header, content), match)


def test_names_of_a_million_characters(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", {"x" * 10**6: one([1], 4)}, b"1234")
    assert all(len(line) < 1000 for line in inspection.inspect(str(path)))


@pytest.mark.parametrize(
    "classes", ["[" * 10**5, "3", '["a", 1]', '["\\u001b[31m"]', json.dumps(["a" * 1000])]
)
def test_classes_in_metadata_that_are_none(tmp_path, classes):
    header = {"__metadata__": {"classes": classes}, "cls_token": one([1], 4)}
    path = write_safetensors(tmp_path / "x.safetensors", header, b"1234")
    assert class_rows.names_of(str(path)) is None


def test_an_npz_that_unpacks_to_far_more_than_it_is(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, cls_token=np.zeros(2**24, np.float64))
    refused(path, "would unpack to 134,217,")
    np.savez(path, cls_token=np.zeros(3), metadata=np.array("[" * 10**5))
    refused(path, "nested too deeply")


def test_a_model_folder_with_a_deep_config(tmp_path):
    (tmp_path / "config.json").write_text("[" * 10**5)
    assert files.model_config(tmp_path) == {}
