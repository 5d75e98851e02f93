"""A corrected label, mask or image changes the fingerprint of a split; touching none does not."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from toco_jax.data import open_source
from toco_jax.data.fingerprint import fingerprint, listing
from toco_jax.data.labels import MaskFormat
from toco_jax.data.renumbered import Renumbered


@pytest.fixture
def root(tmp_path):
    for i, label in enumerate(("cat", "dog", "dog")):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(label)
    (tmp_path / "masks").mkdir()
    for i, label in enumerate((1, 2, 2)):
        Image.fromarray(np.full((4, 4), label, np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "val.txt").write_text("0\n1\n2\n")
    return tmp_path


def taken(root, count=3):
    return fingerprint(open_source("folder", root=str(root), split="val", masks=True), count)


def test_the_same_data_have_the_same_fingerprint(root):
    assert taken(root) == taken(root)
    source = open_source("folder", root=str(root), split="val", masks=True)
    renumbered = Renumbered(source, ("dog", "cat"), np.array([1, 0]))
    assert len({taken(root), taken(root, 2), fingerprint(renumbered, 3)}) == 3


@pytest.mark.parametrize("change", ["mask", "label", "image", "list"])
def test_a_change_shows(root, change):
    before = taken(root)
    if change == "mask":  # of the same size and time
        path = root / "masks" / "2.png"
        about = path.stat()
        Image.fromarray(np.full((4, 4), 1, np.uint8)).save(path)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    elif change == "label":
        (root / "2.txt").write_text("cat")
    elif change == "image":
        Image.new("RGB", (4, 4), (200, 7, 9)).save(root / "2.png")
    else:
        (root / "val.txt").write_text("1\n0\n2\n")
    assert taken(root) != before


def listed(root):
    return listing(open_source("folder", root=str(root), split="val", masks=True))


def test_a_listing_is_that_of_a_copy_in_another_place(root, tmp_path_factory):
    copy = shutil.copytree(root, tmp_path_factory.mktemp("copy") / "data")
    Image.new("RGB", (4, 4), (200, 7, 9)).save(copy / "2.png")
    assert listed(copy) == listed(root)
    (copy / "2.txt").write_text("cat")
    assert listed(copy) != listed(root)
    (root / "val.txt").write_text("1\n0\n2\n")
    (copy / "2.txt").write_text("dog")
    assert listed(copy) != listed(root)
    assert len({listing(open_source("shapes", split=s, masks=True)) for s in ("train", "val")}) == 2


def test_a_mask_that_is_not_there_is_left_to_the_reader(root):
    source = open_source("folder", root=str(root), split="val", masks=True)
    before = fingerprint(source, 3)
    (root / "masks" / "2.png").unlink()
    assert fingerprint(source, 3) != before


def test_another_reading_of_the_masks_shows(root):
    source = open_source("folder", root=str(root), split="val", masks=True)
    other = dataclasses.replace(source, mask_format=MaskFormat("index", any_palette=True))
    assert fingerprint(other, 3) != fingerprint(source, 3)


def test_procedural_scenes_have_one():
    source = open_source("shapes", split="val", masks=True)
    assert fingerprint(source, 5) != fingerprint(source, 6)
