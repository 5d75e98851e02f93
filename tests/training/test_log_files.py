"""Metrics and TensorBoard's events wait for room on a full disk, and stay whole."""

import contextlib
import resource
import sys

import pytest
from tensorboard_events import events
from tensorboardX.proto import event_pb2

from toco_jax.runtime.console import say
from toco_jax.training import tracking
from toco_jax.training.log_files import Board, GrowingFile


@contextlib.contextmanager
def room(size):
    """Files of this process cannot grow beyond `size` bytes; Python ignores the signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_does_not_fit_is_written_once_there_is_room(tmp_path, capsys):
    file = GrowingFile(tmp_path / "x")
    with room(10):
        for content in (b"a" * 8, b"b" * 8, b"c"):
            file.append(content)
    assert (tmp_path / "x").read_bytes() == b"a" * 8 + b"b" * 2
    file.append(b"d")
    file.close()
    assert (tmp_path / "x").read_bytes() == b"a" * 8 + b"b" * 8 + b"cd"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "x cannot be written to (File too large): training" in said


def test_what_is_lost_in_the_end_is_said(tmp_path, capsys):
    file = GrowingFile(tmp_path / "x")
    with room(4):
        file.append(b"abcdef")
        file.close()
    assert f"the last 2 bytes of {tmp_path / 'x'} were not written" in capsys.readouterr().err


def test_output_that_goes_to_a_full_disk_waits_too(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with room(4):
            say("first")
        say("second")
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


def test_events_are_those_of_tensorboard(tmp_path, capsys):
    board = Board(tmp_path / "tensorboard", first_step=5)
    with room(100):
        board.write(5, {"total": 2.5, "cls": 0.5})
    board.write(6, {"total": 1.5})
    board.close()
    version, start, *points = events(*(tmp_path / "tensorboard").iterdir())
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, event_pb2.SessionLog.START)
    found = [(event.step, event.summary.value[0].tag) for event in points]
    assert found == [(5, "total"), (5, "cls"), (6, "total")]
    assert [event.summary.value[0].simple_value for event in points] == [2.5, 0.5, 1.5]
    assert all(event.wall_time > 1e9 for event in points)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", [0, 150])
def test_training_goes_on_while_the_disk_is_full(tmp_path, size, capsys):
    tracker = tracking.Tracker(tmp_path, start_step=0, total_steps=100)
    with room(size):
        for step in range(1, 101):
            tracker.write(step, {"total": 1.0})
    tracker.close()
    lines = [f'{{"step": {step}, "total": 1.0}}' for step in range(1, 101)]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines
    assert len([*events(*(tmp_path / "tensorboard").iterdir())]) == 102
    assert capsys.readouterr().err.count("\n") == 2  # a line a file
