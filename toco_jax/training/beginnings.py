"""Beginnings that runs of an ablation have in common, which are trained once.

Runs that differ only in the weights of losses, and in the map that becomes labels, from some step
on are the same until then, to the bit. The first of them stops there, and the others go on with a
copy of its folder.
"""

import pathlib
import shutil
from collections.abc import Mapping

from ml_collections import ConfigDict

from toco_jax.config import LOSS_TERMS, flat_values, with_values
from toco_jax.method.phases import value_at
from toco_jax.run import workdir as run_folder
from toco_jax.run.lock import LOCK_FILE
from toco_jax.run.records import RESULTS_FILE, checkpoint_steps
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.training import loop

_SCHEDULES = ("pseudo_label_cam", *(f"loss_weights.{term}" for term in LOSS_TERMS))
_UNFINISHED = ".copying"


def same_until(one: ConfigDict, other: ConfigDict) -> int:
    """Returns the step before which two configurations compute the same: 0 if there is none."""
    values = [flat_values(config.to_dict()) for config in (one, other)]
    schedules = [{key: value.pop(key) for key in _SCHEDULES} for value in values]
    if values[0] != values[1]:
        return 0
    starts = {
        start
        for key in _SCHEDULES
        for start in {step for them in schedules for step, _ in them[key]}
        if value_at(schedules[0][key], start) != value_at(schedules[1][key], start)
    }
    return min(starts, default=one.total_steps)


def steps_taken(folder: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint of a run, 0 if it has none."""
    return max(checkpoint_steps(folder), default=0)


def shared_with(
    folder: pathlib.Path, runs: Mapping[pathlib.Path, ConfigDict]
) -> dict[int, list[pathlib.Path]]:
    """Returns the runs that begin like a run, by the step until which they do, ascending.

    Args:
        folder: the run's folder, one of `runs`.
        runs: the configuration of each run by its folder. Those that have come as far are left out,
            and those that are locked, because they may be trained elsewhere.
    """
    found: dict[int, list[pathlib.Path]] = {}
    for other, config in runs.items():
        step = same_until(runs[folder], config)
        is_taken = any((other / name).exists() for name in (RESULTS_FILE, LOCK_FILE))
        is_behind = steps_taken(other) < step and not is_taken
        if other != folder and is_behind and steps_taken(folder) <= step < config.total_steps:
            found.setdefault(step, []).append(other)
    return dict(sorted(found.items()))


def train_shared(
    folder: pathlib.Path,
    runs: Mapping[pathlib.Path, ConfigDict],
    preemption: processes.Preemption,
) -> None:
    """Trains a run to the end of each beginning that others share, and copies it to them.

    Args:
        folder: the run's folder, one of `runs`.
        runs: the configuration of each run by its folder.
        preemption: notices the signals.

    Raises:
        Preempted: SIGTERM or Ctrl-C came; the state is saved.
        UserError: what `loop.train` raises.
    """
    shared = shared_with(folder, runs)
    processes.barrier()  # so that none sees the copies that another one has made
    for step, others in shared.items():
        names = ", ".join(f"{other.parent.name}/{other.name}" for other in others)
        say(f"until step {step} this is also the run of {names}")
        if steps_taken(folder) < step:
            preemption.until = step
            try:
                loop.train(runs[folder], folder, preemption=preemption)
            except processes.Preempted:
                if preemption.stops(0):
                    raise
            finally:
                preemption.until = None
        for other in others if steps_taken(folder) == step else ():
            _copy(folder, other, runs[other])


def _copy(folder: pathlib.Path, other: pathlib.Path, config: ConfigDict) -> None:
    """Replaces a run that is not as far by a copy of another one, with its own schedules."""
    if processes.is_first():
        begun = run_folder.load_config(folder)
        begun = with_values(
            begun, loss_weights=config.loss_weights, pseudo_label_cam=config.pseudo_label_cam
        )
        unfinished = other.with_name(other.name + _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(folder, unfinished)
        run_folder.save_config(unfinished, begun)
        shutil.rmtree(other, ignore_errors=True)
        unfinished.rename(other)
    processes.barrier()
