"""Files of real `torch.save`, read without torch: exactly, or refused before anything runs."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from toco_jax.data import safe_pickle
from toco_jax.data.labelling import npy_object
from toco_jax.weights import torch_file

torch = pytest.importorskip("torch")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.pth"


def same(array, tensor):
    assert array.shape == tuple(tensor.shape)
    assert array.dtype.name == str(tensor.dtype).removeprefix("torch.")
    expected = tensor.detach().double().numpy()
    np.testing.assert_array_equal(np.asarray(array, np.float64), expected)


DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8")


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
def test_types(path, dtype):
    tensor = torch.arange(-3, 9).reshape(3, 4).to(getattr(torch, dtype))
    torch.save({"x": tensor, "scalar": tensor[1, 1], "empty": tensor[:0]}, path)
    out = torch_file.load(path)
    same(out["x"], tensor)
    same(out["scalar"], tensor[1, 1])
    same(out["empty"], tensor[:0])


def test_views_and_shared_storage(path):
    base = torch.randn(6, 8)
    tensors = {
        "base": base,
        "transposed": base.T,
        "slice": base[1:5:2, 3:],
        "expanded": base[:1].expand(5, 8),
        "last": base[5, 7],
        "parameter": torch.nn.Parameter(base[2]),
    }
    torch.save(tensors, path)
    out = torch_file.load(path)
    for name, tensor in tensors.items():
        same(out[name], tensor)
    assert np.shares_memory(out["base"], out["slice"])
    assert not out["base"].flags.writeable


def test_containers(path):
    module = torch.nn.Linear(3, 2)
    content = {
        "model": module.state_dict(),
        "nested": {"list": [1, 2.5, None, True, "text", -(2**70)], 3: ("a", ())},
        "args": argparse.Namespace(lr=0.1, data="VOC"),
    }
    torch.save(content, path)
    out = torch_file.load(path)
    assert type(out["model"]) is collections.OrderedDict
    same(out["model"]["weight"], module.weight)
    assert out["args"] == safe_pickle.Opaque("argparse.Namespace", {"lr": 0.1, "data": "VOC"})
    assert out["nested"] == content["nested"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(path, protocol):
    tensor = torch.randn(3)
    torch.save({"x": tensor, "y": [tensor, "ü"]}, path, pickle_protocol=protocol)
    same(torch_file.load(path)["y"][0], tensor)


def test_no_torch_needed(path):
    torch.save({"x": torch.ones(2)}, path)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from toco_jax.weights import torch_file; print(torch_file.load({str(path)!r})['x'].sum())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "2.0"


def test_legacy_names_the_command(path, tmp_path):
    tensors = {"x": torch.arange(3)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"before torch|before 1\.6.*Re-save") as caught:
        torch_file.load(path)
    command = str(caught.value).split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    same(torch_file.load(tmp_path / "file.zip.pth")["x"], tensors["x"])


def test_whole_module_is_refused_by_name(path):
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        torch_file.load(path)


class Creates:
    """Unpickled in earnest, it would create a file."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("function", [os.system, eval, pathlib.Path.touch, print])
def test_malicious_reduce_is_refused(path, tmp_path, function, protocol):
    victim = tmp_path / "victim"
    argument = {
        os.system: f"touch {victim}",
        eval: f"open({str(victim)!r}, 'w')",
        pathlib.Path.touch: victim,
    }.get(function, "harmless")
    torch.save(
        {"x": torch.ones(2), "y": Creates(function, argument)}, path, pickle_protocol=protocol
    )
    with pytest.raises(ValueError, match=r"asks for (posix|__builtin__|builtins|pathlib)\."):
        torch_file.load(path)
    assert not victim.exists()


