"""A split counted with and without a folder that outlasts a stop, around passes made up here."""

import numpy as np
import pytest

from toco_jax.evaluation import counting, shares


def one_each(places):
    for place in places:
        yield place, {"f1/32": np.array([place, 1.0])}


def test_without_a_folder_nothing_is_printed(capfd):
    counts = shares.count_split([("32", one_each)], count=4)
    np.testing.assert_array_equal(counts["f1/32"], [0 + 1 + 2 + 3, 4])
    assert capfd.readouterr() == ("", "")


def stopped(places):
    yield from list(one_each(places))[:3]
    raise KeyboardInterrupt


def test_a_stopped_pass_goes_on_with_what_is_left(tmp_path):
    lines = []
    settings = {"count": 4, "folder": tmp_path, "report": lines.append}
    with pytest.raises(KeyboardInterrupt):
        shares.count_split([("32", stopped)], about="same", **settings)
    left = []

    def rest(places):
        left.extend(places)
        return one_each(places)

    for _ in range(2):  # the counts are kept until `forget`
        counts = shares.count_split([("32", rest)], about="same", **settings)
        np.testing.assert_array_equal(counts["f1/32"], [0 + 1 + 2 + 3, 4])
    assert left == [3]
    assert "32: 3 of 4 images are done" in lines
    shares.forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_counts_of_an_earlier_version_are_counted_anew(tmp_path):
    """That version told evaluations apart by a list of other values."""
    path = tmp_path / ".evaluation-0-of-1.npz"
    kept = {"done/32": np.ones(4, np.int64), "f1/32": np.array([9.0, 4.0]), "seconds": np.array(5)}
    counting.save(path, kept, '["fingerprint", 6, "split", "None", "32", "None", "par", false, {}]')
    lines = []
    counts = shares.count_split(
        [("32", one_each)], count=4, folder=tmp_path, about="{}", report=lines.append
    )
    np.testing.assert_array_equal(counts["f1/32"], [0 + 1 + 2 + 3, 4])
    assert "or by another version: all images are counted anew" in lines[0]


def test_every_image_is_counted_once():
    with pytest.raises(RuntimeError, match="pass '32' counted 1 images never or twice"):
        shares.count_split([("32", lambda places: one_each(places[1:]))], count=4)
