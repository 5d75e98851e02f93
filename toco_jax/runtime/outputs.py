"""Files that are written whole or not at all, and folders that are known to take them."""

import contextlib
import os
import pathlib
import secrets
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from toco_jax.runtime.errors import UserError


class OutputError(UserError):
    """A file or folder that cannot be written to; the message names it and the reason."""


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that a killed process leaves the old one or the new one.

    Text is stored as UTF-8. The new file's mode follows the umask, as that of any new file does, so
    that those who may read the folder may read the file.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_atomically(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file whose content replaces that of `path` if the `with` block raises nothing."""
    # Not `tempfile`, whose files only their owner may read. The whole name could be too long.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: pathlib.Path, option: str) -> pathlib.Path:
    """Makes a folder if it is missing and tries to write to it; returns it.

    Call it before the work whose result goes there.

    Args:
        folder: the folder.
        option: what the user can set to choose another one, for the message.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {folder} ({error.strerror}): give another {option}"
        ) from error
    return folder


def check_file(path: pathlib.Path, option: str) -> pathlib.Path:
    """Tries whether a file can be written, its folder made if missing; returns its path.

    Call it before the work whose result goes there.

    Args:
        path: the file.
        option: what the user can set to choose another one, for the message.

    Raises:
        OutputError: it is a folder, or its folder cannot be made or written to.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file as {option}")
    make_folder(path.parent, option)
    return path
