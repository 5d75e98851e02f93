"""Reports of the steps whose update was left out, because a loss or a gradient was not finite."""

import json
import math
import pathlib

from toco_jax.config import LOSS_TERMS
from toco_jax.run.records import FAILURES
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import write_atomically

# So many updates in a row are not left out by chance.
MOST_IN_A_ROW = 10


class TrainingError(UserError):
    """Training cannot go on; the message says what happened and what to do next."""


class Failures:
    """Writes a report about each step whose update was left out, and ends the run or lets it go on.

    The weights before the first of the steps are assumed to be finite.
    """

    def __init__(self, workdir: pathlib.Path, on_nan: str):
        """Makes the reports of a run.

        Args:
            workdir: the run's folder.
            on_nan: "stop" ends the run at the first such step, "skip" at the 10th in a row.
        """
        self._folder = workdir / FAILURES
        self._most = MOST_IN_A_ROW if on_nan == "skip" else 1
        self._in_a_row = 0
        self._last_good: int | None = None

    def check(
        self, step: int, names: list[str], terms: dict[str, float], *, left_out: bool
    ) -> None:
        """Takes note of a step; all processes call it alike.

        Args:
            step: number of steps taken, this one included.
            names: names of this process's images of the batch.
            terms: the loss terms of the step.
            left_out: whether its update was left out.

        Raises:
            TrainingError: it was, and the run is not to go on.
        """
        if not left_out:
            self._in_a_row, self._last_good = 0, step
            return
        self._in_a_row += 1
        shares = processes.gather(json.dumps(names).encode())
        names = [name for share in shares for name in json.loads(share)]
        cause = self._cause(terms)
        told = f"step {step}: {cause}. Its update was left out"
        path = self._report(step, names, terms, told)
        if self._in_a_row < self._most:
            if processes.is_first():
                say(f"{told}, see {path}", error=True)
            return
        many = f", as were those of the {self._most - 1} steps before" if self._most > 1 else ""
        remedy = (
            "such steps in a row are no chance: to go on from the last one, change a value and add "
            "--override"
            if many
            else "the same command goes on from the last one; to leave such batches out and go on, "
            "add --config.on_nan=skip"
        )
        raise TrainingError(
            f"{told}{many}, for the images {', '.join(names)}; see {path}. The checkpoints saved "
            f"before are whole; {remedy}"
        )

    def _report(self, step: int, names: list[str], terms: dict[str, float], told: str) -> str:
        path = self._folder / f"{step}.json"
        if processes.is_first():
            self._folder.mkdir(exist_ok=True)
            shown = {name: v if math.isfinite(v) else str(v) for name, v in terms.items()}
            about = {"step": step, "images": names, "terms": shown, "what": told}
            write_atomically(path, json.dumps(about, indent=2) + "\n")
        return str(path)

    def _cause(self, terms: dict[str, float]) -> str:
        """Returns what is not finite, and where it may come from."""
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        if not broken:
            return (
                "all loss terms are finite, but a gradient is not, or is too large for "
                "float32: set the loss_weights of one term after the other to 0 to see which"
            )
        shown = ", ".join(f"{name}={terms[name]}" for name in broken)
        whole = [name for name in LOSS_TERMS if name in terms and name not in broken]
        if whole:
            names = " and ".join(name for name in broken if name != "total")
            return (
                f"{shown} is not finite; {', '.join(whole)} {'is' if len(whole) == 1 else 'are'} "
                f"finite, so it comes from {names} or from weights that nothing else uses: look at "
                "these images, and set its loss_weights to 0 to see"
            )
        if self._last_good is None:
            return (
                f"{shown} is not finite; this is the first step and the weights it began with are "
                "finite, so the network's own values overflow: try compute_dtype='float32' or "
                "other weights as init"
            )
        return (
            f"{shown} is not finite; those of step {self._last_good} are, and the weights are "
            "finite, so its images or the size of the weights are the cause: look at the images, "
            "lower learning_rate or set max_grad_norm"
        )
