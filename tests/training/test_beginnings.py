"""Beginnings in common: where runs part, who gets a copy, and what a signal does."""

import signal

import pytest

from toco_jax.run import records
from toco_jax.run.lock import LOCK_FILE
from toco_jax.runtime import processes
from toco_jax.training import beginnings

NO_CTC = {"loss_weights.ctc": ((0, 0.0),)}


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, 10),
        (NO_CTC, 2),
        ({"loss_weights.ctc": ((0, 0.0), (2, 0.5), (7, 0.4))}, 7),
        ({"loss_weights.cls": ((0, 1.0), (5, 1.0))}, 10),
        ({"loss_weights.cls_aux": ((0, 0.0),)}, 0),
        ({"pseudo_label_cam": ((0, "cam"), (4, "aux_cam")), **NO_CTC}, 2),
        ({"pseudo_label_cam": ((0, "cam"), (4, "aux_cam"))}, 4),
        ({"temperature": 0.3}, 0),
        ({"seed": 1}, 0),
        ({"data.scale_range": (0.5, 1.0)}, 0),
    ],
)
def test_where_two_runs_part(tiny_config, changes, step):
    pair = tiny_config(), tiny_config(**changes)
    assert beginnings.same_until(*pair) == beginnings.same_until(*pair[::-1]) == step


def test_who_shares_a_beginning(tiny_config, tmp_path):
    late = {"loss_weights.ctc": ((0, 0.0), (2, 0.5), (7, 0.4))}
    runs = {tmp_path / "a": tiny_config(), tmp_path / "b": tiny_config(**NO_CTC)}
    runs |= {tmp_path / "c": tiny_config(**late), tmp_path / "d": tiny_config(seed=1)}
    a, b, c, _ = runs
    assert beginnings.shared_with(a, runs) == {2: [b], 7: [c]}
    for folder, step in ((a, 2), (b, 1), (c, 7)):
        (folder / records.CHECKPOINTS / str(step)).mkdir(parents=True)
    (a / records.CHECKPOINTS / "4.orbax-checkpoint-tmp").mkdir()
    assert beginnings.shared_with(a, runs) == {2: [b]}  # the third is as far
    (b / LOCK_FILE).touch()
    assert beginnings.shared_with(a, runs) == {}
    (b / LOCK_FILE).unlink()
    (b / records.RESULTS_FILE).touch()
    assert beginnings.shared_with(a, runs) == {}
    (a / records.CHECKPOINTS / "9").mkdir()
    assert beginnings.shared_with(a, runs) == {}


def test_a_signal_ends_a_shared_beginning(tiny_config, tmp_path, monkeypatch):
    runs = {tmp_path / "a": tiny_config(**NO_CTC), tmp_path / "b": tiny_config()}

    def told(config, folder, *, preemption):
        assert preemption.until == 2
        signal.raise_signal(signal.SIGTERM)
        raise processes.Preempted("stopped and saved")

    monkeypatch.setattr(beginnings.loop, "train", told)
    with processes.Preemption() as preemption, pytest.raises(processes.Preempted):
        beginnings.train_shared(tmp_path / "a", runs, preemption)
    assert preemption.until is None and not (tmp_path / "b").exists()
