"""`toco analyze layers`: the last block's CAM is that of training, and the others are alike."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import PHOTOS, compilation_cache, make_devkit, make_run, photo

from toco_jax.cli import commands
from toco_jax.evaluation import evaluate
from toco_jax.evaluation.layers import make_layer_cams
from toco_jax.method.cams import multi_scale_cams
from toco_jax.models.network import frozen_cams, normalize
from toco_jax.run import runs

SCALES = (1.0, 1.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("layers")
    with compilation_cache():
        yield make_run(folder / "run", voc_config, make_devkit(folder), cam_scales=SCALES)


def cams_of(model, params, image, class_ids):
    """CAM and auxiliary CAM `[S, S, K]` as training computes them."""

    @jax.jit
    def compute(params):
        ids = jax.numpy.array([class_ids], np.int32)
        images = normalize(image[None])
        fn = frozen_cams(model, params)
        return multi_scale_cams(fn, images, scales=SCALES, class_ids=ids)

    return [np.asarray(cam[0]) for cam in compute(params)]


def test_the_map_of_a_block_is_the_cam_of_a_network_that_ends_there(run):
    loaded, image, ids = runs.load(run), photo((32, 32), 0), [3, 7]
    layer_cams = make_layer_cams(loaded.model, SCALES)
    maps = np.asarray(layer_cams(loaded.params, image, np.array(ids, np.int32)))
    assert maps.shape == (3, 32, 32, 2)
    cam, aux_cam = cams_of(loaded.model, loaded.params, image, ids)
    np.testing.assert_allclose(maps[1], cam, atol=1e-5)
    np.testing.assert_allclose(maps[2], aux_cam, atol=1e-5)
    shorter = dataclasses.replace(
        loaded.model,
        backbone=dataclasses.replace(loaded.model.backbone, depth=1),
        aux_layer=-1,
        parent=None,
    )
    encoder = {k: v for k, v in loaded.params["encoder"].items() if k != "blocks_1"}
    assert len(encoder) == len(loaded.params["encoder"]) - 1
    cam, _ = cams_of(shorter, loaded.params | {"encoder": encoder}, image, ids)
    np.testing.assert_allclose(maps[0], cam, atol=1e-5)
    assert np.ptp(maps[0] - maps[1]) > 0.1


def analyze(*words):
    """The exit code of `toco analyze layers`."""
    try:
        commands.run("analyze", ["layers", *map(str, words)])
    except SystemExit as stopped:
        return stopped.code
    return 0


def test_the_scores_of_a_split_are_those_of_evaluation(run, tmp_path):
    out = tmp_path / "out"
    assert analyze(run, f"--out={out}") == 0
    found = json.loads((out / "layers.json").read_text())
    scores = evaluate(run, protocols="32", out=tmp_path / "scores", batch_size=4)
    expected = {row["predictor"]: row["miou"] for row in scores["rows"]}
    assert found["images"] == len(PHOTOS) and found["split"] == "val"
    np.testing.assert_allclose(found["blocks"][-1], expected["cam"], atol=0.01)
    np.testing.assert_allclose(found["aux"]["miou"], expected["aux_cam"], atol=0.01)
    assert found["aux"]["block"] == 1 and len(found["blocks"]) == 2
    assert abs(found["blocks"][0] - found["blocks"][1]) > 0.5
    with Image.open(out / "layers.png") as picture:
        assert picture.size[0] > 5 * 100
    assert analyze(run, f"--out={out}", "--limit=2") == 0
    assert json.loads((out / "layers.json").read_text())["images"] == 2


def test_photos_have_predicted_classes_and_no_score(run, tmp_path):
    Image.fromarray(photo((40, 60), 3)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"nothing")
    assert analyze(run, tmp_path, f"--out={tmp_path}") == 1
    found = json.loads((tmp_path / "layers.json").read_text())
    assert found["images"] == 1 and found["blocks"] == [None, None]
    assert found["drawn"] == [str(tmp_path / "a.png")]
    assert found["failed"][0]["file"] == str(tmp_path / "b.jpg")
