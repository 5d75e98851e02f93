"""Lines in a pipe, a bar on a terminal, and nothing for a caller that wants none."""

import contextlib
import io

import pytest

from toco_jax.runtime import progress
from toco_jax.runtime.progress import Progress, follow


def test_a_line_now_and_then(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    lines = []
    with Progress("val", 40, report=lines.append) as count:
        for i in range(40):
            now[0] = i / 4
            count()
    assert lines == [
        "val: 21/40 images  4.20 images/s  ETA 00:00:04",
        "val: 40/40 images  4.10 images/s  ETA 00:00:00",
    ]


def test_bytes_of_an_unknown_total(monkeypatch):
    monkeypatch.setattr(progress.time, "perf_counter", iter([0.0, 2.0, 2.0]).__next__)
    lines = []
    with Progress("x.pth", unit="MB", report=lines.append, every=0) as count:
        count.update(3_000_000)
    assert lines == ["x.pth: 3.0 MB  1.50 MB/s"]


def test_follow_counts_to_the_end_and_prints_on_stderr(capsys):
    assert follow("train", ((i, 3) for i in (1, 2, 3))) == 3
    assert follow("nothing", iter(())) == 0
    out, errors = capsys.readouterr()
    assert not out and errors.startswith("train: 3/3 images") and errors.count("\n") == 1


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("FORCE_COLOR", "1")


def test_a_bar_on_a_terminal(environment):
    with (
        contextlib.redirect_stdout(Terminal()) as terminal,
        pytest.raises(KeyboardInterrupt),
        Progress("[/b] 猫", 2) as count,
    ):
        count()
        count()
        raise KeyboardInterrupt
    shown = terminal.getvalue()
    assert "━" in shown and "2/2 images" in shown and "[/b] 猫" in shown and "ETA" not in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is there again


def test_no_bar_for_a_caller_who_takes_the_lines(environment):
    lines = []
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal), Progress("", 1, report=lines.append) as count:
        count()
    assert len(lines) == 1 and not terminal.getvalue()


def test_no_bar_where_the_lines_go_to_a_file(environment, capsys):
    with contextlib.redirect_stdout(Terminal()) as terminal:
        follow("train", [(1, 1)])
    assert capsys.readouterr().err.startswith("train: 1/1 images") and not terminal.getvalue()
