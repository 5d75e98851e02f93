"""Reads text files of editors and spreadsheets."""

import codecs
import pathlib

from toco_jax.data.labels import read_bytes
from toco_jax.runtime.errors import DataError

_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Not white space to Python: zero-width marks, and the end of file of old DOS editors.
_INVISIBLE = "\u200b\u2060\ufeff\x1a"


def read_text(path: pathlib.Path, what: str) -> str:
    """Reads a file in UTF-8, or in UTF-16 if it has a byte order mark.

    Args:
        path: the file.
        what: what the file is, such as "list"; begins the message of a `DataError`.

    Raises:
        DataError: the file is missing, cannot be read, or is in another encoding. The encoding is
            not guessed, since a wrong guess changes names without a sign.
    """
    content = read_bytes(path, what)
    encoding = "utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} {path} cannot be read as text: it is not UTF-8 ({error.reason} at byte "
            f"{error.start}); save it as UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(
            f"{what} {path} cannot be read as text: it holds zero bytes, as UTF-16 without a mark "
            "does; save it as UTF-8"
        )
    return text


def trimmed(text: str) -> str:
    """Removes white space and invisible marks from the ends of a text."""
    previous = None
    while text != previous:
        previous, text = text, text.strip().strip(_INVISIBLE)
    return text


def is_unicode(text: str) -> bool:
    """Whether a text holds no halves of characters, as names and texts in other encodings do."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
