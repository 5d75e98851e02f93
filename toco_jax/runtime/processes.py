"""Several processes of one job: how they find each other, end together and exchange results.

JAX's runtime finds the processes of a SLURM job, a TPU pod or a Kubernetes JobSet, notices when one
of them dies, and passes a preemption notice from one process to all.
"""

import itertools
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from toco_jax.runtime import last_words
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.exit_codes import MISTAKE, RESTART

# Seconds that a process waits for the others at the start.
_MEETING = 300
# What libraries say of another process that is gone.
_GONE = ("Gloo", "NCCL", "Connection reset", "Connection closed", "Socket closed", "coordination")
# Seconds that a process waits for the others at a barrier, as for one that compiles for long.
_LONGEST = 7200
_barriers = itertools.count()
# Seconds without a sign of life after which a process counts as dead, and all others end.
_SILENCE = 30


class ProcessError(UserError):
    """The processes cannot find each other; the message says which setting is missing."""


class JobError(ProcessError):
    """An error that every process of the job raises at the same place."""


class Preempted(Exception):
    """The run was told to stop, and has saved its state."""


def join(
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Connects to the other processes of this job; a single process does nothing.

    Call it before anything else uses JAX.

    Args:
        distributed: whether to find the others by SLURM, a TPU pod, Kubernetes or the variables
            JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
        coordinator: `host:port` of process 0, if the processes are numbered by hand.
        num_processes: the number of processes.
        process_id: the number of this process, from 0.

    Returns:
        Whether this process is the one that prints and writes.

    Raises:
        ProcessError: nothing says how many processes there are, or a setting is missing.
    """
    by_hand = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [f"--{name}" for name, value in by_hand.items() if value is None]
    if not distributed and len(missing) == len(by_hand):
        _check_alone()
        return True
    if not distributed and missing:
        raise ProcessError(f"{' and '.join(missing)} missing: the three come together")
    if num_processes is None:
        num_processes = _number_in_environment("JAX_NUM_PROCESSES")
    if process_id is None:
        process_id = _number_in_environment("JAX_PROCESS_ID")
    _check_numbers(coordinator, num_processes, process_id)
    waited = (
        f"not all {num_processes or ''} processes of this job have come within {_MEETING} s: see "
        "what the missing ones say, and whether all have the same coordinator and number of "
        "processes"
    )
    try:
        with _ending_after(_MEETING, waited):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                heartbeat_timeout_seconds=_SILENCE,
                initialization_timeout=2 * _MEETING,
            )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ProcessError(
            f"the processes of this job cannot meet ({reason}): see whether the coordinator's port "
            "is free and its host can be reached"
        ) from error
    except ValueError as error:
        raise ProcessError(
            f"{error} --distributed finds no SLURM job, TPU pod or JobSet here: give --coordinator,"
            " --num_processes and --process_id"
        ) from error
    if jax.process_count() > 1:
        last_words.prepare(
            f"error: process {jax.process_index()} of {jax.process_count()} was ended from "
            "outside; if a page of JAX is above, because another process of this job is gone: see "
            "what the others say, and start all of them again to go on"
        )
    return is_first()


def _check_numbers(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise ProcessError(
            f"--coordinator={coordinator} must be a host and a port: write it as in node0:1234"
        )
    if num_processes is not None and process_id is not None and process_id >= num_processes:
        raise ProcessError(
            f"--process_id={process_id} is not among {num_processes} processes, which are counted "
            f"from 0: use a number below {num_processes}"
        )


@contextmanager
def _ending_after(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with a message if what is within takes longer.

    JAX would end it too, with a page of its own.
    """

    def end() -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(MISTAKE)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
    """Returns whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def barrier() -> None:
    """Waits for all processes, of which one that is dead ends the others.

    Collectives of the devices give up earlier, on a CPU after 30 s.
    """
    if jax.process_count() > 1:
        key = f"toco_jax {next(_barriers)}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=1000 * _LONGEST)


def gather(content: bytes) -> list[bytes]:
    """Returns the `content` of every process, in the order of the processes."""
    if jax.process_count() == 1:
        return [content]
    barrier()
    lengths = multihost_utils.process_allgather(np.array([len(content)], np.int32)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


@contextmanager
def ends_all() -> Iterator[None]:
    """Within, an error in one of several processes ends that process at once.

    So the others notice and end too. An orderly exit would wait for them, and they for it. One that
    waits for the process that is gone gets an error, which becomes the last sentence printed. All
    others are ended by JAX's client in C++, with a page and exit code 134, to which `last_words`
    adds what to do. `jax_enable_recoverability` would not help: without process 0 the others end in
    the same way, and without another one they wait for ever.
    """
    try:
        yield
    except BaseException as error:
        # `process_count` asks for the devices, which may be what failed.
        alone = not jax.distributed.is_initialized() or jax.process_count() == 1
        if alone or (isinstance(error, SystemExit) and error.code == RESTART):
            raise
        if isinstance(error, JobError) or isinstance(error.__context__, JobError):
            raise  # the others end by it too
        if isinstance(error, SystemExit):
            last_words.say(str(error.code))
        elif isinstance(error, RuntimeError) and any(text in str(error) for text in _GONE):
            reason = " ".join(str(error).split())[:200]
            last_words.say(
                f"error: another process of this job has ended, or cannot be reached ({reason}): "
                "see what it says, and start all of them again to go on"
            )
        else:
            traceback.print_exc()
            last_words.withdraw()
        sys.stderr.flush()
        os._exit(MISTAKE)


class Preemption:
    """Notices SIGTERM, by which schedulers announce that a process has to end soon, and Ctrl-C.

    As a context manager it catches the signals in the main thread, and restores the earlier
    handlers at the end. A second Ctrl-C raises `KeyboardInterrupt`. In several processes JAX
    catches SIGTERM, and a Ctrl-C in one of them counts as that.

    Attributes:
        until: a step after which a run ends in any case, None for none.
    """

    def __init__(self):
        self.until: int | None = None
        self._told = self._interrupted = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is not threading.main_thread():
            return self
        numbers = [signal.SIGINT, signal.SIGTERM] if jax.process_count() == 1 else [signal.SIGINT]
        for number in numbers:
            # A shell has its background commands ignore Ctrl-C.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._earlier[number] = signal.signal(number, self._tell)
        return self

    def _tell(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
            # Not by `print`, which may be what was interrupted.
            os.write(2, b"\nends after this step and saves; Ctrl-C again ends without saving\n")
            if jax.process_count() > 1:
                os.kill(os.getpid(), signal.SIGTERM)
                return
        self._told = True

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def stops(self, step: int) -> bool:
        """Returns whether to save the state after `step` and end.

        Every process has to ask at every step; all get the same answer at the same step.
        """
        told = self._told or multihost_utils.reached_preemption_sync_point(step)
        return told or step == self.until
