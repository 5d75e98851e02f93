"""Names that rich or the terminal would not take, and a reader that goes away."""

import io
import subprocess
import sys
import types

import numpy as np
import pytest

from toco_jax.data import check_report
from toco_jax.evaluation import scoring
from toco_jax.runtime import console

NAMES = ("background", "[b]old", "[/x]", "猫", "\x1b[2Jwipe")


def scores():
    confusion = np.eye(len(NAMES), dtype=np.int64)
    counts = {"confusion/seg/32": confusion, "f1/32": np.array([1.0, 1.0])}
    row = scoring.make_row(counts, "seg", "32", description="[/d]", names=NAMES)
    return {"step": 1, "split": "[/v]", "images": 1, "rows": [row]}


@pytest.fixture
def terminal(monkeypatch):
    """Function from an encoding to what is written to a stdout of it."""

    def open_as(encoding):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        monkeypatch.setenv("COLUMNS", "120")
        return written

    return open_as


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_tables_show_every_name(terminal, encoding):
    written = terminal(encoding)
    scoring.print_tables(scores())
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert "[/v]" in shown and "[/d]" in shown
    for name in ("[b]old", "[/x]", r"\x1b[2Jwipe", "猫" if encoding == "utf-8" else r"\u732b"):
        assert name in shown
    assert "\x1b[2J" not in shown


def test_lines_are_escaped_where_they_must_be(terminal):
    written = terminal("latin-1")
    console.say("[/x] café 猫 \udc80")
    assert written.getvalue() == b"[/x] caf\xe9 \\u732b \\udc80\n"


def test_work_goes_on_when_nobody_reads():
    code = (
        "import sys\n"
        "from toco_jax.runtime.console import say, say_table\n"
        "for i in range(20_000): say('line')\n"
        "say_table('title', ['a'], [['b']])\n"
        "print('more')\n"
        "print('done', file=sys.stderr)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "line\n"
    writer.stdout.close()
    assert writer.stderr.read() == "done\n"
    assert writer.wait(30) == 0
    writer.stderr.close()


class Two:
    class_names, split = NAMES[1:], "[/s]"

    def __len__(self):
        return 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_check_shows_every_name(terminal, encoding):
    source = Two()
    labels = np.ones((2, len(NAMES) - 1), np.uint8)
    split = types.SimpleNamespace(source=source, labels=labels, images={})
    written = terminal(encoding)
    check_report.print_splits({"train": split})
    problem = types.SimpleNamespace(fatal=True, kind="[/k]", split="[/s]", message="猫 [/m]")
    check_report.print_problems([problem])
    shown = written.getvalue().decode(encoding)
    for name in ("[b]old", "[/x]", "[/s]", "[/k]", "[/m]"):
        assert name in shown
    assert shown.count("猫" if encoding == "utf-8" else r"\u732b") > 3
