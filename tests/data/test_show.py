import functools
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from data.conftest import small_config

from toco_jax.cli import commands
from toco_jax.data import open_configured, show
from toco_jax.inference import views
from toco_jax.run.network import make_model

NAMES = ("ant", "bee", "cat")


class Halves:
    """An image black on the left and white on the right, and records of it."""

    size = 32

    @staticmethod
    def records(count=2):
        image = np.zeros((count, 32, 32, 3), np.uint8)
        image[:, :, 16:] = 255
        box = np.tile(np.int32([4, 30, 2, 31]), (count, 1))
        label = np.tile(np.float32([1, 0, 1]), (count, 1))
        views = {"image": image, "view2": image, "local": image}
        return views | {
            "valid_box": box,
            "cls_label": label,
            "name": [f"n{i}" for i in range(count)],
        }


def test_records_are_those_of_training(config):
    from toco_jax.data.pipeline import train_batches

    source = open_configured(config, part="train", masks=False)
    shown = show.first_records(source, config, count=3, start_step=2)
    batches = train_batches(
        source,
        seed=config.seed,
        start_step=2,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
        as_published=False,
        num_threads=0,
    )
    batch = next(batches)
    for key in ("image", "view2", "local", "valid_box", "cls_label"):
        np.testing.assert_array_equal(shown[key], batch[key][:3])
    assert shown["name"] == batch["name"][:3]


def test_undecided_regions_are_the_valid_box():
    maps = show.undecided(Halves.records())
    assert maps.shape == (2, 32, 32)
    assert maps.sum() == 2 * 26 * 29 and maps[0, 4:30, 2:31].all()


def test_frames_and_flags_are_where_the_crops_are(monkeypatch):
    """Foreground on the right: crops there are green, crops on the left red."""
    config = small_config("voc")
    config.num_local_crops, config.local_crop_size = 2, 8
    regions = np.zeros((1, 32, 32), np.int32)
    regions[:, :, 16:] = 1
    origins = np.int32([[[3, 2], [10, 20]]])
    monkeypatch.setattr(
        show.crops, "sample_crop_origins", lambda *_, **__: jax.numpy.asarray(origins)
    )
    rows = []
    grid = show.drawing.grid
    monkeypatch.setattr(
        show.drawing, "grid", lambda cells, **kw: rows.extend(cells) or grid(cells, **kw)
    )
    picture = show.sheet(config, Halves.records(1), regions, ("cat", "dog", "emu"))
    assert picture.width > 1000
    view1, view2, local, tiles = rows[0]
    scale = local.shape[0] // 32
    np.testing.assert_array_equal(view2, Halves.records(1)["view2"][0])

    def colour(canvas, row, column):
        return tuple(canvas[int((row + 0.01) * scale), int((column + 0.01) * scale)])

    assert colour(local, 3, 2 + 7) == show.NEGATIVE  # the right end of the upper edge
    assert colour(local, 10, 20 + 7) == show.POSITIVE
    assert colour(view1, 4, 12) == show.BOX and colour(view1, 29.9, 12) == show.BOX
    assert colour(view1, 12, 2) == show.BOX and colour(view1, 12, 30.9) == show.BOX
    width = tiles.shape[1] // 2
    # The left crop is black, the right one white.
    assert tiles[tiles.shape[0] // 2, width // 2].max() == 0
    assert tiles[tiles.shape[0] // 2, width + width // 2].min() == 255


def test_regions_are_drawn_over_the_image():
    image = np.full((4, 6, 3), 100, np.uint8)
    regions = np.repeat(np.int32([[0, 1, 2]]), 4, axis=0).repeat(2, axis=1)
    tinted = show.tinted(image, regions)
    for column, kind in ((0, 0), (2, 1), (4, 2)):
        expected = 0.6 * 100 + 0.4 * views.REGIONS[kind].astype(float)
        assert np.abs(tinted[0, column] - expected).max() <= 1
    np.testing.assert_array_equal(show.tinted(image, np.ones((4, 6), int)), image)


def test_command_line(photos, tmp_path):
    from PIL import Image

    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-m", "toco_jax.data.show", f"--config={root}/configs/folder.py"]
    command += [f"--config.data.root={photos}", "--images=3", f"--out={tmp_path}/new/sheet.png"]
    command += ["--config.crop_size=64", "--config.local_crop_size=32"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert "sheet.png: 3 images of 'train'" in done.stdout
    with Image.open(tmp_path / "new" / "sheet.png") as picture:
        assert picture.height > 3 * 200


@pytest.mark.parametrize("word", ["batch_size=0", "crop_size=0"])
def test_a_value_that_cannot_work_is_one_sentence(word, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {word} must be"):
        commands.run("show", ["shapes", word, f"--out={tmp_path}/sheet.png"])


def test_regions_of_a_run(tmp_path, monkeypatch):
    """The map of a network is the step's own: from the auxiliary CAM and the run's thresholds."""
    from toco_jax.method import cams
    from toco_jax.models.network import normalize
    from toco_jax.run import checkpoints, saved
    from toco_jax.runtime.errors import DataError
    from toco_jax.training import step

    config = small_config("voc")
    config.backbone, config.num_classes, config.decoder_width = (
        "width=16,depth=3,heads=2,patch=8",
        3,
        8,
    )
    config.aux_layer, config.cam_scales = 1, (1.0,)
    model = make_model(config, grid=4)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(functools.partial(step.init_params, model), jax.random.key(0))
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    with pytest.raises(checkpoints.CheckpointError, match=r"is not a run: it has no config\.json"):
        show.regions_of(str(tmp_path), Halves.records(), NAMES)
    state = {"params": params, "extra": {"proj_head": params}, "step": 1}
    monkeypatch.setattr(saved, "load_run", lambda run: (config, state))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "classes.json").write_text(json.dumps(NAMES))
    records = Halves.records()
    regions = show.regions_of(str(tmp_path / "run"), records, NAMES)
    assert regions.shape == (2, 32, 32) and set(np.unique(regions)) == {0, 1, 2}

    @jax.jit
    def expected(images, label):
        _, aux_cam = cams.multi_scale_cams(
            lambda x: model.apply({"params": params}, x, method="cams"),
            normalize(images),
            scales=(1.0,),
        )
        thresholds = {"high_thre": config.high_thre, "low_thre": config.low_thre}
        return cams.cam_to_roi_mask(aux_cam, label, **thresholds)

    expected = expected(records["image"], records["cls_label"])
    assert (regions != np.asarray(expected)).mean() < 0.005
    # The classes go by their names, whatever their order in the data.
    label = np.tile(np.float32([1, 1, 0]), (2, 1))
    straight = show.regions_of(str(tmp_path / "run"), records | {"cls_label": label}, NAMES)
    turned = records | {"cls_label": label[:, ::-1]}
    again = show.regions_of(str(tmp_path / "run"), turned, NAMES[::-1])
    np.testing.assert_array_equal(again, straight)
    fewer = records | {"cls_label": label[:, 1::-1]}
    again = show.regions_of(str(tmp_path / "run"), fewer, NAMES[1::-1])
    np.testing.assert_array_equal(again, straight)
    with pytest.raises(DataError, match=r"not trained on \(yak; it knows ant, bee, cat\)"):
        show.regions_of(str(tmp_path / "run"), records, ("ant", "bee", "yak"))
