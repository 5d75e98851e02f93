"""Damaged files of a run's folder are one sentence, and the folder stays as it was."""

import json

import pytest

from toco_jax.run import records, workdir
from toco_jax.run.checkpoints import CheckpointError
from toco_jax.runtime.outputs import OutputError

CONTENTS = {
    "init.json": {"init": "random", "sha256": None},
    "results.json": {"seg_miou": 50.0, "step": 6, "rows": []},
}
DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "binary": lambda content: b"\xff\x00" + content,
    "nested": lambda content: b"[" * 10**5,
    "foreign": lambda content: b'{"model_type": "vit"}',
    "a number": lambda content: b"3",
}


@pytest.fixture
def run(tiny_config, tmp_path):
    """The folder of a run that has ended, without its checkpoints."""
    folder = tmp_path / "run"
    workdir.claim(folder, tiny_config(), ("a", "b", "c", "d"))
    for name, content in CONTENTS.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text('{"step": 1, "total": 2.5}\n' * 3)
    return folder


def contents(folder):
    return {path.name: path.is_file() and path.read_bytes() for path in folder.iterdir()}


def claim(folder, config):
    records.results(folder)
    workdir.claim(folder, config, ("a", "b", "c", "d"))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "classes.json", *CONTENTS])
def test_a_damaged_file_is_named(run, tiny_config, name, damage):
    claim(run, tiny_config())
    (run / name).write_bytes(DAMAGES[damage]((run / name).read_bytes()))
    before = contents(run)
    with pytest.raises(CheckpointError) as refused:
        claim(run, tiny_config())
    assert str(run / name) in str(refused.value) and str(refused.value).count("\n") == 0
    assert contents(run) == before


@pytest.mark.parametrize(
    "value", [{"backbone": 3}, {"machine": 3}, {"seed": "x"}, {"data": {"scale_range": "wide"}}]
)
def test_a_value_that_no_run_has_is_damage(run, value):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | value))
    with pytest.raises(CheckpointError, match=rf"config\.json is damaged \({next(iter(value))}"):
        workdir.load_config(run)


@pytest.mark.parametrize("name", ["config.json", "results.json", "report.html", "lock.json"])
def test_a_folder_in_the_place_of_a_file(run, tiny_config, name):
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name} is a folder, .* another --out"):
        workdir.claim(run, tiny_config(), ("a", "b", "c", "d"))


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_file_in_the_place_of_a_folder(run, tiny_config, name):
    (run / name).symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=rf"{name} is no folder, .* another --out"):
        claim(run, tiny_config())


@pytest.mark.parametrize("line", [b"", b'{"step": 2, "tot', b"3", b'{"total": 1.0}', b"\xff\x00"])
def test_a_damaged_line_of_metrics_is_named(run, tiny_config, line):
    path = run / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    before = contents(run)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is damaged"):
        claim(run, tiny_config())
    assert contents(run) == before


def test_half_a_line_of_metrics_at_the_end_is_that_of_a_killed_process(run, tiny_config):
    (run / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "tot')
    claim(run, tiny_config())
    assert records.metric_lines(run) == [(1, b'{"step": 1}\n')]


def test_checkpoints_of_a_run_that_is_not_known(run, tiny_config):
    (run / "checkpoints" / "4").mkdir(parents=True)
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has checkpoints and no config\.json.* restore"):
        claim(run, tiny_config())
    assert not (run / "config.json").exists()


def test_places_where_no_run_can_be(tiny_config, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "link"):
        with pytest.raises(OutputError, match=r"cannot write to the folder .* another --out"):
            claim(folder, tiny_config())
    assert (tmp_path / "file").read_text() == "mine"
