import sys

import numpy as np
import PIL.Image
import pytest
import scipy.io

from toco_jax import data
from toco_jax.cli import commands
from toco_jax.data import labels
from toco_jax.data.mask_files import write_mask


def write_mat(path, mask):
    """A class annotation as SBD stores it: a struct with fields beside the segmentation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"Segmentation": mask, "Boundaries": np.zeros(3), "CategoriesPresent": [1]}
    scipy.io.savemat(path, {"GTcls": content})


@pytest.fixture
def sbd(devkit, tmp_path):
    """The devkit with VOC's own masks of images 1 and 2, and SBD's of 1 and 3."""
    (devkit / "SegmentationClassAug").rename(devkit / "SegmentationClass")
    (devkit / "SegmentationClass" / "2007_000003.png").unlink()
    for number in (1, 3):
        mask = np.full((12, 20), 10 + number, np.uint8)
        write_mat(tmp_path / "sbd" / "dataset" / "cls" / f"2007_{number:06d}.mat", mask)
    return tmp_path / "sbd"


def run(devkit, sbd):
    commands.run("prepare", ["voc", "--root", str(devkit), "--sbd", str(sbd)])


@pytest.mark.parametrize("inside", [False, True])
def test_masks_of_both_are_laid_together(devkit, sbd, inside, capsys):
    run(devkit, sbd / "dataset" if inside else sbd)
    assert "3 masks in" in capsys.readouterr().out
    folder = devkit / "SegmentationClassAug"
    assert sorted(p.name for p in folder.iterdir()) == [f"2007_{k:06d}.png" for k in (1, 2, 3)]
    own = labels.read_mask(devkit / "SegmentationClass" / "2007_000001.png", 20)
    np.testing.assert_array_equal(labels.read_mask(folder / "2007_000001.png", 20), own)
    assert (labels.read_mask(folder / "2007_000003.png", 20) == 13).all()
    with PIL.Image.open(folder / "2007_000003.png") as picture:
        assert picture.mode == "P"
    source = data.open_source("voc", root=devkit, split="train_aug", masks=True)
    assert source.names == ("2007_000001", "2007_000003")  # 2 is val's


def test_what_is_there_is_kept(devkit, sbd):
    run(devkit, sbd)
    path = devkit / "SegmentationClassAug" / "2007_000003.png"
    write_mask(path, np.full((12, 20), 5, np.uint8))
    (devkit / "SegmentationClassAug" / "2007_000001.png").unlink()
    run(devkit, sbd)
    assert (labels.read_mask(path, 20) == 5).all()
    assert (devkit / "SegmentationClassAug" / "2007_000001.png").is_file()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", r"2007_000003\.mat is not a class annotation of SBD"),
        (
            np.full((2, 2), 21, np.uint8),
            r"holds values of shape \(2, 2\) that are not labels 0\.\.20",
        ),
        (np.full((2, 2), 1.5), r"holds values of shape \(2, 2\) that are not labels 0\.\.20"),
        (np.full((2, 2), np.nan), r"holds values of shape \(2, 2\) that are not labels 0\.\.20"),
        (np.full((2, 2), "cat"), r"2007_000003\.mat is not a class annotation of SBD"),
        (np.zeros((2, 2, 2), np.uint8), r"holds values of shape \(2, 2, 2\)"),
    ],
)
def test_damaged_files_are_named(devkit, sbd, content, message):
    path = sbd / "dataset" / "cls" / "2007_000003.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write_mat(path, content)
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        run(devkit, sbd)
    assert not (devkit / "SegmentationClassAug" / "2007_000003.png").exists()


def test_missing_parts_are_named(devkit, sbd, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"error: .*holds no cls/\*\.mat; unpack SBD's"):
        run(devkit, tmp_path)
    with pytest.raises(SystemExit, match="SegmentationClass is no folder; unpack the VOC 2012"):
        run(tmp_path, sbd)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SystemExit, match="needs scipy, which is not installed: pip install scipy"):
        run(devkit, sbd)


def test_pycocotools_is_asked_for(monkeypatch):
    from toco_jax.data.build import coco_masks, coco_regions
    from toco_jax.runtime.errors import DataError

    coco_regions.pycocotools_mask.cache_clear()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    item = {"id": 1, "label": 1, "crowd": False, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    with pytest.raises(DataError, match=r"not installed: pip install 'toco_jax\[coco\]'"):
        coco_masks.draw_mask([item], (2, 2))
