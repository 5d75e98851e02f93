"""What commands print: any text, on any terminal, whether or not somebody still reads it.

Names of classes and files come from users. They may hold letters that the terminal's encoding
lacks, which are printed as escapes (`\\u732b`), and square brackets, which mean styles to rich.
"""

import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text


def printable(text: str, stream: TextIO | None = None) -> str:
    """`text` with escapes for what `stream` (stdout by default) cannot encode."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: object = "", *, error: bool = False) -> None:
    """Prints a line on stdout, or on stderr with `error`, and flushes it.

    A reader that has gone away (`| head`) does not end the program: from then on what is printed
    there is lost, and the work goes on.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(printable(str(text), stream), file=stream, flush=True)
    except BrokenPipeError:
        # What is still buffered goes there too, which Python would complain about at its end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def silent(text: object) -> None:
    """Prints nothing: the `report` of a function that is to run without printing."""


def say_table(
    title: str,
    headings: Sequence[str],
    *sections: Iterable[Sequence[str]],
    caption: str | None = None,
    num_names: int = 1,
) -> None:
    """Prints a table.

    Args:
        title: above the table.
        headings: one a column.
        *sections: rows of cells, with a line between one section and the next.
        caption: below the table.
        num_names: the first columns, which hold names; numbers follow, aligned on the right.
    """
    table = Table(title=_text(title), caption=None if caption is None else _text(caption))
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
    """Text that rich lays out as it is; a control character in it is printed as its escape."""
    visible = (repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)
    return Text(printable("".join(visible)))
