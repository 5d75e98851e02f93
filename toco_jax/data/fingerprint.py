"""Hashes the images, labels and masks of a split, to tell whether they have changed."""

import hashlib
import json
import pathlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from toco_jax.data.files import READERS, FileSource
from toco_jax.data.renumbered import Renumbered


def fingerprint(source: Any, count: int) -> str:
    """Hashes the first `count` records of a source.

    Names, classes, labels and masks are hashed by content; images, which are large, by size and
    time of change. For a source without such files, the files in its folder are hashed by size and
    time, and procedural records by name and seed.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(source, count):
        digest.update(part)
    return digest.hexdigest()


def listing(source: Any) -> str:
    """Hashes what a source lists: classes, names in their order, and labels, but no file's content.

    It is the same for copies of a data set in several places.
    """
    digest = hashlib.blake2b(digest_size=6)
    digest.update(json.dumps([source.class_names, source.split, list(source.names)]).encode())
    if isinstance(source, FileSource):
        digest.update(source.cls_labels.tobytes())
    return digest.hexdigest()


def _parts(source: Any, count: int) -> Iterable[bytes]:
    about = [source.class_names, source.split, getattr(source, "seed", 0)]
    yield json.dumps([*about, list(source.names[:count])]).encode()
    if isinstance(source, Renumbered):
        yield source.columns.tobytes()
        yield from _parts(source.source, count)
        return
    with ThreadPoolExecutor(READERS) as threads:
        if isinstance(source, FileSource):
            yield source.cls_labels[:count].tobytes()
            yield repr(source.mask_format).encode()
            yield from threads.map(_stamp, source.images[:count])
            yield from threads.map(_content, (source.masks or ())[:count])
        elif hasattr(source, "root"):
            yield from threads.map(_stamp, sorted(pathlib.Path(source.root).rglob("*")))


def _stamp(path: pathlib.Path) -> bytes:
    try:
        about = path.stat()
    except OSError:  # whoever reads the record says so
        return f"{path}: none".encode(errors="surrogateescape")
    return f"{path}: {about.st_size} {about.st_mtime_ns}".encode(errors="surrogateescape")


def _content(path: pathlib.Path | None) -> bytes:
    try:
        return b"none" if path is None else hashlib.blake2b(path.read_bytes()).digest()
    except OSError:  # whoever reads the record says so
        return b"none"
