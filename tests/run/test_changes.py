"""A run that goes on with other values says which, and refuses those of another run."""

import json

import pytest

from toco_jax.run import workdir
from toco_jax.run.checkpoints import CheckpointError

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def run(tiny_config, tmp_path):
    workdir.claim(tmp_path, tiny_config(), NAMES)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    return tmp_path


@pytest.mark.parametrize("left", [(), ("init.json",), ("metrics.jsonl",)])
def test_a_run_that_has_taken_no_step_gives_way_to_any_other(tiny_config, tmp_path, left):
    workdir.claim(tmp_path, tiny_config(), NAMES)
    for name in left:
        (tmp_path / name).write_text({"init.json": '{"sha256": null}'}.get(name, ""))
    config = tiny_config(seed=1, num_classes=2)
    assert workdir.claim(tmp_path, config, ("x", "y")) == {}
    assert workdir.load_config(tmp_path).to_dict() == config.to_dict()
    assert workdir.class_names(tmp_path, config) == ("x", "y")


@pytest.mark.parametrize("left", ["checkpoints/2/x", "checkpoints/4.damaged/x", "results.json"])
def test_a_run_of_which_anything_is_left_does_not(tiny_config, tmp_path, left):
    workdir.claim(tmp_path, tiny_config(), NAMES)
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_text("{}")
    with pytest.raises(CheckpointError, match=r"other values: seed"):
        workdir.claim(tmp_path, tiny_config(seed=1), NAMES)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("total_steps", 11),
        ("log_every", 3),
        ("on_nan", "skip"),
        ("eval_every", 3),
        ("eval_batches", 0),
        ("save_every", 3),
        ("data.root", "elsewhere"),
        ("data.on_error", "skip"),
        ("machine.accumulate", 2),
        ("machine.num_threads", 0),
    ],
)
def test_harmless_changes_are_said_and_written(run, tiny_config, key, value, capsys):
    config = tiny_config(**{key: value})
    changed = workdir.claim(run, config, NAMES)
    assert [*changed] == [key]
    assert workdir.load_config(run).to_dict() == tiny_config().to_dict()  # not before `record`
    workdir.record(run, config, changed, step=4, override=False)
    line = capsys.readouterr().out
    assert f"goes on from step 4 with other values: {key} (" in line and f"{value} now)" in line
    assert workdir.load_config(run).to_dict() == config.to_dict()
    assert workdir.claim(run, config, NAMES) == {}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("total_steps", 5, r"total_steps \(10 there, 5 now\)"),
        ("seed", 1, r"seed \(0 there, 1 now\)"),
        (
            "loss_weights.ptc",
            ((0, 0.5),),
            r"loss_weights\.ptc \(\(\(0, 0\.0\), \(2, 0\.2\)\) there",
        ),
        ("data.train_split", "other", r"data\.train_split \(train there, other now\)"),
    ],
)
def test_other_changes_need_to_be_asked_for(run, tiny_config, key, value, message):
    config = tiny_config(**{key: value, "log_every": 1})
    before = (run / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match=rf"other values: {message}.*--override") as refused:
        workdir.claim(run, config, NAMES)
    assert "log_every" not in str(refused.value)
    assert (run / "config.json").read_bytes() == before
    changed = workdir.claim(run, config, NAMES, override=True)
    assert {*changed} == {key, "log_every"}


def test_every_change_is_kept(run, tiny_config):
    for step, seed in enumerate((3, 4)):
        config = tiny_config(seed=seed)
        changed = workdir.claim(run, config, NAMES, override=True)
        workdir.record(run, config, changed, step=step, override=True)
    first, second = map(json.loads, (run / "config_changes.jsonl").read_text().splitlines())
    assert (first["step"], first["override"], first["changed"]) == (0, True, {"seed": [0, 3]})
    assert (second["step"], second["changed"]) == (1, {"seed": [3, 4]})
    assert second["time"] >= first["time"] > "2020"