def test_allowed_names_cannot_be_misused():
    constructors = {"torch.FloatStorage": safe_pickle.only_as_argument}
    with pytest.raises(ValueError, match="only be named"):
        safe_pickle.load(b"\x80\x02ctorch\nFloatStorage\n)R.", constructors)
    # A state set on a name, an attribute walk, extension codes and duplicates: none is plain data.
    for data, message in (
        (b"\x80\x02ctorch\nFloatStorage\n}b.", "a state for a Global"),
        (b"\x80\x04\x8c\x05torch\x8c\x17FloatStorage.__class__x\x93.", "__class__"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02]2.", "instruction DUP"),
        (b"\x80\x02(U\x02lsios\nsystem\n.", "instruction INST"),
        (b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02e\x85R.", "with arguments"),
        (b"\x80\x02ctorch\nFloatStorage\n)\x81.", "only be named"),
        (b"\x80\x02ctorch\nFloatStorage\nK\x01K\x02s.", "items for a dictionary"),
        (b"\x80\x02)Q.", "refers to an object outside"),
        (b"\x80\x02cargparse\nNamespace\n)R)R.", "a constructor call without constructor"),
        (b"\x80\x02cargparse\nNamespace\n]R.", "a constructor call without constructor"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "instruction BYTEARRAY8"),
    ):
        with pytest.raises(ValueError, match=message):
            safe_pickle.load(data, constructors)


def test_hostile_pickles_end_quickly():
    deep = b"\x80\x02" + b"(" * 200_000 + b")" + b"t" * 200_000
    for data in (
        b"\x80\x02}" + deep[2:] + b"K\x01s.",  # a dictionary key that recursive hashing dies of
        b"\x80\x02]r\xff\xff\xff\xff.",  # a memo index of 4 billion is a key like any other
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 2 ** 63
        b"\x80\x02K\x01.extra"[:3],
        b"",
        b".",
    ):
        tracemalloc.start()
        try:
            safe_pickle.load(data, {})
        except ValueError:
            pass
        else:
            assert b"]r" in data
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 2**20


def doubled(depth):
    """A pickle's instructions for a tuple that holds the last one twice, `depth` times over."""
    out = b")q\x000"
    for i in range(depth):
        out += b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) + b"0"
    return out + b"h" + bytes([depth])


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        (b"}" + doubled(60) + b"K\x01s.", "key or set element of type tuple"),
        (b"\x8f(" + doubled(60) + b"\x90.", "key or set element of type tuple"),
        (b"(" + doubled(60) + b"\x91.", "key or set element of type tuple"),
        # A persistent identifier, a tensor's shape, and the name of a type.
        (b"(" + doubled(60) + b"NNNNtQ.", "a reference to something that is no storage"),
        (
            b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00" + doubled(60) + b")tR.",
            "a tensor without storage, shape",
        ),
        (b"ctorch\n" + b"x" * 10**6 + b"\n.", "asks for torch"),
    ],
)
def test_nothing_of_exponential_size_is_hashed_or_printed(path, instructions, message):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x04" + instructions)
    with pytest.raises(ValueError, match=message) as caught:
        torch_file.load(path)
    assert len(str(caught.value)) < 1000


def rewritten(path, change):
    """The archive again, with `change(name, content)` in place of each record's content."""
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, change(info.filename, old.read(info)))
    path.write_bytes(out.getvalue())


class Raw:
    """Pickles as a tensor with chosen geometry over a real storage."""

    def __init__(self, tensor, *geometry):
        self.tensor, self.geometry = tensor, geometry

    def __reduce__(self):
        storage = torch.storage.TypedStorage(
            wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype, _internal=True
        )
        arguments = (storage, *self.geometry, False, collections.OrderedDict())
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.mark.parametrize(
    "geometry",
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (0, (3, 4), (4, 2**62)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (4,), (-1,)),
        (0, (3, 4), (4,)),
        (0, (2.0,), (1,)),
        (0, [2], [1]),
        (12, (), ()),
        (0, (2**40, 2**40), (0, 0)),
        (0, (2**30,), (0,)),
    ],
)
def test_views_beyond_their_storage_are_refused(path, geometry):
    torch.save({"x": Raw(torch.arange(12), *geometry)}, path)
    with pytest.raises(ValueError, match=r"tensor|array is too big|damaged"):
        torch_file.load(path)


def test_storage_smaller_than_announced(path):
    torch.save({"x": torch.arange(12)}, path)
    rewritten(path, lambda name, data: data[:-8] if name.endswith("data/0") else data)
    with pytest.raises(ValueError, match="storage 0 has 88 bytes, not 12 of int64"):
        torch_file.load(path)


def test_other_archives(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", b"else")
    with pytest.raises(ValueError, match=r"no single data\.pkl"):
        torch_file.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([0] * 10_000, 2))
    with pytest.raises(ValueError, match="compressed"):
        torch_file.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a file of torch"):
        torch_file.load(path)


def test_big_endian_is_refused(path):
    torch.save({"x": torch.ones(2)}, path)
    rewritten(path, lambda name, data: b"big" if name.endswith("byteorder") else data)
    with pytest.raises(ValueError, match="big-endian"):
        torch_file.load(path)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A file of half a megabyte and what it holds."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"layer.{i}.weight": torch.randn(64, 128, generator=generator) for i in range(16)
    } | {"half": torch.randn(100, generator=generator).half()}
    path = tmp_path_factory.mktemp("damage") / "sample.pth"
    torch.save({"model": tensors, "args": argparse.Namespace(lr=1)}, path)
    return path.read_bytes(), {name: value.numpy() for name, value in tensors.items()}


