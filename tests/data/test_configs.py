import json

import numpy as np
import pytest
from data.conftest import small_config, write_mask

from toco_jax import data
from toco_jax.config import ConfigError, validate
from toco_jax.method.phases import phase_at
from toco_jax.run import workdir
from toco_jax.run.checkpoints import CheckpointError
from toco_jax.runtime.errors import DataError
from toco_jax.training.start import open_sources


def forget(run, key):
    """Takes a key of the data out of a run's configuration."""
    path = run / workdir.CONFIG_FILE
    values = json.loads(path.read_text())
    del values["data"][key]
    path.write_text(json.dumps(values))


def take_a_step(run):
    """Leaves what a run writes at its first step, before which it may change its values."""
    (run / "metrics.jsonl").write_text('{"step": 1}\n')


@pytest.mark.parametrize("name", ["voc", "coco", "folder"])
def test_configs_are_valid_and_have_the_same_keys(name):
    config = small_config(name)
    validate(config, 1)
    voc = small_config("voc")
    assert set(config) == set(voc) and set(config.data) == set(voc.data)
    assert config.data.source == name


def test_coco_goes_in_stages():
    config = small_config("coco")
    early, middle, late = {"cls", "cls_aux"}, {"seg", "reg"}, {"ptc", "ctc"}
    for step, terms, cam in (
        (0, early, "aux_cam"),
        (8000, early, "aux_cam"),
        (8001, early | middle, "aux_cam"),
        (12000, early | middle, "aux_cam"),
        (12001, early | middle | late, "cam"),
        (79999, early | middle | late, "cam"),
    ):
        phase = phase_at(config, step)
        assert {term for term, weight in phase.weights if weight} == terms
        assert phase.pseudo_label_cam == cam
    weights = {"cls": 1, "cls_aux": 1, "ptc": 0.2, "ctc": 0.5, "seg": 0.1, "reg": 0.05}
    assert {term: weight for term, weight in phase.weights if weight} == weights
    assert (config.low_thre, config.bkg_thre, config.high_thre) == (0.25, 0.45, 0.65)
    assert (config.temperature, config.batch_size, config.total_steps) == (1.0, 8, 80_000)
    assert (config.num_classes, config.data.val_split) == (80, "val_part")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("on_error", "ignore", r"data\.on_error='ignore' must be one of raise, skip"),
        ("mask_foreground", 256, r"data\.mask_foreground=256 must be a pixel's value 0\.\.255"),
        ("val_fraction", 1.5, r"data\.val_fraction=1\.5 must lie between 0 and 1"),
        ("val_fraction", 0.0, r"data\.val_fraction=0\.0 must lie between 0 and 1"),
    ],
)
def test_data_keys_are_checked(key, value, message):
    config = small_config("folder")
    config.data[key] = value
    with pytest.raises(ConfigError, match=message):
        validate(config, 1)


def test_the_number_of_classes_is_found_out(config):
    source, val_source = open_sources(config)
    assert config.num_classes == 2
    assert source.class_names == val_source.class_names == ("cat", "dog")
    assert "mask" not in source[0] and "mask" in val_source[0]
    config.num_classes = 3
    with pytest.raises(
        ConfigError, match=r"num_classes=3, but .* has 2 classes: use num_classes=2"
    ):
        open_sources(config)


def test_the_classes_are_written_to_the_run(tmp_path):
    config = small_config("folder")
    workdir.claim(tmp_path, config, ("cat", "dog"))
    assert json.loads((tmp_path / workdir.CLASSES_FILE).read_text()) == ["cat", "dog"]
    take_a_step(tmp_path)
    workdir.claim(tmp_path, config, ("cat", "dog"))
    with pytest.raises(CheckpointError, match="lists other classes than the data has now; use ano"):
        workdir.claim(tmp_path, config, ("cat", "yak"))


def test_the_separator_of_labels_reaches_the_source_and_may_be_new(config, photos, tmp_path):
    rows = "".join(f"{k}.png,{('red/cat', 'cat')[k % 2]}\n" for k in range(6))
    (photos / "labels.csv").write_text(rows)
    (photos / "masks").rename(photos.parent / "masks")
    workdir.claim(tmp_path / "run", config, ("cat", "red/cat"))
    take_a_step(tmp_path / "run")
    forget(tmp_path / "run", "label_separator")  # as a run made before there was the key
    assert open_sources(config)[0].class_names == ("cat", "red/cat")
    config.num_classes = 0
    workdir.claim(tmp_path / "run", config, ("cat", "red/cat"))
    config.data.label_separator = "/"
    with pytest.raises(CheckpointError, match=r"data\.label_separator \( there, / now\)"):
        workdir.claim(tmp_path / "run", config, ("cat", "red/cat"))
    assert open_sources(config)[0].class_names == ("cat", "red")


