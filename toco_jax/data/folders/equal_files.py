"""Finds files with the same content, and reads as little as possible for that."""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

from toco_jax.data.files import READERS

# Of two pictures of equal length nearly always the last bytes differ already: they are compressed.
_TAIL = 4096
_CHUNK = 64  # files that a thread takes at a time


def equal_files(paths: Sequence[pathlib.Path]) -> list[list[int]]:
    """Groups files of equal content.

    Only files of equal length are opened, and only those with equal ends are read. Files that are
    empty or cannot be read are in no group.

    Returns:
        The positions in `paths` of two or more equal files per group, in ascending order.
    """
    groups = [list(range(len(paths)))]
    with ThreadPoolExecutor(READERS) as threads:
        for key in (_size, _end, _content):
            groups = _divided(groups, paths, key, threads)
    return sorted(groups)


def _divided(
    groups: list[list[int]],
    paths: Sequence[pathlib.Path],
    key: Callable[[pathlib.Path], Hashable],
    threads: ThreadPoolExecutor,
) -> list[list[int]]:
    """Divides groups by the `key` of their files; keeps the parts of two or more files."""
    members = [(group, place) for group, places in enumerate(groups) for place in places]
    chunks = [members[start : start + _CHUNK] for start in range(0, len(members), _CHUNK)]
    keys = threads.map(lambda chunk: [key(paths[place]) for _, place in chunk], chunks)
    parts: dict[Hashable, list[int]] = {}
    for (group, place), value in zip(members, itertools.chain.from_iterable(keys), strict=True):
        if value is not None:
            parts.setdefault((group, value), []).append(place)
    return [part for part in parts.values() if len(part) > 1]


def _size(path: pathlib.Path) -> int | None:
    try:
        return path.stat().st_size or None
    except OSError:
        return None


def _end(path: pathlib.Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            file.seek(-min(_TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read()
    except OSError:
        return None


def _content(path: pathlib.Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return None
