"""Logs a run's numbers to `metrics.jsonl`, to TensorBoard and in a line, and checks them."""

import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toco_jax.run import records
from toco_jax.run.state import TrainState
from toco_jax.run.stored import by_path
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import write_atomically
from toco_jax.runtime.processes import is_first
from toco_jax.runtime.stopwatch import format_seconds
from toco_jax.training.failures import Failures, TrainingError
from toco_jax.training.log_files import Board, GrowingFile, metrics_line
from toco_jax.training.online_board import OnlineBoard
from toco_jax.training.step import LEFT_OUT


class Tracker:
    """Writes the metrics of a run to its folder, in the first of several processes.

    Lines of `metrics.jsonl` beyond `start_step` are removed first, because their steps are about to
    be run again. `online` receives the same values.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        start_step: int,
        total_steps: int,
        online: OnlineBoard | None = None,
    ):
        self._online = online
        self._path = workdir / records.METRICS_FILE
        self._total_steps = total_steps
        self.speeds: list[tuple[int, float]] = []  # each line's step and images/s
        self._mark = (start_step, time.perf_counter())
        self._file = self._board = None
        if not is_first():
            return
        if self._path.exists():
            kept = [line for at, line in records.metric_lines(workdir) if at <= start_step]
            write_atomically(self._path, b"".join(kept))
        self._file = GrowingFile(self._path)
        self._board = Board(workdir / records.TENSORBOARD, first_step=start_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the values of a step as one line and one TensorBoard point per value.

        What a full disk does not take is kept and written later.
        """
        if self._file is None or self._board is None:
            return
        self._file.append(metrics_line(step, values))
        self._board.write(step, values)
        if self._online is not None:
            self._online.write(step, values)

    def progress(self, step: int, terms: dict[str, float], images_per_step: int) -> float:
        """Prints the step, its loss terms, the speed since the last line and the time left.

        Returns the speed in images/s.
        """
        last_step, last_time = self._mark
        now = time.perf_counter()
        steps_per_second = (step - last_step) / max(now - last_time, 1e-9)
        self._mark = (step, now)
        shown = " ".join(f"{name} {value:.4f}" for name, value in terms.items())
        left = format_seconds((self._total_steps - step) / max(steps_per_second, 1e-9))
        rate = steps_per_second * images_per_step
        self.speeds.append((step, rate))
        say(f"step {step}/{self._total_steps}  {shown}  {rate:.1f} images/s  ETA {left}")
        return rate

    def restart_clock(self, step: int) -> None:
        """Measures the next speed from `step` on, so that it leaves out an evaluation."""
        self._mark = (step, time.perf_counter())

    def close(self) -> None:
        """Closes the files."""
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()
        if self._online is not None:
            self._online.close()


# Weights of trained networks stay below some hundreds: one this large is finite and of no use.
LARGEST_WEIGHT = 1e4


def broken_weights(params: Any) -> list[str]:
    """Returns the names of the arrays of a tree that hold a NaN or values beyond use."""
    flags = by_path(jax.device_get(_jitted_is_broken(params)))
    return [name for name, is_broken in flags.items() if is_broken]


@jax.jit
def _jitted_is_broken(params: Any) -> Any:
    return jax.tree.map(lambda x: ~(jnp.abs(x) <= LARGEST_WEIGHT).all(), params)


def check_update(state: TrainState) -> None:
    """Raises `TrainingError` if the last update left weights that are not finite.

    Call it before a state is saved. The losses of a step are those of the weights before its
    update, so they do not tell.
    """
    if broken := broken_weights((state.params, state.extra)):
        raise TrainingError(
            f"step {int(state.step)}: all loss terms are finite, but its gradients or "
            f"weights are not: the update left NaN, infinity or values beyond "
            f"{LARGEST_WEIGHT:g} in {len(broken)} arrays, the first {broken[0]}. It is "
            "not saved, and checkpoints saved before are whole. Lower learning_rate or set "
            "max_grad_norm, and start a new --out"
        )


class StepLog:
    """Collects loss terms on the device, and fetches and checks them a few steps at a time."""

    def __init__(self, tracker: Tracker, failures: Failures, batch_size: int):
        self._tracker = tracker
        self._failures = failures
        self._batch_size = batch_size
        self._pending: list[tuple[int, list[str], dict[str, jax.Array]]] = []
        self._since_shown: list[dict[str, float]] = []

    def add(self, step: int, names: list[str], terms: dict[str, jax.Array]) -> None:
        """Adds a step without waiting for it.

        Args:
            step: number of steps taken, this one included.
            names: names of the images of its batch.
            terms: what `train_step` returned for it, float32 `[]` each.
        """
        self._pending.append((step, names, terms))

    def flush(self, *, show: bool) -> None:
        """Waits for the steps that were added, checks their loss terms and writes them.

        Args:
            show: whether to print the mean of each term over the steps since the last line. Steps
                that did not compute a term do not count in its mean. `left_out` is the share of the
                steps whose update was left out.

        Raises:
            TrainingError: an update was left out, and the run is not to go on.
        """
        for step, names, terms in self._pending:
            values = {name: float(value) for name, value in jax.device_get(terms).items()}
            left_out = values.pop(LEFT_OUT)
            self._failures.check(step, names, values, left_out=bool(left_out))
            if left_out:  # JSON has no number for NaN
                values = {LEFT_OUT: left_out}
            self._tracker.write(step, values)
            self._since_shown.append(values)
        self._pending.clear()
        if show and self._since_shown:
            # In the order of a step that computes all terms, as most steps do.
            fullest = sorted(self._since_shown, key=len, reverse=True)
            names = dict.fromkeys(name for values in fullest for name in values)
            means = {
                name: float(np.mean([v[name] for v in self._since_shown if name in v]))
                for name in names
            }
            if LEFT_OUT in means:  # kept only of steps of which nothing else is
                count = sum(LEFT_OUT in v for v in self._since_shown)
                means[LEFT_OUT] = count / len(self._since_shown)
            self._tracker.progress(step, means, self._batch_size)
            self._since_shown.clear()
