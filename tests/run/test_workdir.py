"""What a run's folder records and what it refuses: precision, execution, classes."""

import json

import pytest
from platforms import made_for

from toco_jax import config
from toco_jax.run import checkpoints, workdir
from toco_jax.runtime.outputs import OutputError


def test_auto_is_recorded_as_what_it_meant(voc_config):
    for platform, meant in {
        "cpu": ("float32", "xla", "on"),
        "gpu": ("bfloat16", "cudnn", "off"),
        "tpu": ("bfloat16", "xla", "off"),
    }.items():
        with made_for(platform):
            found = config.resolve(voc_config())
        assert (found.compute_dtype, found.machine.attention, found.machine.low_memory) == meant


def test_a_run_goes_on_in_its_own_precision(tiny_config, tmp_path, capsys):
    with made_for("gpu"):
        begun = workdir.resolve(tmp_path, tiny_config())
        workdir.claim(tmp_path, begun, ("a",))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert json.loads((tmp_path / "config.json").read_text())["compute_dtype"] == "bfloat16"
    capsys.readouterr()
    here = workdir.resolve(tmp_path, tiny_config())
    assert (here.compute_dtype, here.machine.attention) == ("bfloat16", "xla")
    assert "goes on in bfloat16, in which it was begun" in capsys.readouterr().out
    workdir.claim(tmp_path, here, ("a",))
    other = workdir.resolve(tmp_path, tiny_config(compute_dtype="float32"))
    with pytest.raises(checkpoints.CheckpointError, match=r"compute_dtype \(bfloat16 there, float"):
        workdir.claim(tmp_path, other, ("a",))


def test_an_older_run_says_that_its_precision_is_not_known(tiny_config, tmp_path, capsys):
    workdir.save_config(tmp_path, tiny_config())  # with "auto", as runs once were
    here = workdir.resolve(tmp_path, tiny_config())
    assert "does not record" in capsys.readouterr().out
    workdir.claim(tmp_path, here, ("a",))
    assert workdir.load_config(tmp_path).compute_dtype == "float32"
    workdir.resolve(tmp_path, tiny_config())
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_written_to(tiny_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*file/run .* another --out"):
        workdir.claim(tmp_path / "file" / "run", tiny_config(), ("a",))


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ('["cat", "dog"]', r"other classes .* same data: cat, dog there, dog, cat now"),
        ("[", r"classes\.json must be a JSON list of the 2 different names"),
    ],
)
def test_other_classes_are_named(tiny_config, tmp_path, listed, message):
    config = tiny_config(num_classes=2)
    workdir.claim(tmp_path, config, ("dog", "cat"))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "classes.json").write_text(listed)
    with pytest.raises(checkpoints.CheckpointError, match=message):
        workdir.claim(tmp_path, config, ("dog", "cat"))
