"""Pseudo labels in the formats of other tools, of sources that have no files, or nested ones."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from tiny_run import photo

from toco_jax.data.mask_files import write_mask
from toco_jax.evaluation import label_formats
from toco_jax.runtime.console import silent
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import OutputError

SETTINGS = {"polygons": False, "model": "run", "report": silent}


class Records(list):
    """A record source whose images are in no files, as that of built records."""

    class_names, split, names = ("cat", "a:b"), "train_aug", ("x", "deep/y")


@pytest.fixture
def records(tmp_path):
    masks = [np.array([[0, 1, 255]], np.uint8), np.array([[2], [2]], np.uint8)]
    for name, mask in zip(Records.names, masks, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_mask(tmp_path / f"{name}.png", mask)
    return Records({"image": photo(mask.shape, 3), "mask": mask} for mask in masks)


def test_images_without_files_are_written(tmp_path, records):
    formats = ("ultralytics", "coco_panoptic")
    label_formats.check(tmp_path, records, formats)
    label_formats.write(tmp_path, records, 2, formats=formats, **SETTINGS)
    for name, record in zip(Records.names, records, strict=True):
        for path, expected in (
            (f"ultralytics/images/train_aug/{name}.png", record["image"]),
            (f"ultralytics/masks/train_aug/{name}.png", record["mask"]),
            (f"coco_panoptic/images/{name}.png", record["image"]),
        ):
            np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / path)), expected)
    content = json.loads((tmp_path / "coco_panoptic" / "annotations.json").read_text())
    files = [image["file_name"] for image in content["images"]]
    assert files == ["images/x.png", "images/deep/y.png"]


def test_a_format_that_is_interrupted_leaves_nothing(tmp_path, records):
    class Stopped(Records):
        def __getitem__(self, place):
            if place:
                raise KeyboardInterrupt
            return super().__getitem__(place)

    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        label_formats.write(tmp_path, Stopped(records), 2, formats=("ultralytics",), **SETTINGS)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_written_is_refused_in_advance(tmp_path, records):
    with pytest.raises(UserError, match="at a colon, and there is 'a:b'"):
        label_formats.check(tmp_path, records, ["cvat"])
    source = types.SimpleNamespace(class_names=("cat",), names=("a", "coco/b"))
    with pytest.raises(OutputError, match=r"images in coco/, such as 'coco/b': rename that"):
        label_formats.check(tmp_path, source, ["coco"])
    with pytest.raises(UserError, match="--format has 'cocoa', which is no format"):
        label_formats.check(tmp_path, records, ["cocoa"])
