"""`Journal`: entries on the disk, because there may be too many for the memory."""

import json
import pathlib
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any


class Journal:
    """Entries of JSON in a temporary file, which nothing is left of when the process ends.

    Args:
        folder: the folder of the temporary file.
    """

    def __init__(self, folder: pathlib.Path):
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Any]:
        """Yields the entries in the order of their numbers."""
        for number in sorted(self._places):
            self._file.seek(self._places[number])
            yield json.loads(self._file.readline())

    def add(self, number: int, entry: Any) -> None:
        """Keeps an entry as the one of a number."""
        place = self._file.seek(0, 2)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._places[number] = place  # only once all of it is there
