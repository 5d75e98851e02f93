"""What all commands share: options, messages instead of tracebacks, streams, compiled programs."""

import argparse
import contextlib
import difflib
import errno
import io
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence

import jax
from absl import logging

from toco_jax.runtime.errors import UserError

# Exit code of a command that was interrupted by Ctrl-C, as shells have it.
INTERRUPTED = 130
# What the system says of a disk without room, a read-only one, and a lack of permissions.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
# What JAX raises where there is no device of the kind it is told to use.
_NO_BACKEND = (RuntimeError, AssertionError)


def make_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--debug` whose help shows the description as it is written."""
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Adds `--debug`; absent from the options of a sub-command where it was not given."""
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )


def parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    *,
    known: Iterable[str] = (),
    intermixed: bool = False,
) -> argparse.Namespace:
    """The options, `debug` among them; a word that belongs to none of them ends the command.

    An option without its dashes, such as `size=32`, is such a word even where it could be a path.

    Args:
        parser: the parser.
        arguments: words of the command line; this process's by default.
        known: options of sub-commands, which the message may suggest.
        intermixed: whether positional words may stand between options.
    """
    read = parser.parse_known_intermixed_args if intermixed else parser.parse_known_args
    options, rest = read(arguments)
    names = [name for action in parser._actions for name in action.option_strings]
    rest += [word for word in _positional_words(parser, options) if _lacks_dashes(word, names)]
    if rest:
        parser.error(left_over(rest[0], [*names, *known]))
    options.debug = getattr(options, "debug", False)
    return options


def _positional_words(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> Iterator[str]:
    for action in parser._actions:
        if not action.option_strings:
            value = getattr(options, action.dest, None)
            yield from map(str, value if isinstance(value, list) else [value])


def _lacks_dashes(word: str, options: Iterable[str]) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and f"--{name}" in options and not os.path.lexists(word)


def left_over(word: str, options: Iterable[str]) -> str:
    """A sentence on a word of the command line that belongs to no option."""
    name, equals, _ = word.partition("=")
    plain = name.lstrip("-")
    options = [option.lstrip("-") for option in options]
    if equals and name == plain and plain in options:
        return f"{word!r} is no option: write --{word}"
    alike = difflib.get_close_matches(plain, options, n=1)
    hint = f"did you mean --{alike[0]}? " if alike else ""
    return f"{word!r} is no option, and nothing uses it: {hint}--help lists the options"


@contextlib.contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Within, a user's mistake becomes one sentence and exit code 1, and Ctrl-C exit code 130.

    So does a file that the system refuses: a full disk, a read-only one, missing permissions.
    Errors of the program itself keep their traceback; with `debug` a user's mistake does so too.
    """
    try:
        yield
    except UserError as error:
        if debug:
            raise
        sys.exit(f"error: {error}")
    except OSError as error:
        if debug or error.errno not in _REFUSALS:
            raise
        sys.exit(
            f"error: the system refuses {error.filename or 'a file'} ({error.strerror}): make room "
            "or change the permissions there, or choose another place"
        )
    except _NO_BACKEND as error:
        if debug or _has_devices():
            raise
        sys.exit(f"error: {_no_devices(error)}")
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _has_devices() -> bool:
    try:
        return bool(jax.local_devices())
    except _NO_BACKEND:
        return False


def _no_devices(error: Exception) -> str:
    reason = " ".join(str(error).split()) or "there is none of this kind"
    chosen = os.environ.get("JAX_PLATFORMS")
    where = f"JAX_PLATFORMS={chosen}" if chosen else "JAX's default"
    return (
        f"JAX finds no device for {where} ({reason}): set JAX_PLATFORMS=cpu or unset it, or "
        "install JAX for your device, such as jax[cuda12]"
    )


class _Lasting(io.FileIO):
    """A standard stream that swallows what comes after its reader has left, as after `| head`."""

    def write(self, data) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


def keep_streams() -> None:
    """For the start of a command: output never ends it.

    The command goes on when the reader of its output leaves, and letters that the terminal's
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


def keep_programs() -> None:
    """For the start of a command: compiled programs are kept for the next one.

    The user's `JAX_COMPILATION_CACHE_DIR` wins. Without a home directory that can be written to
    they are not kept.
    """
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


def set_up() -> None:
    """Keeps compiled programs between commands and the command's streams to its end, and silences
    orbax, which warns of opening a checkpoint read-only.
    """
    logging.set_verbosity(logging.ERROR)
    keep_streams()
    keep_programs()
