"""Weights & Biases, by a stand-in for its package: what it is told, and what may go wrong."""

import json
import sys

import pytest
from stand_in_wandb import StandIn

from toco_jax.config import ConfigError
from toco_jax.training import online_board, tracking
from toco_jax.training.loop import train


@pytest.fixture
def wandb(monkeypatch):
    package = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def logged(config, workdir, steps):
    """What a tracker wrote of some steps to `metrics.jsonl`."""
    board = online_board.open_board(config, workdir)
    tracker = tracking.Tracker(workdir, start_step=steps[0] - 1, total_steps=9, online=board)
    for step in steps:
        tracker.write(step, {"total": 1.0 / step, "cls": 0.5})
    tracker.close()
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_it_receives_what_metrics_does_and_a_run_stays_one(wandb, tiny_config, tmp_path):
    config = tiny_config(wandb="project")
    first = logged(config, tmp_path, [1, 2, 3])
    both = logged(config, tmp_path, [3, 4])
    one, other = wandb.runs
    assert one.points == first and other.points == both[2:]
    assert one.is_finished and other.is_finished
    assert one.metrics == [("step", None), ("*", "step")]
    for run in wandb.runs:
        assert run.options["project"] == "project" and run.options["resume"] == "allow"
        assert run.options["config"]["crop_size"] == 32
    assert one.options["id"] == other.options["id"]


def test_nothing_is_sent_unless_asked(wandb, tiny_config, tmp_path):
    assert online_board.open_board(tiny_config(), tmp_path) is None
    assert wandb.runs == [] and not list(tmp_path.iterdir())


def test_without_the_package_a_run_does_not_begin(monkeypatch, tiny_config, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"wandb='mine' .* is not installed: `pip install wandb`"):
        train(tiny_config(wandb="mine"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_refusal_is_one_sentence(wandb, monkeypatch, tiny_config, tmp_path):
    def init(**_):
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ConfigError, match=r"wandb='mine': .*api_key not configured.*WANDB_MODE"):
        online_board.open_board(tiny_config(wandb="mine"), tmp_path)


def test_training_outlasts_a_service_that_ends(wandb, monkeypatch, tiny_config, tmp_path, capsys):
    board = online_board.open_board(tiny_config(wandb="mine"), tmp_path)

    def log(values):
        raise BrokenPipeError("the service is gone")

    monkeypatch.setattr(wandb.runs[0], "log", log)
    for step in (1, 2):
        board.write(step, {"total": 1.0})
    board.close()
    assert capsys.readouterr().err.count("takes no more numbers (the service is gone)") == 1
