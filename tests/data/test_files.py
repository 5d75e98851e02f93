"""Masks of images that an EXIF note turns."""

import numpy as np
import PIL.Image
import pytest
from data.conftest import small_config, write_mask

from toco_jax.cli import commands
from toco_jax.data import check, files, open_source
from toco_jax.data.photos import turned
from toco_jax.runtime.errors import DataError


@pytest.fixture
def shot(tmp_path):
    """Writes images of 24 x 16 stored pixels with an EXIF orientation, and their masks."""

    def write(orientation, masks, size=(24, 16)):
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        rows = []
        (tmp_path / "masks").mkdir()
        for i, mask in enumerate(masks):
            pixels = np.random.default_rng(i).integers(0, 256, (*size[::-1], 3), np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / f"{i}.png", exif=exif)
            write_mask(tmp_path / "masks" / f"{i}.png", mask)
            rows.append(f"{i}.png,cat\n")
        (tmp_path / "labels.csv").write_text("".join(rows))
        (tmp_path / "train.txt").write_text("0\n")
        (tmp_path / "val.txt").write_text("".join(f"{i}\n" for i in range(1, len(masks))))
        return tmp_path

    return write


def corner(height, width):
    """A mask that differs however it is turned."""
    mask = np.zeros((height, width), np.uint8)
    mask[:5, :3] = 1
    return mask


def remarks(root):
    config = small_config("folder")
    config.data.root = str(root)
    _, problems = check.check(config, threads=2, show=lambda _, states: list(states))
    assert not any(problem.fatal for problem in problems)
    return [(p.kind, p.split, p.name) for p in problems]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_of_the_stored_image_is_turned_with_it(shot, orientation):
    root = shot(orientation, [corner(16, 24)] * 3)
    source = open_source("folder", root=root, split="val", masks=True)
    record = source[0]
    stored = np.asarray(PIL.Image.open(root / "1.png"))
    np.testing.assert_array_equal(record["image"], turned(stored, orientation))
    np.testing.assert_array_equal(record["mask"], turned(corner(16, 24), orientation))
    said = "mask turned with its image"
    assert remarks(root) == [(said, "train", "0"), (said, "val", "1"), (said, "val", "2")]


def test_a_mask_of_the_upright_image_is_left_alone(shot):
    root = shot(6, [corner(24, 16)] * 2)
    record = open_source("folder", root=root, split="val", masks=True)[0]
    assert record["image"].shape == (24, 16, 3)
    np.testing.assert_array_equal(record["mask"], corner(24, 16))
    assert remarks(root) == []


@pytest.mark.parametrize(("orientation", "size"), [(3, (24, 16)), (2, (24, 16)), (6, (16, 16))])
def test_a_mask_whose_size_does_not_tell_is_named(shot, orientation, size):
    root = shot(orientation, [corner(*size[::-1])] * 2, size)
    record = open_source("folder", root=root, split="val", masks=True)[0]
    np.testing.assert_array_equal(record["mask"], corner(*size[::-1]))
    said = "mask taken as turned"
    assert remarks(root) == [(said, "train", "0"), (said, "val", "1")]


def test_a_mask_that_fits_neither_way_is_refused(shot):
    root = shot(6, [corner(24, 16), corner(15, 24)])
    with pytest.raises(DataError, match=r"is 24 x 15 .* is 16 x 24 and 24 x 16 as stored; replace"):
        open_source("folder", root=root, split="val", masks=True)[0]


def test_a_transposed_mask_without_an_exif_note_is_refused(shot):
    root = shot(1, [corner(16, 24), corner(24, 16)])
    with pytest.raises(DataError, match=r"is 16 x 24 .* is 24 x 16; replace"):
        open_source("folder", root=root, split="val", masks=True)[0]


def test_a_mask_with_an_exif_note_of_its_own_is_turned_by_it(shot):
    root = shot(1, [corner(16, 24)] * 2)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(corner(24, 16)).save(root / "masks" / "1.png", exif=exif)
    record = open_source("folder", root=root, split="val", masks=True)[0]
    np.testing.assert_array_equal(record["mask"], turned(corner(24, 16), 6))


def test_records_built_before_masks_were_turned(shot, tmp_path, capsys, monkeypatch):
    root = shot(6, [corner(16, 24)] * 2)
    # Earlier versions built masks as they were stored, beside images as they are stored.
    monkeypatch.setattr(files, "fitted", lambda mask, *_: (mask, []))
    commands.run(
        "prepare", ["tfds", "--source", "folder", "--root", str(root), "--out", f"{tmp_path}/built"]
    )
    monkeypatch.undo()
    built = capsys.readouterr().out.rpartition("data.root=")[2].strip()
    record = open_source("tfds", root=built, split="val", masks=True)[0]
    assert record["image"].shape == (24, 16, 3)
    np.testing.assert_array_equal(record["mask"], turned(corner(16, 24), 6))
