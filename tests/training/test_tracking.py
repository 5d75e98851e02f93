"""Means over the steps that computed a term, and where a NaN came from."""

import json

import numpy as np
import pytest

from toco_jax.training.tracking import StepLog, Tracker, TrainingError


@pytest.fixture
def log(tmp_path):
    tracker = Tracker(tmp_path, start_step=0, total_steps=10)
    yield StepLog(tracker, 2)
    tracker.close()


def terms(**values):
    return {name: np.float32(value) for name, value in values.items()}


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


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [{"cls": 1, "seg": np.nan}],
            "seg=nan.*images a; cls is finite.* from seg or",
        ),
        ([{"cls": np.nan, "seg": np.inf}], "step 1: .*the first step.* compute_dtype='float32'"),
        ([{"cls": 1, "seg": 1}, {"cls": np.nan, "seg": np.nan}], "update of step 1.*learning_rate"),
    ],
)
def test_where_a_nan_came_from(log, steps, message):
    for i, values in enumerate(steps):
        log.add(i + 1, ["a"], terms(**values, total=sum(values.values()), skipped=0))
    with pytest.raises(TrainingError, match=message) as caught:
        log.flush(show=False)
    assert ("learning_rate" in str(caught.value)) == ("learning_rate" in message)