def test_configured_keys_reach_the_source(config, photos):
    (photos / "train.txt").unlink()
    (photos / "val.txt").unlink()
    (photos / "masks").rename(photos / "truth")
    config.data.masks, config.data.labels, config.data.val_fraction = "truth", "labels.csv", 0.5
    train_source, val_source = open_sources(config)
    assert (len(train_source), len(val_source)) == (3, 3)
    assert (val_source[0]["mask"] != 255).all()
    config.data.split_seed = 5
    assert open_sources(config)[0].names != train_source.names
    config.data.source = "elsewhere"
    with pytest.raises(DataError, match="unknown data source 'elsewhere'"):
        data.open_configured(config, part="val", masks=True)


def test_three_seeds_are_three_runs_on_one_data_set(config, photos):
    (photos / "train.txt").unlink()
    (photos / "val.txt").unlink()
    config.data.val_fraction = 0.5
    splits = set()
    for seed in (0, 1, 2):
        config.seed = seed
        splits.add(tuple(source.names for source in open_sources(config)))
    assert len(splits) == 1


def test_a_run_made_before_keeps_the_split_that_its_seed_drew(config, photos, tmp_path):
    (photos / "train.txt").unlink()
    (photos / "val.txt").unlink()
    config.data.val_fraction, config.data.split_seed = 0.5, 3
    drawn = data.open_configured(config, part="val", masks=False).names
    config.seed = 3
    workdir.claim(tmp_path / "run", config, ("cat", "dog"))
    take_a_step(tmp_path / "run")
    forget(tmp_path / "run", "split_seed")
    before = workdir.load_config(tmp_path / "run")
    assert data.open_configured(before, part="val", masks=False).names == drawn
    workdir.claim(tmp_path / "run", config, ("cat", "dog"))  # goes on on the same images
    config.data.split_seed = 0
    with pytest.raises(CheckpointError, match=r"data\.split_seed \(3 there, 0 now\)"):
        workdir.claim(tmp_path / "run", config, ("cat", "dog"))


def test_a_run_made_before_on_given_splits_goes_on(tmp_path):
    config = small_config("voc")
    config.seed = 3
    workdir.claim(tmp_path / "run", config, ("cat", "dog"))
    take_a_step(tmp_path / "run")
    forget(tmp_path / "run", "split_seed")
    workdir.claim(tmp_path / "run", config, ("cat", "dog"))


def test_training_says_what_was_found_before_it_starts(config, photos, capsys):
    (photos / "6.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "7.png").write_bytes(b"x")
    (photos / "._0.png").write_bytes(b"x")
    rows = (photos / "labels.csv").read_text()
    (photos / "labels.csv").write_text(f"{rows}6.png,cat\ngone.png,yak\n")
    (photos / "val.txt").write_text("3\n4\n6\n")
    write_mask(photos / "masks" / "6.png", np.full((16, 24), 1, np.uint8))
    open_sources(config)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("4 training images of 'train', 3 validation images of 'val', 3 class")
    starts = (
        "1 file passed over: ",
        "1 of 8 images has no entry in labels.csv (7)",
        "1 of 8 entries in labels.csv names no image (gone.png)",
        "2 files hold 1 picture (0 = 6)",
        "2 training images of 'train' are in 'val' too (0 = 6, 3)",
        "1 labelled image is in neither 'train' nor 'val' (5)",
        "class 'yak' has no training image and cannot be learnt",
    )
    assert len(said) == 1 + len(starts)
    for line, start in zip(said[1:], starts, strict=True):
        assert line.startswith(f"remark: {start}")


def test_training_does_not_start_without_the_masks_that_score_it(config, photos):
    (photos / "masks" / "5.png").unlink()
    with pytest.raises(DataError, match=r"masks/5\.png is missing .*1 of the 2 images of 'val' ha"):
        open_sources(config)
