"""Files that grow while a run trains, and wait for room while the disk is full."""

import json
import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from toco_jax.runtime.console import say


class GrowingFile:
    """A file to which bytes are appended.

    What cannot be written, for example because the disk is full, is kept and written with what is
    appended next. A line says so once.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._left = b""
        self._failing = False

    def append(self, content: bytes) -> None:
        """Appends bytes, after those that could not be written earlier."""
        self._left += content
        try:
            while self._left:
                self._left = self._left[self._file.write(self._left) :]
        except OSError as error:
            if not self._failing:
                say(
                    f"{self._path} cannot be written to ({error.strerror}): training goes on, and "
                    "what belongs there is kept until it can",
                    error=True,
                )
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Closes the file; a line says if its end could not be written."""
        self.append(b"")
        self._file.close()
        if self._left:
            say(f"the last {len(self._left)} bytes of {self._path} were not written", error=True)


class Board:
    """Writes TensorBoard's events.

    tensorboardX's own writer waits forever for its thread, which ends when the disk is full.
    """

    def __init__(self, folder: pathlib.Path, *, first_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = GrowingFile(folder / name)
        self._add(file_version="brain.Event:2")
        # TensorBoard drops what earlier files have from this step on.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=first_step, session_log=start)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a point per value."""
        for name, value in values.items():
            self._add(step=step, summary=scalar(name, value))

    def _add(self, **content: object) -> None:
        data = event_pb2.Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(data))
        parts = length, _checksum(length), data, _checksum(data)  # a TFRecord
        self._file.append(b"".join(parts))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def metrics_line(step: int, values: Mapping[str, float]) -> bytes:
    """Returns the line of `metrics.jsonl` for a step."""
    return (json.dumps({"step": step} | dict(values)) + "\n").encode()
