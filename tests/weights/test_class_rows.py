"""Starting from a network of other classes: each class keeps its own outputs, by name."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_run import make_run

from toco_jax import convert
from toco_jax.config import with_values
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.run import saved, workdir
from toco_jax.training import loop, start
from toco_jax.training.step import init_state
from toco_jax.weights import class_rows

OURS = ("yak", "dog", "cat")


@pytest.fixture(scope="module")
def made(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("rows")
    return make_run(folder / "run", voc_config, folder)


def started(run, init, names):
    config = workdir.load_config(run)
    config = with_values(config, init=str(init), num_classes=len(names))
    return start.start_state(config, class_names=names)[1].params


def outputs(params):
    return {
        "cam": np.asarray(params["classifier"]["kernel"]),
        "aux_cam": np.asarray(params["aux_classifier"]["kernel"]),
        "seg": np.asarray(params["decoder"]["conv8"]["kernel"]),
    }


@pytest.mark.parametrize("kind", ["run", "checkpoint", "safetensors"])
def test_outputs_go_by_name(made, tmp_path, kind, capsys):
    init = {"run": made, "checkpoint": made / "checkpoints" / "0"}.get(kind)
    if init is None:
        init = tmp_path / "x.safetensors"
        convert.convert(str(made), init)
    capsys.readouterr()
    old = outputs(saved.load_run(made)[1]["params"])
    new = outputs(started(made, init, OURS))
    dog, cat = VOC_CLASSES.index("dog"), VOC_CLASSES.index("cat")
    for name in ("cam", "aux_cam"):
        np.testing.assert_array_equal(new[name][..., 1:], old[name][..., [dog, cat]])
    np.testing.assert_array_equal(
        new["seg"][..., [0, 2, 3]], old["seg"][..., [0, dog + 1, cat + 1]]
    )
    assert new["cam"].shape[-1] == 3 and new["seg"].shape[-1] == 4
    assert not np.isin(new["cam"][..., 0], old["cam"]).any()
    printed = capsys.readouterr().out
    assert "taken by name, for dog, cat\n" in printed
    assert "start at random, as the weights have none: yak\n" in printed
    assert "left out: aeroplane, bicycle" in printed


@pytest.mark.parametrize("kind", ["run", "safetensors"])
def test_the_image_head_goes_by_name_to_a_network_that_has_one(made, tmp_path, kind, capsys):
    config, network = saved.load_run(made)
    config.loss_weights.cls_img = ((0, 1.0),)
    width, num = network["params"]["classifier"]["kernel"].shape
    kernel = np.arange(width * num, dtype=np.float32).reshape(width, num)
    frozen = jax.tree.map(lambda x: 2 * x, network["params"]["encoder"])
    head = {"kernel": kernel, "bias": kernel[0]}
    params = network["params"] | {"img_encoder": frozen, "img_head": head}
    run = tmp_path / "run"
    saved.save_run(run, config, init_state(config, params, network["extra"]["proj_head"]))
    init = run if kind == "run" else tmp_path / "x.safetensors"
    convert.convert(str(run), tmp_path / "x.safetensors")
    dog, cat = VOC_CLASSES.index("dog"), VOC_CLASSES.index("cat")
    found = started(run, init, OURS)
    jax.tree.map(np.testing.assert_array_equal, found["img_encoder"], frozen)
    head = found["img_head"]
    np.testing.assert_array_equal(head["kernel"][:, 1:], kernel[:, [dog, cat]])
    np.testing.assert_array_equal(head["bias"][1:], kernel[0, [dog, cat]])
    capsys.readouterr()
    assert not {"img_head", "img_encoder"} & set(started(made, init, OURS))
    assert "left out: the weights' img_head, which this network has not" in capsys.readouterr().out
    begun = started(run, made, OURS)  # which has no image head to give
    jax.tree.map(np.testing.assert_array_equal, begun["img_encoder"], begun["encoder"])


def test_as_many_classes_of_other_names_are_not_taken_for_the_same(made, tmp_path, capsys):
    run = shutil.copytree(made, tmp_path / "run")
    (run / "classes.json").write_text(json.dumps(VOC_CLASSES[::-1]))
    old = outputs(saved.load_run(run)[1]["params"])
    np.testing.assert_array_equal(
        outputs(started(run, run, VOC_CLASSES))["cam"], old["cam"][..., ::-1]
    )
    assert "at random" not in capsys.readouterr().out


def test_names_that_are_not_known_are_said(made, tmp_path, capsys):
    run = shutil.copytree(made, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "folder"
    (run / "config.json").write_text(json.dumps(config))
    old = outputs(saved.load_run(run)[1]["params"])
    np.testing.assert_array_equal(outputs(started(run, run, VOC_CLASSES))["seg"], old["seg"])
    assert "do not name their classes: their outputs are taken in order" in capsys.readouterr().out


def test_the_same_classes_need_no_line(made, capsys):
    old = outputs(saved.load_run(made)[1]["params"])
    np.testing.assert_array_equal(outputs(started(made, made, VOC_CLASSES))["cam"], old["cam"])
    assert "outputs" not in capsys.readouterr().out


@pytest.mark.parametrize("stored", ["cat, dog", "5", '{"cat": 1}', "[1, 2]"])
def test_a_note_in_a_file_that_is_no_list_of_names_names_no_classes(tmp_path, stored):
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "x.safetensors", {"classes": stored})
    assert class_rows.names_of(str(tmp_path / "x.safetensors")) is None


def test_a_folder_that_is_no_run_is_left_to_the_reader_of_weights(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Dinov2Model"]}')
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    assert class_rows.names_of(str(tmp_path)) is None


def test_training_starts_from_the_outputs_of_the_datas_classes(tiny_config, tmp_path, monkeypatch):
    seen = []

    def stop(config, weights, names):
        seen.extend(names)
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "start_state", stop)
    with pytest.raises(KeyboardInterrupt):
        loop.train(tiny_config(), tmp_path)
    assert seen == json.loads((tmp_path / "classes.json").read_text()) and len(seen) == 4
