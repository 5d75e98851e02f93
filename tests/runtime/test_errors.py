"""Messages stay short, whatever the files hold that they quote."""

import pickle

import numpy as np
import pytest

from toco_jax.runtime import json_text
from toco_jax.runtime.errors import (
    DataError,
    MissingWeightsError,
    clipped,
    is_inside,
    shown,
    some_of,
)


def doubled(depth):
    """A tuple whose `repr` has `2 ** depth` parts."""
    value = ()
    for _ in range(depth):
        value = (value, value)
    return value


def test_values_are_shown_by_their_start_or_type():
    assert shown("cat\n") == r"'cat\n'"
    assert shown("a" * 300) == f"{'a' * 100!r}... (200 more)"
    assert shown(b"x" * 101) == f"{b'x' * 100!r}... (1 more)"
    assert [shown(value) for value in (3, -1.5, True, None)] == ["3", "-1.5", "True", "None"]
    assert shown(2**64) == shown(10**10_000) == "<int>"  # Python refuses to print the latter
    assert shown(doubled(60)) == "<tuple>"
    assert shown({"a": doubled(60)}) == "<dict>" and shown(np.zeros(3)) == "<ndarray>"


def test_texts_are_clipped_and_printable():
    assert clipped("cat") == "cat"
    assert clipped("a\x1b[31m") == r"'a\x1b[31m'"
    assert clipped("\udcff") == r"'\udcff'"
    assert clipped("b" * 1000) == f"{'b' * 100}..."
    assert some_of(["a", "b", "c"], 2) == "a, b and 1 more"
    assert some_of({"a": 1, "b": 2}, 2) == "a, b"


def test_a_message_of_any_length_keeps_its_start_and_its_end():
    error = DataError("start " + "x" * 10**6 + " end")
    assert len(str(error)) < 4100 and str(error).startswith("start") and str(error).endswith("end")
    assert str(DataError("short")) == str(MissingWeightsError("short")) == "short"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", ["a", "./a/b.jpg", "a..b", "...", "C/x", "a\\b"])
def test_names_inside(name):
    assert is_inside(name)


@pytest.mark.parametrize(
    "name", ["../a", "a/../b", "..", "..\\a", "/etc/x", "\\\\host\\x", "C:\\x", "c:/x", "a\0b"]
)
def test_names_that_lead_outside(name):
    assert not is_inside(name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "nothing", b"\xff"])
def test_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested|Expecting|decode"):
        json_text.parse(text)
    assert json_text.parse('{"a": [1]}', object_pairs_hook=list) == [("a", [1])]
