"""What is printed when a process ends, in any way."""

import pathlib
import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from toco_jax.runtime import last_words
last_words.prepare("the first")
last_words.prepare("the last")
{end}
"""


@pytest.mark.parametrize(
    ("end", "code", "printed"),
    [
        ("os.abort()", -signal.SIGABRT, "the last\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, "the last\n"),
        ("os._exit(3)", 3, "the last\n"),
        ("last_words.withdraw(); os._exit(3)", 3, ""),
        (
            "last_words.say('an error'); print('a page', file=sys.stderr, flush=True); os._exit(1)",
            1,
            "a page\nan error\n",
        ),
        ("last_words.withdraw(); last_words.say('an error'); os._exit(1)", 1, "an error\n"),
        ("last_words.withdraw(); last_words.withdraw()", 0, ""),
        ("", 0, ""),
        ("raise SystemExit(4)", 4, ""),
    ],
)
def test_only_a_process_that_could_say_nothing_has_last_words(end, code, printed):
    program = PROGRAM.format(end=end)
    root = pathlib.Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr, found.stdout) == (code, printed, "")
