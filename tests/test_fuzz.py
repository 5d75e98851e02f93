"""Some inputs of the fuzzer for each reader, and that it sees what a reader must not do."""

import importlib.util
import pathlib
import sys
import types

import pytest

FOLDER = pathlib.Path(__file__).parent / "fuzz"


@pytest.fixture(scope="module")
def fuzz():
    """The fuzzer's main module, with its `READERS`."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("fuzz_main", FOLDER / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, of damaged tags
def test_every_reader_bears_some_inputs(fuzz, tmp_path, capfd):
    for name, make in fuzz.READERS.items():
        folder = tmp_path / name
        folder.mkdir()
        reader = make(folder)
        kinds = {fuzz.outcome(reader, content) for content in reader.seeds}
        assert kinds == {("read", "")}, name
        # Of a checkpoint that cannot be read libraries go on to complain in threads of their own.
        for number in range(25 if name != "checkpoint" else 0):
            kind, place = fuzz.outcome(reader, fuzz.input_of(reader, number))
            assert kind != "finding", f"{name} {number}: {place}"
        assert fuzz.input_of(reader, 3) == fuzz.input_of(reader, 3)
    capfd.readouterr()  # what libraries say of damaged pictures


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (TypeError("x"), "TypeError at test_fuzz.py"),
        (RecursionError(), "RecursionError at"),
        ("a\nb", "message"),
        ("\x1b[2J", "message"),
        ("x" * 10**5, None),
    ],
)
def test_what_counts_as_a_finding(fuzz, error, place):
    def read(_content):
        raise fuzz.UserError(error) if isinstance(error, str) else error

    kind, found = fuzz.outcome(types.SimpleNamespace(read=read), b"")
    assert (kind, found) == ("refused", "") if place is None else kind == "finding"
    assert place is None or found.startswith(place)
