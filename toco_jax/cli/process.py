"""What a command sets up in its own process: streams, memory, compiled programs, logging.

Only the entry points of commands call these functions; they change the whole process.
"""

import faulthandler
import functools
import io
import os
import pathlib
import signal
import sys
import tempfile
from types import FrameType

from toco_jax.runtime.exit_codes import INTERRUPTED, RESTART
from toco_jax.runtime.outputs import drop_what_follows


class _Lasting(io.FileIO):
    """A standard stream that drops what is written after its reader has left, as after `| head`."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            drop_what_follows(self.fileno())
            return len(data)


def keep_streams() -> None:
    """Lets no output end the command.

    The command goes on when the reader of its output leaves, and characters that the terminal's
    encoding lacks, such as the odd bytes of a file name, are written as escapes.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            continue
        stream.flush()
        raw = _Lasting(stream.fileno(), "w", closefd=False)
        lasting = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
        )
        setattr(sys, name, lasting)


def print_nothing() -> None:
    """Drops standard output, as all processes of a job do but the first."""
    sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115


def show_crashes() -> None:
    """Prints the Python traceback of a crash in compiled code."""
    if sys.stderr is not None:
        faulthandler.enable()


def end_at_once() -> None:
    """Ends the command at once on SIGTERM and on Ctrl-C.

    A command that saves calls it before its imports, which take seconds, and catches the signals
    itself as soon as there is something to save. SIGTERM ends it with the exit code by which launch
    scripts start it again, Ctrl-C with that of an interruption.
    """
    ends = {
        signal.SIGTERM: (RESTART, b"stopped; the same command goes on\n"),
        signal.SIGINT: (INTERRUPTED, b"interrupted\n"),
    }
    for number, (code, line) in ends.items():
        # A shell has its background commands ignore Ctrl-C.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, functools.partial(_end, code, line))


def _end(code: int, line: bytes, _number: int, _frame: FrameType | None) -> None:
    # An exception would surface in the middle of an import, where libraries may swallow it.
    os.write(2, line)
    if last_words := sys.modules.get("toco_jax.runtime.last_words"):
        last_words.withdraw()
    os._exit(code)


def keep_programs() -> None:
    """Keeps compiled programs for the next command.

    They go to `~/.cache/toco_jax/xla`; the user's `JAX_COMPILATION_CACHE_DIR` wins. Without a home
    directory that can be written to they are not kept.
    """
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = pathlib.Path.home() / ".cache" / "toco_jax" / "xla"
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except (RuntimeError, OSError):  # Path.home() raises the former
            return
        # In the environment, so that worker processes find it too.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def log_errors_only() -> None:
    """Silences warnings of libraries; orbax has one for opening a checkpoint to read it."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def one_opencv_thread() -> None:
    """Leaves the cores to the threads that read and write pictures side by side."""
    import cv2

    cv2.setNumThreads(0)
