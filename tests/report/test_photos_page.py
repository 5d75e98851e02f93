"""`predictions.html`: several pages of bounded size, and addresses that lead to the files."""

import pathlib
import urllib.parse

import numpy as np
import pytest
from stored_runs import blocks_in

from toco_jax.report import photos_page


def written(folder, count, *, side=20):
    """Pages of `count` photos, added in the opposite order; the photos of each page."""
    pages = photos_page.PhotoPages(folder, ("cat", "dog"), "a run")
    rng = np.random.default_rng(0)
    for k in reversed(range(count)):
        entry = {"file": f"{folder}/{k}.png", "notes": [], "predicted": ["cat"]}
        entry |= {"overlay": f"overlays/{k}.jpg", "mask": f"masks/{k}.png"}
        image = rng.integers(0, 256, (side, side, 3), np.uint8)
        pages.add(k, image, np.full((side, side), 300 * (k % 2)), entry)
    first = pages.write()
    assert first == folder / "predictions.html"
    found = [blocks_in(first, "photos")[0]]
    for link in found[0]["pages"][1:]:
        found += blocks_in(folder / link["href"], "photos")
    return found


@pytest.mark.parametrize("limit", [("_MOST_PHOTOS", 2), ("_MOST_BYTES", 3500)])
def test_many_photos_are_several_pages_in_their_order(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(photos_page, *limit)
    found = written(tmp_path, 5)
    names = [[photo["name"] for photo in block["photos"]] for block in found]
    assert names == [["0.png", "1.png"], ["2.png", "3.png"], ["4.png"]]
    assert [link["href"] for link in found[1]["pages"]] == [
        *("predictions.html", None, "predictions-3.html")
    ]
    assert (found[0]["present"], found[2]["present"]) == ([0, 300], [0])


def test_a_full_page_stays_below_8_mb(tmp_path):
    (block, *more) = written(tmp_path, 200, side=240)
    assert more and len(block["photos"]) < 200
    assert all(path.stat().st_size < 8_000_000 for path in tmp_path.glob("*.html"))


def test_no_photo_is_a_page_too(tmp_path):
    assert written(tmp_path, 0)[0]["photos"] == []


def test_addresses_lead_from_the_page_to_any_file(tmp_path):
    (tmp_path / "out").mkdir()
    pages = photos_page.PhotoPages(tmp_path / "out", ("cat",), "")
    for name in ("a b#?.png", "javascript:alert(1).png", "caf\udce9.png"):
        for folder in (tmp_path, tmp_path / "out"):
            address = pages._link(folder / name)
            assert not set(address) & set(' #?:"<>')
            unquoted = pathlib.Path(urllib.parse.unquote(address, errors="surrogateescape"))
            assert (tmp_path / "out" / unquoted).resolve() == (folder / name).resolve()
