"""Means over the steps that computed a term."""

import json

import numpy as np
import pytest

from toco_jax.training.failures import Failures
from toco_jax.training.step import LEFT_OUT
from toco_jax.training.tracking import StepLog, Tracker


@pytest.fixture
def log(tmp_path):
    tracker = Tracker(tmp_path, start_step=0, total_steps=10)
    yield StepLog(tracker, Failures(tmp_path, "skip"), 2)
    tracker.close()


def terms(**values):
    return {name: np.float32(value) for name, value in values.items()} | {LEFT_OUT: np.float32(0)}


def test_a_term_that_starts_in_the_window_is_averaged_over_its_steps(log, tmp_path, capsys):
    log.add(1, ["a"], terms(cls=1, total=1))
    log.add(2, ["b"], terms(cls=3, seg=0.5, total=4))
    log.add(3, ["c"], terms(cls=5, seg=1.5, total=7))
    log.flush(show=True)
    shown = capsys.readouterr().out
    assert "cls 3.0000 seg 1.0000 total 4.0000" in shown
    assert "nan" not in shown
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"step", "cls", "total"}


def test_a_term_that_ends_in_the_window_is_still_shown(log, capsys):
    log.add(1, ["a"], terms(cls=1, ptc=2, total=3))
    log.add(2, ["b"], terms(cls=3, total=3))
    log.flush(show=True)
    assert "cls 2.0000 ptc 2.0000 total 3.0000" in capsys.readouterr().out


def test_of_updates_that_were_left_out_the_share_is_shown(log, capsys):
    log.add(1, ["a"], terms(cls=1, total=1))
    log.add(2, ["b"], terms(cls=np.nan, total=np.nan) | {LEFT_OUT: np.float32(1)})
    log.add(3, ["c"], terms(cls=2, total=2))
    log.add(4, ["d"], terms(cls=3, total=3))
    log.flush(show=True)
    assert "cls 2.0000 total 2.0000 left_out 0.2500" in capsys.readouterr().out
