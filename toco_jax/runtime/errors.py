"""Errors that a user can correct; commands print their message instead of a traceback.

A message may hold what a file says. Such values go through `shown` or `clipped`, because whoever
made the file chose their size.
"""

import itertools
import re
from collections.abc import Collection

_LONGEST_MESSAGE = 4000
_LONGEST_VALUE = 100


class UserError(ValueError):
    """A mistake that the user can correct; the message names it, its value and what to do next."""

    def __str__(self) -> str:
        message, half = super().__str__(), _LONGEST_MESSAGE // 2
        if len(message) <= _LONGEST_MESSAGE:
            return message
        return f"{message[:half]} ... {message[-half:]}"  # what to do stands at the end


class WeightsError(UserError):
    """Weights are damaged, of no known format, or do not fit the network."""


class MissingWeightsError(WeightsError, FileNotFoundError):
    """There are no such weights, or they could not be downloaded."""


class DataError(UserError):
    """A file or folder of a data set is not what it has to be; the message says what to do."""


def shown(value: object) -> str:
    """Returns a value of a file for a message: short texts and numbers as Python writes them.

    Of a long text the first 100 characters are shown, and of a container or a large number the type
    alone: a small file may hold a tuple whose `repr` is larger than any memory.
    """
    if isinstance(value, str | bytes):
        start = repr(value[:_LONGEST_VALUE])
        more = len(value) - _LONGEST_VALUE
        return start if more <= 0 else f"{start}... ({more} more)"
    is_large = isinstance(value, int) and value.bit_length() > 64
    if isinstance(value, bool | int | float | None) and not is_large:
        return repr(value)
    return f"<{type(value).__name__}>"


def clipped(text: object, most: int = _LONGEST_VALUE) -> str:
    """Returns a text for a message, without quotes: printable, `most` characters at most."""
    start = str(text)[:most]
    # A line break or a byte that is no letter must not get into a sentence.
    start = start if start.isprintable() else ascii(start)
    return start if len(str(text)) <= most else f"{start}..."


def is_inside(name: str) -> bool:
    """Whether a relative path in a file stays in the folder that it is relative to.

    Both kinds of slashes count. Links are not followed: those in a folder are its owner's.
    """
    parts = re.split(r"[/\\]", name)
    is_absolute = parts[0] == "" or re.fullmatch("[A-Za-z]:", parts[0]) is not None
    return not is_absolute and ".." not in parts and "\0" not in name


def some_of(names: Collection[object], most: int = 20, *, longest: int = _LONGEST_VALUE) -> str:
    """Lists the first `most` names of a file for a message, and says how many more there are.

    Of each name `longest` characters are shown.
    """
    more = len(names) - most
    first = ", ".join(clipped(name, longest) for name in itertools.islice(names, most))
    return first if more <= 0 else f"{first} and {more} more"
