"""Small data sets, made afresh for each test that wants to break one."""

import hashlib
import pathlib

import cv2
import numpy as np
import PIL.Image
import pytest
from conftest import load_config

from toco_jax.data.classes import palette

RECORDS = {"2007_000001": ("cat",), "2007_000002": ("dog", "person"), "2007_000003": ("cat", "dog")}
VAL = ("2007_000002",)


def write_xml(path: pathlib.Path, names) -> None:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{i % 2}</difficult>"
        "<part><name>head</name></part></object>"
        for i, name in enumerate(names)
    )
    path.write_text(f"<annotation><filename>x.jpg</filename>{objects}</annotation>")


def write_mask(path: pathlib.Path, mask: np.ndarray) -> None:
    picture = PIL.Image.frombytes("P", mask.shape[::-1], mask.tobytes())
    picture.putpalette(palette().tobytes())
    picture.save(path)


def pictures(root: pathlib.Path, *names: str) -> None:
    """Writes small pictures, no two of them alike."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        value = hashlib.sha256(name.encode()).digest()
        pixels = np.frombuffer(value * 2, np.uint8)[:60].reshape(4, 5, 3)
        PIL.Image.fromarray(pixels).save(root / name)


@pytest.fixture
def devkit(tmp_path) -> pathlib.Path:
    """VOCdevkit/VOC2012, three images of 20 x 12 pixels; 2007_000002 is val, no train_aug.txt."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    for folder in ("JPEGImages", "Annotations", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    lists.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k, (name, classes) in enumerate(RECORDS.items()):
        image = rng.integers(0, 256, (12, 20, 3), np.uint8)
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
        write_xml(root / "Annotations" / f"{name}.xml", classes)
        mask = np.full((12, 20), k, np.uint8)
        mask[:2] = 255
        write_mask(root / "SegmentationClassAug" / f"{name}.png", mask)
    (lists / "val.txt").write_text("\n".join(VAL) + "\n")
    return root


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """A folder of six images of two classes with labels.csv, lists and masks."""
    root = tmp_path / "photos"
    (root / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        cv2.imwrite(str(root / f"{i}.png"), rng.integers(0, 256, (16, 24, 3), np.uint8))
        write_mask(root / "masks" / f"{i}.png", np.full((16, 24), 1 + i % 2, np.uint8))
        rows.append(f"{i}.png,{('cat', 'dog')[i % 2]}\n")
    (root / "labels.csv").write_text("".join(rows))
    (root / "train.txt").write_text("0\n1\n2\n3\n")
    (root / "val.txt").write_text("4\n5\n")
    return root


def small_config(name: str):
    """The configuration of `configs/<name>.py`, with tiny crops."""
    config = load_config(name)()
    config.crop_size, config.local_crop_size, config.machine.num_threads = 32, 16, 2
    return config


@pytest.fixture
def config(photos):
    """The configuration of a run on `photos`."""
    config = small_config("folder")
    config.data.root = str(photos)
    return config
