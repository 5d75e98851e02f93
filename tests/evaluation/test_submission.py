"""The test server's folder: made without labels, and every way in which it would be refused."""

import json
import shutil
import tarfile
import types

import numpy as np
import pytest
from PIL import Image
from tiny_run import PHOTOS, make_devkit, make_run

from toco_jax.cli import commands
from toco_jax.data.classes import palette
from toco_jax.data.mask_files import write_mask
from toco_jax.evaluation import submission

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


def test_submission_needs_no_labels(tmp_path, voc_config, capsys):
    root = make_devkit(tmp_path)
    for folder in ("Annotations", "SegmentationClassAug"):
        shutil.rmtree(root / folder)
    lists = root / "ImageSets" / "Segmentation"
    (lists / "val.txt").rename(lists / "test.txt")
    run = make_run(tmp_path / "run", voc_config, root)
    out = tmp_path / "out"
    commands.run(
        "evaluate", [f"--checkpoint={run}", "--submission", "--protocol=native", f"--out={out}"]
    )
    names = [name for name, _, _ in PHOTOS]
    with tarfile.open(out / "submission.tar") as archive:
        assert archive.getnames() == [f"{FOLDER}/{name}.png" for name in names]
    for name, size, _ in PHOTOS:
        picture = Image.open(out / FOLDER / f"{name}.png")
        assert picture.mode == "P" and picture.size == size[::-1]
        assert picture.getpalette() == palette().reshape(-1).tolist()
    before = (out / FOLDER / f"{names[0]}.png").stat().st_mtime_ns
    commands.run(
        "evaluate", [f"--checkpoint={run}", "--submission", "--protocol=native", f"--out={out}"]
    )
    assert (out / FOLDER / f"{names[0]}.png").stat().st_mtime_ns == before
    assert "6 of 6 masks are there" in capsys.readouterr().out
    # Masks of other weights do not count as done.
    config = json.loads((run / "config.json").read_text()) | {"bkg_thre": 0.45}
    (run / "config.json").write_text(json.dumps(config))
    commands.run(
        "evaluate", [f"--checkpoint={run}", "--submission", "--protocol=native", f"--out={out}"]
    )
    assert (out / FOLDER / f"{names[0]}.png").stat().st_mtime_ns != before
    assert (
        "6 masks of another network or of other settings are written anew"
        in capsys.readouterr().out
    )


def test_masks_of_other_settings_do_not_count_as_done(tmp_path, monkeypatch):
    class Started(Exception):
        """The network would be asked for masks that are not there."""

    def network_of(run, **_):
        raise Started

    monkeypatch.setattr(submission, "network_of", network_of)
    run = types.SimpleNamespace(fingerprint="same", class_names=("a",))
    out = tmp_path / "out"
    images = types.SimpleNamespace(names=("a",))
    mask = out / FOLDER / "a.png"
    settings = {"batch_size": 1, "num_threads": 1}
    for crf_settings, kept in ((None, False), (None, True), ({}, False), ({"top_k": 2}, False)):
        with pytest.raises(Started):
            submission.submit(run, images, out, crf_settings=crf_settings, **settings)
        assert mask.exists() == kept
        Image.new("L", (4, 4)).save(mask)


@pytest.fixture
def masks(tmp_path):
    """A submission that passes, its images and the folder."""
    images = submission.ListedImages(make_devkit(tmp_path), "val")
    folder = tmp_path / "masks"
    folder.mkdir()
    for name, size, _ in PHOTOS:
        write_mask(folder / f"{name}.png", np.full(size, 20))
    submission.check(folder, images, 21)
    return images, folder


def refused(masks, message):
    images, folder = masks
    with pytest.raises(submission.SubmissionError, match=message):
        submission.check(folder, images, 21)


def test_missing_id(masks):
    (masks[1] / "2007_000002.png").unlink()
    refused(masks, r"2007_000002\.png is missing")


def test_foreign_id(masks):
    shutil.copy(masks[1] / "2007_000002.png", masks[1] / "2007_999999.png")
    refused(masks, r"2007_999999\.png is not in the split")


def test_foreign_file(masks):
    (masks[1] / "notes.txt").touch()
    refused(masks, r"notes\.txt is no mask")


def test_id_listed_twice(masks):
    masks[0].names.append("2007_000001")
    refused(masks, "2007_000001 is listed twice")


def test_other_size(masks):
    write_mask(masks[1] / "2007_000001.png", np.zeros((36, 24)))
    refused(masks, r"2007_000001\.png is \(24, 36\), its image \(36, 24\)")


def test_index_out_of_range(masks):
    write_mask(masks[1] / "2007_000001.png", np.full((24, 36), 21))
    refused(masks, r"2007_000001\.png holds 21, above 20")


def test_no_palette(masks):
    Image.fromarray(np.zeros((24, 36), np.uint8)).save(masks[1] / "2007_000001.png")
    refused(masks, r"2007_000001\.png is stored as L")


def test_other_palette(masks):
    picture = Image.fromarray(np.zeros((24, 36), np.uint8))
    picture.putpalette([9, 9, 9] * 256)
    picture.save(masks[1] / "2007_000001.png")
    refused(masks, r"2007_000001\.png has another palette")


def test_unknown_split(tmp_path):
    with pytest.raises(submission.SubmissionError, match=r"test\.txt is missing"):
        submission.ListedImages(make_devkit(tmp_path), "test")


def test_an_image_that_its_exif_note_turns(masks):
    images, folder = masks
    path = images.path(images.names.index("2007_000001"))
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(path) as picture:
        picture.save(path, exif=exif)
    refused(masks, r"2007_000001\.png is \(36, 24\), its image \(24, 36\)")
    write_mask(folder / "2007_000001.png", np.zeros((36, 24)))
    submission.check(folder, images, 21)
