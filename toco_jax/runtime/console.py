"""Prints lines and tables on any terminal.

Names of classes and files come from users. Characters that the terminal's encoding lacks are
printed as escapes (`\\u732b`), and square brackets, which rich reads as styles, as they are.
"""

import errno
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toco_jax.runtime.outputs import drop_what_follows

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def printable(text: str, stream: TextIO | None = None) -> str:
    """Replaces characters that `stream` (stdout by default) cannot encode by escapes."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: object = "", *, error: bool = False) -> None:
    """Prints a line on stdout, or on stderr with `error`, and flushes it.

    If the reader of the stream has gone (`| head`), this and all later lines are dropped.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(printable(str(text), stream), file=stream, flush=True)
    except BrokenPipeError:
        # Python would report at exit that it cannot write what is still buffered.
        drop_what_follows(stream.fileno())
    except OSError as refused:
        # What goes to a file on a full disk stays in the stream's buffer until there is room.
        if refused.errno not in _FULL:
            raise


def silent(text: object) -> None:
    """Prints nothing; a `report` for functions that should not print."""


def say_table(
    title: str, headings: Sequence[str], *sections: Iterable[Sequence[str]], num_names: int = 1
) -> None:
    """Prints a table.

    Args:
        title: printed above the table.
        headings: one for each column.
        *sections: rows of cells; a line separates two sections.
        num_names: the number of first columns that hold names. The others hold numbers and are
            aligned on the right.
    """
    table = Table(title=_text(title))
    for i, heading in enumerate(headings):
        table.add_column(_text(heading), justify="left" if i < num_names else "right")
    for i, rows in enumerate(sections):
        if i:
            table.add_section()
        for row in rows:
            table.add_row(*map(_text, row))
    console = Console()
    with console.capture() as captured:
        console.print(table)
    say(captured.get().rstrip("\n"))


def _text(text: str) -> Text:
    """Returns text without styles for rich; control characters are replaced by escapes."""
    visible = (repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)
    return Text(printable("".join(visible)))
