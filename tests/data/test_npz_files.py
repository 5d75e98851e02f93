"""`.npz` files of strangers: nothing is unpacked before its size is known."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from toco_jax.data.npz_files import read_npz


def header(shape, descr="<f4"):
    file = io.BytesIO()
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.getvalue()


def write(path, content, compression=zipfile.ZIP_STORED, name="x.npy"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)


def refused(path):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"\.npz file") as caught:
        read_npz(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22 and len(str(caught.value)) < 500
    return str(caught.value)


def test_arrays_come_back(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b/c": np.asfortranarray(np.ones((2, 3), np.uint8)),
        "text": np.array(["one", "two"]),
        "none": np.zeros((0, 3)),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_npz(tmp_path / "x.npz")
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_what_unpacks_a_thousandfold_is_refused_unread(tmp_path):
    path = tmp_path / "x.npz"
    size = 80 * 2**20
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(header((size // 4,)))
        for _ in range(80):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**17
    assert "would unpack to 83,886,208" in refused(path)


def test_one_hot_labels_may_be_packed_a_hundredfold(tmp_path):
    labels = np.zeros((4000, 80))
    np.savez_compressed(tmp_path / "x.npz", names=np.arange(4000).astype(str), labels=labels)
    assert read_npz(tmp_path / "x.npz")["labels"].shape == (4000, 80)


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((2**36,), "<f4"), ((2**40, 2**40), "<f4"), ((-1,), "<f4"), ((1,), "|O"), ((1,), "<U99999")],
)
def test_headers_that_claim_more_than_is_there(tmp_path, shape, descr):
    write(tmp_path / "x.npz", header(shape, descr) + b"1234")
    assert "'x.npy' does not hold what its header says" in refused(tmp_path / "x.npz")


@pytest.mark.parametrize("order", "<>")
def test_text_of_numbers_that_are_no_characters(tmp_path, order):
    """Python raises a `SystemError` for the name of such an array's item."""
    numbers = np.array([ord("a"), 2**31], f"{order}u4").tobytes()
    write(tmp_path / "x.npz", header((2,), f"{order}U1") + numbers)
    assert "stand for no character" in refused(tmp_path / "x.npz")
    write(tmp_path / "x.npz", header((2,), f"{order}U1") + numbers[:4] * 2)
    assert read_npz(tmp_path / "x.npz")["x"].tolist() == ["a", "a"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_other_ways_of_packing(tmp_path, compression):
    path = tmp_path / "x.npz"
    write(path, header((1,)) + b"1234", zipfile.ZIP_STORED if compression == 99 else compression)
    if compression == 99:  # which nothing writes
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\x01\x02")
        content[at + 10] = content[8] = 99
        path.write_bytes(content)
    assert "packed in a way that numpy never uses" in refused(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.arange(1000), b=np.ones(5))
    content = path.read_bytes()
    for end in np.linspace(0, len(content) - 1, 20).astype(int):
        path.write_bytes(content[:end])
        refused(path)
