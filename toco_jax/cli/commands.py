"""Runs a verb: reads its command line, and turns a user's mistake into one sentence."""

import argparse
import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType

from toco_jax.cli import process
from toco_jax.cli.parser import Parser, choose
from toco_jax.cli.verbs import VERBS
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.exit_codes import INTERRUPTED

# What the system says of a disk without room, a read-only one, a lack of permissions, and a name
# that no file can have.
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
# What JAX raises where there is no device of the kind it is told to use.
_NO_BACKEND = (RuntimeError, AssertionError)

_ABOUT = """
usage: toco VERB RUN-or-CONFIG [PATH ...] [--out DIR] [--option value ...] [key=value ...]

ToCo: segmentation masks from image-level labels. CONFIG is shapes, voc, voc:vit_base or a file;
RUN is a folder that training wrote. `toco VERB --help` lists the options of a verb.
"""


def start(verb: str | None = None) -> None:
    """Runs this process's command line.

    Args:
        verb: one of `VERBS`; the first word of the command line by default.
    """
    process.keep_streams()
    process.show_crashes()
    words = sys.argv[1:]
    if verb is None:
        verb, words = choose(words, VERBS, program="toco", about=_ABOUT)
    module, options = _read(verb, words)
    for set_up in module.SET_UP:
        set_up()
    _run(module, options)


def run(verb: str, words: Sequence[str] | None = None) -> None:
    """Runs a verb with the words of a command line, and leaves the process as it is.

    Args:
        verb: one of `VERBS`.
        words: what follows the verb; this process's arguments by default.

    Raises:
        SystemExit: the command failed, or `--help` was asked for.
    """
    _run(*_read(verb, sys.argv[1:] if words is None else words))


def read(verb: str, words: Sequence[str]) -> argparse.Namespace:
    """Returns the options that the words after a verb give."""
    return _read(verb, words)[1]


def _read(verb: str, words: Sequence[str]) -> tuple[ModuleType, argparse.Namespace]:
    module = importlib.import_module(f"toco_jax.cli.verbs.{verb}")
    program = f"toco {verb}"
    # A verb such as `prepare` has commands of its own.
    if parts := getattr(module, "PARTS", None):
        part, words = choose(words, parts, program=program, about=module.__doc__)
        parser = Parser(f"{program} {part}", module.__doc__)
        module.add_arguments(parser, part)
        parser.set_defaults(part=part)
    else:
        parser = Parser(program, module.__doc__)
        module.add_arguments(parser)
    return module, parser.read(words)


def _run(module: ModuleType, options: argparse.Namespace) -> None:
    with reported(debug=options.debug):
        module.run(options)


@contextlib.contextmanager
def reported(*, debug: bool) -> Iterator[None]:
    """Ends the process with one sentence and exit code 1 on a user's mistake, and with exit code
    130 on Ctrl-C.

    So does a file that the system refuses: a full disk, a read-only one, missing permissions; and a
    lack of memory.
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
            f"error: the system refuses {error.filename or 'a file of the results'} "
            f"({error.strerror}): make room or change the permissions there, or use another place"
        )
    except MemoryError as error:
        if debug:
            raise
        sys.exit(f"error: {_no_memory(error)}")
    except _NO_BACKEND as error:
        if not debug and str(error).startswith("RESOURCE_EXHAUSTED"):
            sys.exit(f"error: {_no_memory(error)}")
        if debug or _has_devices():
            raise
        sys.exit(f"error: {_no_devices(error)}")
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _has_devices() -> bool:
    import jax

    try:
        return bool(jax.local_devices())
    except _NO_BACKEND:
        return False


def _no_memory(error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or "an allocation failed"
    return (
        f"the memory is not enough ({reason}): use a smaller batch_size, for training also "
        "machine.accumulate=2 or machine.low_memory=on, or smaller images"
    )


def _no_devices(error: Exception) -> str:
    reason = " ".join(str(error).split()) or "there is none of this kind"
    chosen = os.environ.get("JAX_PLATFORMS")
    where = f"JAX_PLATFORMS={chosen}" if chosen else "JAX's default"
    return (
        f"JAX finds no device for {where} ({reason}): set JAX_PLATFORMS=cpu or unset it, or "
        "install JAX for your device, such as jax[cuda12]"
    )
