"""Refuses texts that hold something else than names of classes."""

import re
from collections.abc import Collection, Iterable

from toco_jax.data.classes import LONGEST_NAME
from toco_jax.data.labelling.text_files import trimmed
from toco_jax.runtime.errors import DataError, shown

# No pattern here can match a text in two ways, which would take time quadratic in its length.
NUMBER = r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?"
_FEWEST_COORDINATES = 4
_FRACTION = r"[-+]?\d*\.(?=0*[1-9])\d+(e[-+]?\d+)?"
# [cat, dog], {'cat'} or [1 0], but not [cat].
_PRINTED_LIST = r"""\[\]|\{\}|\(\)|(\[(?=.*[,'"\s]).*\]|\{(?=.*[,'"\s]).*\}|\((?=.*[,'"\s]).*\))"""
_KINDS = (
    (_PRINTED_LIST, "is a list as programs print it"),
    (_FRACTION, "is a number with a fraction"),
    (rf".*[:=\s(]{_FRACTION}\)?", "ends with a number with a fraction"),
    (r"#(REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!)", "is an error of a spreadsheet"),
    (r"<[^<>]+>.*", "is a piece of XML"),
)


def refuse_other_content(texts: Iterable[str], known: Collection[str], where: str) -> None:
    """Raises `DataError` for texts that hold no names of classes.

    These are coordinates, printed lists, probabilities, errors of spreadsheets, and XML.

    Args:
        texts: what files say of images.
        known: all classes, which are not refused; may be empty.
        where: begins the message.
    """
    for text in texts:
        for line in text.splitlines():
            kind = None if line in known else _kind(trimmed(line))
            if kind:
                raise DataError(
                    f"{where}: {shown(line)} {kind}, no name of a class; write names with ; "
                    "between them, or set data.label_separator to ';' if it is a name"
                )


def _kind(line: str) -> str | None:
    """Says what a line holds; None if it may name classes."""
    if any(map(_holds_coordinates, re.split("[;|]", line))):
        return "holds coordinates"
    for pattern, kind in _KINDS:
        if re.fullmatch(pattern, line, re.IGNORECASE):
            return kind
    longest = max(map(len, re.split("[;|,]", line)))
    return f"is longer than {LONGEST_NAME} characters" if longest > LONGEST_NAME else None


def _holds_coordinates(text: str) -> bool:
    """Whether a text holds four or more numbers that are not just numbers of classes."""
    words = [word for word in re.split(r"[\s,]+", text) if word]
    numbers = [word for word in words if re.fullmatch(NUMBER, word, re.IGNORECASE)]
    are_whole = all(word.isdecimal() for word in words)
    return len(numbers) >= _FEWEST_COORDINATES and not are_whole
