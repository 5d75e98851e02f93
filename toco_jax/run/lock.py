"""A lock on a run's folder, so that no two trainings write to the same checkpoints."""

import contextlib
import json
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from toco_jax.runtime import json_text, processes
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import write_atomically

LOCK_FILE = "lock.json"
# Seconds between two changes that the owner makes to the file, and seconds for which another host
# waits for such a change.
BEAT, WATCH = 10.0, 35.0


class LockError(UserError):
    """Another process trains in the same folder; the message names that process."""


@contextlib.contextmanager
def locked(workdir: pathlib.Path, *, beat: float = BEAT, watch: float = WATCH) -> Iterator[None]:
    """Holds the lock of a run's folder within the context; the first process does so for its job.

    The lock is a file that states the host, the number and the start time of its owner's process.
    On the same host, a dead owner is recognised at once. On another host that shares the file
    system, the owner counts as dead if the file does not change for `watch` seconds. Only contents
    are compared, because the clocks of two hosts may differ.

    Args:
        workdir: the run's folder.
        beat: seconds between two changes that the owner makes to the file.
        watch: seconds for which another host waits for a change, several times `beat`.

    Raises:
        LockError: a running process holds the lock.
    """
    if not processes.is_first():
        yield
        return
    path = workdir / LOCK_FILE
    process = psutil.Process()
    owner = {"host": socket.gethostname(), "process": process.pid, "started": process.create_time()}
    while not _create(path, owner):
        _remove_if_dead(path, watch)
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, owner, beat, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        if _is(owner, _read(path)):
            path.unlink(missing_ok=True)


def owner(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns who holds the lock of a run's folder, as seen from here; nothing if nobody does."""
    held = _read(workdir / LOCK_FILE)
    return {key: held.get(key) for key in ("host", "process", "started") if key in held}


def _create(path: pathlib.Path, owner: dict[str, Any]) -> bool:
    """Creates the lock's file; returns False if it exists already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(owner | {"beat": 0}))
    except FileExistsError:
        return False
    return True


def _beat(path: pathlib.Path, owner: dict[str, Any], beat: float, stop: threading.Event) -> None:
    """Changes the file every `beat` seconds until `stop` is set or another owner has the file."""
    count = 0
    while not stop.wait(beat):
        count += 1
        if not _is(owner, _read(path)):
            return
        # If the disk is full or not there, the next beat tries again.
        with contextlib.suppress(OSError):
            write_atomically(path, json.dumps(owner | {"beat": count}))


def _remove_if_dead(path: pathlib.Path, watch: float) -> None:
    """Removes the lock's file if its owner is dead.

    Raises:
        LockError: the owner runs.
    """
    held = _read(path)
    is_here = held.get("host") == socket.gethostname()
    if _runs(held) if is_here else _changes(path, held, watch):
        raise LockError(
            f"{path.parent} is in use: process {held.get('process', '?')} on host "
            f"{held.get('host', '?')} trains there; wait until it ends, or use another --out"
        )
    if _read(path) == held:  # nobody else has taken it over meanwhile
        path.unlink(missing_ok=True)


def _runs(held: dict[str, Any]) -> bool:
    """Whether the process that a lock names runs on this host."""
    # The start time is compared because another process may have got the same number since.
    try:
        return abs(psutil.Process(held["process"]).create_time() - held["started"]) < 1
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False


def _changes(path: pathlib.Path, held: dict[str, Any], watch: float) -> bool:
    """Whether another host's lock changes within `watch` seconds; False if it is removed."""
    say(f"{path} was left by host {held.get('host', '?')}: watching it for {watch:.0f} s")
    end = time.monotonic() + watch
    while time.monotonic() < end:
        time.sleep(min(1.0, watch / 10))
        found = _read(path)
        if found != held:
            return bool(found)
    return False


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of the lock's file; empty if the file is missing or truncated."""
    try:
        content = json_text.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is(owner: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether the content `held` of a lock's file names this owner."""
    return {key: held.get(key) for key in owner} == owner
