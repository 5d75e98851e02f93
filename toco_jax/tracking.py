"""Where a run's numbers go: `metrics.jsonl`, TensorBoard and one progress line."""

import json
import math
import pathlib
import time

import jax
import numpy as np
from tensorboardX import SummaryWriter

from toco_jax.console import say
from toco_jax.outputs import write_atomically
from toco_jax.processes import is_first

METRICS_FILE = "metrics.jsonl"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says what happened and what to do."""


def format_seconds(seconds: float) -> str:
    """`93784` as `1d 02:03:04`, without the days where there are none."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}d {clock}" if days else clock


class Tracker:
    """Writes the metrics of one run's folder, in the first of several processes.

    Lines of `metrics.jsonl` beyond `start_step` are dropped when it opens: they belong to steps
    that are about to be run again.
    """

    def __init__(self, workdir: pathlib.Path, *, start_step: int, total_steps: int):
        self._path = workdir / METRICS_FILE
        self._total_steps = total_steps
        self._mark = (start_step, time.perf_counter())
        self._file = self._board = None
        if not is_first():
            return
        if self._path.exists():
            self._keep_until(start_step)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def _keep_until(self, step: int) -> None:
        # A killed process can leave half a line at the end.
        lines = self._path.read_text().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        kept = [line for line in whole if json.loads(line)["step"] <= step]
        write_atomically(self._path, "".join(kept))

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line and one TensorBoard point per value."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def progress(self, step: int, terms: dict[str, float], images_per_step: int) -> float:
        """Prints step, loss terms, images/s since the last line and the time left; returns
        images/s.
        """
        last_step, last_time = self._mark
        now = time.perf_counter()
        steps_per_second = (step - last_step) / max(now - last_time, 1e-9)
        self._mark = (step, now)
        shown = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
        left = format_seconds((self._total_steps - step) / max(steps_per_second, 1e-9))
        rate = steps_per_second * images_per_step
        say(f"step {step}/{self._total_steps}  {shown}  {rate:.1f} images/s  ETA {left}")
        return rate

    def restart_clock(self, step: int) -> None:
        """Lets the next rate count from `step` on, so that it leaves out what went before."""
        self._mark = (step, time.perf_counter())

    def close(self) -> None:
        """Flushes both files."""
        if self._file is not None:
            self._file.close()
            self._board.close()


class StepLog:
    """Loss terms that are still on the device, fetched and checked a few steps at a time."""

    def __init__(self, tracker: Tracker, batch_size: int):
        self._tracker = tracker
        self._batch_size = batch_size
        self._pending: list[tuple[int, list[str], dict[str, jax.Array]]] = []
        self._since_shown: list[dict[str, float]] = []

    def add(self, step: int, names: list[str], terms: dict[str, jax.Array]) -> None:
        """Notes a step without waiting for it."""
        self._pending.append((step, names, terms))

    def flush(self, *, show: bool) -> None:
        """Writes all noted steps; with `show`, prints their mean since the last line.

        Raises:
            TrainingError: a term is not finite.
        """
        for step, names, terms in self._pending:
            values = {name: float(value) for name, value in jax.device_get(terms).items()}
            broken = [
                f"{name}={value}" for name, value in values.items() if not math.isfinite(value)
            ]
            if broken:
                raise TrainingError(
                    f"step {step}: {', '.join(broken)} is not finite, for the images "
                    f"{', '.join(names)}; the last checkpoint is whole. Lower learning_rate or set "
                    "max_grad_norm, and start a new --workdir"
                )
            self._tracker.write(step, values)
            self._since_shown.append(values)
        self._pending.clear()
        if show and self._since_shown:
            latest = self._since_shown[-1]
            means = {
                k: float(np.mean([v.get(k, math.nan) for v in self._since_shown])) for k in latest
            }
            self._tracker.progress(step, means, self._batch_size)
            self._since_shown.clear()
