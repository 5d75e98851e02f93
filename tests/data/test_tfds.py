import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from data.conftest import small_config

from toco_jax import data
from toco_jax.cli import commands
from toco_jax.data import check, open_configured, pipeline
from toco_jax.runtime.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def devkit_records(devkit, tmp_path, capsys):
    """(devkit, the data set built from it)."""
    out = tmp_path / "records"
    command = ["tfds", "--source", "voc", "--root", str(devkit), "--out", str(out)]
    commands.run("prepare", [*command, "--splits", "train_aug", "val"])
    said = capsys.readouterr().out.splitlines()[-1]
    root = said.rpartition("data.root=")[2]
    assert said.startswith("train_aug 2, val 1; use data.source=tfds and data.root=")
    return devkit, root


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert type(value) is type(other[key])
        np.testing.assert_array_equal(value, other[key])
        assert getattr(value, "dtype", None) == getattr(other[key], "dtype", None)


def test_records_equal_those_of_the_files(devkit_records):
    devkit, root = devkit_records
    for split, masks in itertools.product(("train_aug", "val"), (True, False)):
        files = data.open_source("voc", root=str(devkit), split=split, masks=masks)
        records = data.open_source("tfds", root=root, split=split, masks=masks)
        assert len(records) == len(files)
        for name in ("names", "class_names", "num_present", "split"):
            assert getattr(records, name) == getattr(files, name)
        for i in range(len(files)):
            assert_equal(files[i], records[i])


def test_batches_equal_those_of_the_files(devkit_records):
    devkit, root = devkit_records
    options = {"seed": 3, "start_step": 1, "batch_size": 2, "crop_size": 16, "num_threads": 4}
    streams = [
        pipeline.train_batches(
            data.open_source(source, root=str(where), split="train_aug", masks=False),
            as_published=False,
            **options,
        )
        for source, where in (("voc", devkit), ("tfds", root))
    ]
    for _ in range(4):
        assert_equal(*(next(stream) for stream in streams))
    for stream in streams:
        stream.close()


def test_a_folder_without_masks_and_of_mixed_formats(tmp_path, capsys):
    import cv2

    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.bmp", "c.webp", "d.jpg", "e.tif", "f.png", "g.png", "h.png"):
        cv2.imwrite(str(images / name), rng.integers(0, 256, (5, 7, 3), np.uint8))
    rows = "".join(f"{p.name},{'xy'[ord(p.stem) % 2]}\n" for p in sorted(images.iterdir()))
    (images / "labels.csv").write_text(rows)
    command = ["tfds", "--source", "folder", "--root", str(images), "--out", str(tmp_path / "r")]
    commands.run("prepare", [*command, "--no-masks", "--val-fraction", "0.25"])
    root = capsys.readouterr().out.rpartition("data.root=")[2].strip()
    for split in ("train", "val"):
        files = data.open_source(
            "folder", root=str(images), split=split, masks=False, val_fraction=0.25
        )
        records = data.open_source("tfds", root=root, split=split, masks=False)
        assert records.names == files.names
        for i in range(len(files)):
            assert_equal(files[i], records[i])
    with pytest.raises(DataError, match="was built without masks; build it again with them"):
        data.open_source("tfds", root=root, split="val", masks=True)


def test_the_check_reads_records(devkit_records):
    config = small_config("voc")
    config.data.source, config.data.root = "tfds", devkit_records[1]
    splits, problems = check.check(config, threads=2, show=lambda _, states: list(states))
    assert not any(problem.fatal for problem in problems)
    assert splits["train"].labels.sum() == 3
    assert len(open_configured(config, part="val", masks=True)) == 1


def test_wrong_roots_and_splits(devkit_records, tmp_path):
    _, root = devkit_records
    with pytest.raises(DataError, match=r"/no holds no data set built by toco prepare tfds \("):
        data.open_source("tfds", root=str(tmp_path / "no"), split="val", masks=True)
    with pytest.raises(
        DataError, match=r"split 'test' was not built in .*; choose one of train_aug"
    ):
        data.open_source("tfds", root=root, split="test", masks=True)


def test_another_data_set_is_not_taken_for_the_built_one(devkit_records):
    devkit, root = devkit_records
    out = pathlib.Path(root).parents[2]
    command = ["tfds", "--source", "voc", "--root", str(devkit), "--out", str(out)]
    with pytest.raises(SystemExit, match=rf"error: {root} holds other splits or images; remove it"):
        commands.run("prepare", [*command, "--splits", "val"])


def test_broken_files_do_not_get_in(devkit, tmp_path):
    (devkit / "JPEGImages" / "2007_000002.jpg").write_bytes(b"")
    command = ["tfds", "--source", "voc", "--root", str(devkit), "--out", str(tmp_path / "r")]
    with pytest.raises(SystemExit, match=r"error: image .*2\.jpg \(0 bytes\) cannot be decoded"):
        commands.run("prepare", [*command, "--splits", "val"])


def test_tensorflow_is_not_imported(devkit_records):
    program = (
        "import sys; from toco_jax.data import open_source\n"
        f"open_source('tfds', root={json.dumps(devkit_records[1])}, split='val', masks=True)[0]\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "False", done.stderr
