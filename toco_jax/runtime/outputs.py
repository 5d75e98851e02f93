"""Writes files atomically, and checks in advance that results can be written."""

import contextlib
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import BinaryIO

from toco_jax.runtime.errors import UserError


class OutputError(UserError):
    """A file or folder cannot be written to; the message names it and the reason."""


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file; a process that is killed meanwhile leaves the old file as it was.

    Text is encoded as UTF-8. The file's permissions follow the umask, as those of any new file do.

    Raises:
        OSError: the file cannot be written; `filename` is its path.
    """
    try:
        with open_atomically(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        # The error of a full disk names no file, and others name the temporary file.
        error.filename, error.filename2 = str(path), None
        raise


def _beside(path: pathlib.Path) -> pathlib.Path:
    """Returns a hidden path that nothing has, in the same folder."""
    # Not by `tempfile`, whose files only their owner may read. The whole name could be too long.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}")


@contextlib.contextmanager
def open_atomically(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` when the context ends without an exception."""
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder that becomes `folder` when the context ends without an exception.

    After an exception, the new folder is removed.

    Args:
        folder: a path at which nothing exists, or an empty folder.
    """
    temporary = _beside(folder)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(folder: pathlib.Path, option: str) -> pathlib.Path:
    """Creates a folder if needed, checks that files can be written to it, and returns it.

    Call it before the work whose result goes there.

    Args:
        folder: the folder.
        option: the option that chooses another folder, for the message.

    Raises:
        OutputError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (FileExistsError, NotADirectoryError) as error:
        places = (path for path in (folder, *folder.parents) if os.path.lexists(path))
        file = next(path for path in places if not path.is_dir())
        kind = "a file" if file.exists() else "a link to nothing"
        raise OutputError(
            f"cannot write to the folder {folder} ({file} is {kind}): give another {option}"
        ) from error
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder {folder} ({error.strerror}): give another {option}"
        ) from error
    return folder


def check_file(path: pathlib.Path, option: str) -> pathlib.Path:
    """Checks that a file can be written, creates its folder if needed, and returns the path.

    Call it before the work whose result goes there.

    Args:
        path: the file.
        option: the option that chooses another file, for the message.

    Raises:
        OutputError: the path is a folder, or its folder cannot be created or written to.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: give the name of a file as {option}")
    make_folder(path.parent, option)
    return path


def drop_what_follows(descriptor: int) -> None:
    """Connects a file descriptor to the null device."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
