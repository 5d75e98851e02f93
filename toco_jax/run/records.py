"""The small files of a run's folder, read such that damage is one sentence on the file."""

import os
import pathlib
from typing import Any

from toco_jax.runtime import json_text
from toco_jax.runtime.errors import UserError, clipped

CONFIG_FILE = "config.json"
CHANGES_FILE = "config_changes.jsonl"  # what was changed when the run went on, see `run.changes`
CLASSES_FILE = "classes.json"
START_FILE = "init.json"  # which weights the run started from
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
EVALUATION_FILE = "evaluation.json"  # what `evaluate` found
SAMPLES_FILE = "samples.png"
WEIGHTS_FILE = "model.safetensors"  # the network of a run that was shared, which has no checkpoints
CHECKPOINTS = "checkpoints"  # the folder of the checkpoints
TENSORBOARD = "tensorboard"  # the folder of TensorBoard's events
FAILURES = "failures"  # the folder of the reports of steps that were left out
EVALUATIONS = "evaluations"  # the folder of what each evaluation found, `<step>.json`
REPORT_FILE = "report.html"

# Keys that may differ when a run goes on, as all keys of `machine` may, because they do not change
# what the run computes. `total_steps` may grow.
FREE_KEYS = ("log_every", "eval_every", "eval_batches", "save_every", "on_nan", "wandb")
FREE_KEYS += ("data.root", "data.on_error")

_FILES = (CONFIG_FILE, CHANGES_FILE, CLASSES_FILE, START_FILE, METRICS_FILE, RESULTS_FILE)
_FILES += (SAMPLES_FILE, REPORT_FILE, "lock.json")


class CheckpointError(UserError):
    """A run or checkpoint is missing or does not fit; the message says what to do."""


def check(workdir: pathlib.Path) -> None:
    """Checks whatever of a run's folder is read later, or written after hours.

    Raises:
        CheckpointError: a file is damaged, or a folder lies in its place.
    """
    for name in _FILES:
        if (workdir / name).is_dir():
            raise CheckpointError(
                f"{workdir / name} is a folder, and a run has a file of that name: move it away, "
                "or use another --out"
            )
    for name in (CHECKPOINTS, TENSORBOARD, FAILURES, EVALUATIONS):
        if os.path.lexists(workdir / name) and not (workdir / name).is_dir():
            raise CheckpointError(
                f"{workdir / name} is no folder, and a run has a folder of that name: move it "
                "away, or use another --out"
            )
    metric_lines(workdir)
    start(workdir)


def read_json(path: pathlib.Path, *, remedy: str) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: the file.
        remedy: ends the message if the file cannot be read.

    Raises:
        CheckpointError: the file is cut, empty or no JSON.
        PermissionError: the user may not read it.
    """
    try:
        return json_text.parse(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({clipped(error, 300)}): {remedy}") from error


def results(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the results of a run that has reached its last step, None if there are none.

    Raises:
        CheckpointError: the file is damaged or of something else.
    """
    path = workdir / RESULTS_FILE
    if not path.exists():
        return None
    remedy = "move it away, and the same command writes it anew from the last checkpoint"
    found = read_json(path, remedy=remedy)
    is_whole = isinstance(found, dict) and "seg_miou" in found
    if not is_whole or not isinstance(found.get("step", 0), int):
        raise CheckpointError(f"{path} does not hold the results of a run: {remedy}")
    return found


def start(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns which weights a run started from, None if that is not noted.

    Raises:
        CheckpointError: the file is damaged or of something else.
    """
    path = workdir / START_FILE
    if not path.exists():
        return None
    remedy = "restore it from a copy, or remove it to have today's `init` noted"
    noted = read_json(path, remedy=remedy)
    if not isinstance(noted, dict) or "sha256" not in noted:
        raise CheckpointError(f"{path} does not say which weights the run started from: {remedy}")
    return noted


def metric_lines(workdir: pathlib.Path) -> list[tuple[int, bytes]]:
    """Returns the step of each line of metrics and the line.

    A last line without an end is left out: a process that is killed can leave one.

    Raises:
        CheckpointError: a line holds no step.
    """
    path, found = workdir / METRICS_FILE, []
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        try:
            step = json_text.parse(line)["step"]
        except (ValueError, TypeError, KeyError):
            step = None
        if not isinstance(step, int):
            raise CheckpointError(
                f"{path}: line {number} is damaged and has no step ({line[:40]!r}): correct or "
                "remove that line, or move the file away"
            )
        found.append((step, line + b"\n"))
    return found


def checkpoint_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a run's checkpoints, ascending; none if it has no folder of them."""
    names = (path.name for path in (workdir / CHECKPOINTS).glob("*"))
    return sorted(int(name) for name in names if name.isdecimal())


def evaluations(workdir: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """Returns step and file of each evaluation of a run, in the order of the steps."""
    files = (workdir / EVALUATIONS).glob("*.json")
    return sorted((int(path.stem), path) for path in files if path.stem.isdecimal())