def read_damaged(path, data, expected):
    """Whether damaged bytes read right; a clear error counts too, anything else fails."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        model = torch_file.load(path)["model"]
        copies = {name: np.array(value) for name, value in model.items()}
    except ValueError as error:
        assert str(path) in str(error)
        return False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * len(data) + 2**18  # the machinery itself takes some
    assert list(copies) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(copies[name], value)
    return True


def test_truncated(sample, path):
    data, expected = sample
    for size in np.linspace(0, len(data) - 1, 50).astype(int):
        assert not read_damaged(path, data[:size], expected)


def test_flipped_bytes(sample, path):
    data, expected = sample
    generator = np.random.default_rng(0)
    # Half of the flips anywhere, half where the archive's own records and the pickle are.
    anywhere = generator.integers(0, len(data), 100)
    pickled = data.index(b"data.pkl")
    directory = data.index(b"PK\x01\x02")
    inside = generator.integers(0, 4096, 50) % (directory - pickled) + pickled
    behind = generator.integers(directory, len(data), 50)
    outcomes = []
    for position in np.concatenate([anywhere, inside, behind]):
        damaged = bytearray(data)
        damaged[position] ^= generator.integers(1, 256)
        outcomes.append(read_damaged(path, bytes(damaged), expected))
    assert 0 < sum(outcomes) < 200


def labels():
    generator = np.random.default_rng(0)
    return {f"2007_{i:06}": generator.integers(0, 2, 20).astype(np.float32) for i in range(50)}


def test_numpy_dictionary(tmp_path):
    path = tmp_path / "cls_labels_onehot.npy"
    np.save(path, labels())
    out = npy_object.load(path)
    assert list(out) == list(labels())
    for name, value in labels().items():
        np.testing.assert_array_equal(out[name], value)
        assert out[name].dtype == np.float32


def test_numpy_dictionary_of_older_numpy(tmp_path):
    path = tmp_path / "old.npy"
    shared = np.arange(3)
    content = {"a": shared, "b": shared, "f": np.asfortranarray(np.ones((2, 3))), "n": np.int64(7)}
    np.save(path, content)
    path.write_bytes(path.read_bytes().replace(b"\x8c\x16numpy._core", b"\x8c\x15numpy.core"))
    header = path.read_bytes()
    start = header.index(b"\x80\x04\x95")
    # The frame grew shorter by the byte that the module's name lost.
    frame = int.from_bytes(header[start + 3 : start + 11], "little") - 1
    path.write_bytes(header[: start + 3] + frame.to_bytes(8, "little") + header[start + 11 :])
    out = npy_object.load(path)
    for name, value in content.items():
        np.testing.assert_array_equal(out[name], value)
    assert out["a"] is out["b"]


class Reconstructed:
    """Pickles as an array of one byte and a chosen shape."""

    def __init__(self, shape):
        self.shape = shape

    def __reduce__(self):
        reconstruct, arguments, state = np.zeros(1, np.uint8).__reduce__()
        return reconstruct, arguments, (state[0], self.shape, *state[2:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": Creates(os.system, "touch victim")}, r"posix\.system"),
        ({"x": np.array([object()])}, r"asks for|array of objects"),
        ({"x": np.array([1, "a"], object)}, "an array of objects is refused"),
        ({"x": Reconstructed((2**40, 2**40))}, "1 bytes for an array of shape"),
        ({"x": Reconstructed((2, [1]))}, "an array without type, shape or values"),
        ({"x": np.ones(2, ">f4")}, "big-endian"),
        ({"x": np.zeros(2, "c8")}, "c8"),
        ({"x": np.zeros(2, [("a", "f4")])}, "V4"),
    ],
)
def test_numpy_refusals(tmp_path, content, message):
    path = tmp_path / "labels.npy"
    np.save(path, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        npy_object.load(path)


def test_numpy_plain_or_damaged(tmp_path):
    path = tmp_path / "labels.npy"
    np.save(path, np.ones(3))
    with pytest.raises(ValueError, match=r"save \{name: label\} with numpy\.save"):
        npy_object.load(path)
    np.save(path, labels())
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 50).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"labels\.npy"):
            npy_object.load(path)
