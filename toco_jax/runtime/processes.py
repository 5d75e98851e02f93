"""Several processes of one job: meeting, ending together, adding up what each has found.

JAX's own runtime finds the processes of a SLURM job, a TPU pod or a Kubernetes JobSet, watches over
them and carries a preemption notice from one to all.
"""

import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

import jax
import numpy as np
from jax.experimental import multihost_utils

from toco_jax.runtime.errors import UserError

# The exit code of a run that was told to stop and has saved: start it again (EX_TEMPFAIL).
RESTART = 75
# Seconds after which a process that has gone silent is taken for dead, and all others end.
_SILENCE = 30


class ProcessError(UserError):
    """Processes that cannot meet; the message says which setting is missing."""


class Preempted(Exception):
    """The machine is wanted back, and the run has been saved."""


def join(
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Meets the other processes of this job; alone it does nothing. Call it before any other JAX.

    From then on only process 0 has a standard output.

    Args:
        distributed: look for the others in what SLURM, a TPU pod, Kubernetes or the variables
            JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say.
        coordinator: `host:port` of process 0, where the processes are counted by hand.
        num_processes: how many there are.
        process_id: which one this is, from 0.

    Raises:
        ProcessError: nothing says how many processes there are, or only a part is said.
    """
    by_hand = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in by_hand.items() if value is None]
    if not distributed and len(missing) == len(by_hand):
        _check_alone()
        return
    if not distributed and missing:
        raise ProcessError(f"{' and '.join(missing)} missing: the three come together")
    if num_processes is None:
        num_processes = _number_in_environment("JAX_NUM_PROCESSES")
    if process_id is None:
        process_id = _number_in_environment("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, heartbeat_timeout_seconds=_SILENCE
        )
    except ValueError as error:
        raise ProcessError(
            f"{error} --distributed finds no SLURM job, TPU pod or JobSet here: give --coordinator,"
            " --num_processes and --process_id"
        ) from error
    if not is_first():
        sys.stdout = pathlib.Path(os.devnull).open("w")  # noqa: SIM115


def _number_in_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None or text.strip().isdecimal():
        return None if text is None else int(text)
    raise ProcessError(f"{name}={text} is no number: set it right or unset it")


def _check_alone() -> None:
    tasks = _number_in_environment("SLURM_STEP_NUM_TASKS") or 1
    if tasks > 1:
        raise ProcessError(
            f"srun has started {tasks} processes that do not know of each other: add --distributed"
        )


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(content: bytes) -> list[bytes]:
    """What each process gives, in their order."""
    if jax.process_count() == 1:
        return [content]
    lengths = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


@contextmanager
def ends_all() -> Iterator[None]:
    """An error in one of several processes ends it at once, so that the others notice and end too;
    an orderly exit would wait for them, and they for it.
    """
    try:
        yield
    except BaseException as error:
        # Without asking for devices, which may be what failed.
        alone = not jax.distributed.is_initialized() or jax.process_count() == 1
        if alone or (isinstance(error, SystemExit) and error.code == RESTART):
            raise
        if isinstance(error, SystemExit):
            print(error.code, file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


class Preemption:
    """Notices SIGTERM, by which schedulers announce that they want a machine back.

    As a context it catches the signal in a single process; several have it caught by JAX.
    """

    def __init__(self):
        self._told = False
        self._earlier: Callable | int | None = None

    def __enter__(self) -> "Preemption":
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._tell)
        return self

    def _tell(self, _number: int, _frame: FrameType | None) -> None:
        self._told = True

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)

    def stops(self, step: int) -> bool:
        """Whether to save after `step` and leave; all processes say so at the same step, and each
        has to ask at every step.
        """
        return self._told or multihost_utils.reached_preemption_sync_point(step)
