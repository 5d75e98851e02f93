"""A sentence for a process that ends without a word of its own, as when JAX's client aborts it."""

import atexit
import subprocess
import sys

# The program that speaks. Its input ends when the watched process does, in whatever way.
_WATCHER = """
import sys
told = sys.stdin.read()
if told != "withdrawn":
    print(told or sys.argv[1], file=sys.stderr)
"""
_watchers: list[subprocess.Popen] = []  # at most one


def prepare(sentence: str) -> None:
    """Has a sentence printed to stderr if this process dies before it withdraws it.

    A small program waits for that, because C++ code and SIGKILL leave Python no time to say
    anything. A process that exits in order withdraws its sentence by itself.

    Args:
        sentence: what is printed, in place of an earlier one.
    """
    withdraw()
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, sentence],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # which a Ctrl-C in the terminal does not reach
    )
    _watchers.append(watcher)
    atexit.register(withdraw)


def say(sentence: str) -> None:
    """Has another sentence printed in place of the one that is prepared; to be called once.

    Call `os._exit` next. What other threads print until then, such as JAX's page, stays above it.

    Args:
        sentence: what is printed.
    """
    if not _watchers:
        prepare(sentence)
        return
    pipe = _watchers[0].stdin
    assert pipe is not None
    pipe.write(sentence)
    pipe.flush()


def withdraw() -> None:
    """Withdraws the sentence, if there is one; to be called before `os._exit`."""
    atexit.unregister(withdraw)
    while _watchers:
        watcher = _watchers.pop()
        if watcher.poll() is None:
            watcher.communicate("withdrawn")
