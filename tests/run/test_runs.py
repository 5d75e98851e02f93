"""A run loaded on another machine than its own, and without its classes' names."""

import errno
import io
import json
import os
import pathlib
import shutil

import pytest
from platforms import made_for
from tiny_run import make_run

from toco_jax.data.classes import VOC_CLASSES
from toco_jax.run import runs
from toco_jax.run.checkpoints import CheckpointError
from toco_jax.run.workdir import run_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "run", voc_config, folder)


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.mark.parametrize("at", [".", "checkpoints", "checkpoints/0"])
@pytest.mark.parametrize("how", ["given", "within", "linked"])
def test_every_path_to_a_run_is_one(run, at, how, monkeypatch, tmp_path):
    place = run / at
    if how == "within":
        monkeypatch.chdir(place)
        place = pathlib.Path(".")
    elif how == "linked":
        (tmp_path / "best").symlink_to(place)
        place = tmp_path / "best"
    folder, step = run_folder(place)
    assert folder.samefile(run) and step == (0 if at == "checkpoints/0" else None)


def test_what_is_no_run_is_told_as_such(run, tmp_path):
    for path, reason in ((tmp_path / "none", "it does not exist"), (tmp_path, "it has no config")):
        with pytest.raises(CheckpointError, match=f"{path} is not a run: {reason}.* such as runs/"):
            runs.load(path)
    with pytest.raises(CheckpointError, match=r"json is a file, not a run: .*convert .*json runs/"):
        runs.load(run / "config.json")


def test_a_run_without_a_checkpoint_is_told_as_such(run):
    shutil.rmtree(run / "checkpoints" / "0")
    with pytest.raises(CheckpointError, match="run has no checkpoint yet: train it first"):
        runs.load(run)


@pytest.mark.parametrize("name", ["config.json", "meta/metadata", "_METADATA"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(run, name, monkeypatch):
    opened = io.open

    def refused(file, *args, **kwargs):
        if str(file).endswith(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", refused)
    with pytest.raises(PermissionError):
        runs.load(run)


def change(run, **values):
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_of_a_gpu_is_loaded_on_a_cpu(run, capsys):
    change(run, compute_dtype="bfloat16", machine={"attention": "cudnn", "low_memory": "off"})
    loaded = runs.load(run)
    assert (loaded.model.compute.dtype, loaded.model.compute.attention) == ("bfloat16", "in_parts")
    assert "cuDNN's attention, which needs a GPU" in capsys.readouterr().err


def test_a_run_of_a_cpu_keeps_its_precision_on_a_gpu(run):
    change(run, compute_dtype="float32", machine={"attention": "xla", "low_memory": "on"})
    with made_for("gpu"):
        model = runs.load(run).model
    assert (model.compute.dtype, model.compute.attention) == ("float32", "xla")


def test_a_portable_run_is_the_same_network_on_every_machine(run, capsys):
    change(run, compute_dtype="auto", machine={"attention": "cudnn", "low_memory": "on"})
    here = runs.load(run, portable=True)
    with made_for("gpu"):
        there = runs.load(run, portable=True)
    assert here.model == there.model
    assert here.config.to_dict() == there.config.to_dict()
    compute = here.model.compute
    assert (compute.dtype, compute.attention, compute.remat) == ("float32", "xla", False)
    assert here.recorded.compute_dtype == "auto"
    assert here.recorded.machine.attention == "cudnn"
    assert capsys.readouterr() == ("", "")


def test_what_is_not_known_is_reported(run, capsys):
    config = json.loads((run / "config.json").read_text())
    change(run, data=config["data"] | {"source": "folder"})
    lines = []
    runs.load(run, report=lines.append)
    assert len(lines) == 1 and "classes.json is missing" in lines[0]
    assert capsys.readouterr() == ("", "")


def test_the_fingerprint_sees_every_parameter_and_the_configuration(run):
    loaded, again = runs.load(run), runs.load(run)
    assert loaded.fingerprint == again.fingerprint
    again = runs.load(run)
    again.params["encoder"]["pos_embed"][0, 0, 0] += 1
    assert again.fingerprint != loaded.fingerprint
    change(run, bkg_thre=0.45)
    assert runs.load(run).fingerprint != loaded.fingerprint


def test_names_are_the_folders(run, capsys):
    names = [f"part {k}" for k in range(20)]
    (run / "classes.json").write_text(json.dumps(names))
    for path in (run, run / "checkpoints" / "0"):
        assert runs.load(path).class_names == tuple(names)
    assert capsys.readouterr().err == ""


def test_names_that_are_not_known_are_not_invented(run, capsys):
    assert runs.load(run).class_names == VOC_CLASSES  # of a run on VOC, older than classes.json
    assert capsys.readouterr().err == ""
    config = json.loads((run / "config.json").read_text())
    change(run, data=config["data"] | {"source": "folder"})
    loaded = runs.load(run)
    assert loaded.class_names[:2] == ("class 1", "class 2") and not loaded.names_known
    assert "classes.json is missing" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[", '["a", "b"]', '{"a": 1}', json.dumps(["a"] * 20)])
def test_a_broken_list_of_names_is_refused(run, content):
    (run / "classes.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"classes\.json .* 20 "):
        runs.load(run)
