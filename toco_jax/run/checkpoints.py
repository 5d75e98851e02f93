"""Saves and restores the checkpoints of a run: the last two and the best, to the bit."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from toco_jax.run import stored
from toco_jax.run.state import TrainState
from toco_jax.run.stored import CheckpointError, DamagedCheckpointError
from toco_jax.run.workdir import CHECKPOINTS, CONFIG_FILE, load_config, run_folder, save_config
from toco_jax.runtime import processes
from toco_jax.runtime.console import say

_BEST = "seg_miou"
# An old checkpoint is moved here before its files are deleted, so that a kill leaves no half of it.
_DELETED = "deleted"
# Orbax writes a checkpoint under this name and renames it when it is whole.
_UNFINISHED = ".orbax-checkpoint-tmp*"


def _plain(state: TrainState) -> dict[str, Any]:
    """The state as nested containers of arrays; the key as its data."""
    return {
        "step": state.step,
        "params": state.params,
        "teacher_params": state.teacher_params,
        "opt_state": state.opt_state,
        "key": jax.random.key_data(state.key),
    }


class Checkpoints:
    """Saves and restores the training states of one run's folder."""

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._folder = workdir, workdir / CHECKPOINTS
        self._saving: int | None = None  # the step of the save under way
        self._failure: str | None = None  # why the last save failed
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Orbax's manager of the folder, without what a save that did not end has left there."""
        self._delete(_DELETED, f"*{_UNFINISHED}")
        policies = [
            preservation_policy.LatestN(2),
            preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics[_BEST],
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            todelete_subdir=_DELETED,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        # Orbax fails without a word on a relative path.
        folder = self._folder.resolve()
        return ocp.CheckpointManager(folder, options=options, item_names=stored.ITEMS)

    def _write_checksums(self) -> None:
        """In the first process, when all is written and the folder does not yet have its name."""
        (folder,) = self._folder.glob(f"{self._saving}{_UNFINISHED}")
        stored.write_checksums(folder)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, meta: dict, seg_miou: float | None = None) -> None:
        """Saves in the background; a step that is there already is left alone.

        A save that fails, as on a full disk, is reported; the earlier checkpoints stay, and the
        next call tries again. One of several processes that cannot save ends with the error.

        Args:
            state: the training state.
            meta: JSON values kept beside it.
            seg_miou: the score by which the best checkpoint is chosen, where it is known.

        Raises:
            CheckpointError: a newer checkpoint is there, or the run's folder is gone.
        """
        step, plain = int(state.step), _plain(state)
        if not (self._workdir / CONFIG_FILE).exists():
            raise CheckpointError(
                f"{self._workdir / CONFIG_FILE} is gone: restore the run's folder from a copy, or "
                "use another --out"
            )
        self._finish()
        if step in self._manager.all_steps():
            return
        self._saving = step
        with self._reporting():
            self.check_room(state)
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), meta=ocp.args.JsonSave(meta)
                ),
                metrics=None if seg_miou is None else {_BEST: seg_miou},
            )
            if not saved:
                raise CheckpointError(
                    f"the checkpoint of step {step} in {self._workdir} was not saved: a newer one "
                    "is there; remove it or use another --out"
                )

    def check_room(self, state: TrainState) -> None:
        """Raises `OSError` if the disk is too full; orbax would print pages of tracebacks."""
        need = sum(array.nbytes for array in jax.tree.leaves(_plain(state)))
        free = shutil.disk_usage(self._folder).free
        if free < 0.9 * need:  # files are compressed, by about a tenth
            raise OSError(f"it takes {need / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free")

    def _finish(self) -> None:
        """Waits for the save under way, and reports it if it failed."""
        if self._saving is None:
            return
        with self._reporting():
            self._manager.wait_until_finished()
            self._saving = self._failure = None
        self._delete(_DELETED)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Within, a save that fails is a line, and what it left is removed."""
        try:
            yield
        except (OSError, ValueError) as error:  # the latter of the library that writes arrays
            if isinstance(error, CheckpointError) or jax.process_count() > 1:
                raise
            reason = " ".join(str(error).split())[:200]
            self._failure = (
                f"the checkpoint of step {self._saving} in {self._workdir} was not saved ({reason})"
            )
            self._saving = None
            say(f"{self._failure}: training goes on, and the next save tries again", error=True)
            self._manager = self._open()

    def _delete(self, *patterns: str) -> None:
        """Deletes what is no longer of use in the folder; what fails is tried again next time."""
        if processes.is_first():
            for pattern in patterns:
                for path in self._folder.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """Restores the newest checkpoint that is whole.

        Damaged ones that are newer are renamed to `<step>.damaged`, with a line each.

        Args:
            state: gives the tree, the shapes, and the place of each array on the devices.

        Returns:
            The restored state and its `meta`.

        Raises:
            CheckpointError: no checkpoint is whole, or it is of another network.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            found: Any = None
            error = ""
            try:
                found = stored.read(self._folder / str(step))
            except DamagedCheckpointError as damage:
                error = str(damage)
            # One process that cannot read it makes it damaged for all.
            if errors := [text.decode() for text in processes.gather(error.encode()) if text]:
                damaged[step] = errors[0]
                continue
            self._set_aside(damaged)
            plain, meta = found
            plain = stored.place(plain, like=_plain(state))
            return TrainState(**plain | {"key": jax.random.wrap_key_data(plain["key"])}), meta
        raise DamagedCheckpointError(
            f"{next(iter(damaged.values()))}; no other checkpoint of {self._workdir} is whole: "
            "restore one from a copy, or use another --out"
        )

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, error in damaged.items():
            path = self._folder / f"{step}.damaged"
            say(f"{error}: renamed to {path.name}, and training goes on from an older one")
            if processes.is_first():
                shutil.rmtree(path, ignore_errors=True)  # of an earlier time
                (self._folder / str(step)).rename(path)
        if damaged:
            processes.barrier("damaged")
            self._manager = self._open()

    def close(self) -> None:
        """Waits for the save under way.

        Raises:
            CheckpointError: the last save failed.
        """
        self._finish()
        self._manager.close()
        if self._failure:
            raise CheckpointError(
                f"{self._failure}: make room or mend the disk, and give the same command again to "
                "go on from the checkpoint before"
            )


def load_run(path: str | os.PathLike) -> tuple[ConfigDict, dict[str, Any]]:
    """A trained network from a run's folder or one step in it.

    Args:
        path: the folder of a run (its newest checkpoint), or `<run>/checkpoints/<step>`.

    Returns:
        The run's configuration, and `params`, `teacher_params` as nested dicts of numpy arrays,
        `step` as an int and `meta`, the values kept beside them.

    Raises:
        CheckpointError: there is no run or no checkpoint, or it is damaged.
    """
    path, step = run_folder(path)
    config = load_config(path)
    if not (path / CHECKPOINTS).is_dir():
        raise CheckpointError(f"{path} has no checkpoint yet: train it first")
    steps = sorted(int(p.name) for p in (path / CHECKPOINTS).iterdir() if p.name.isdecimal())
    if not steps:
        raise CheckpointError(f"{path} has no checkpoint yet: train it first")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise CheckpointError(f"{path} has no checkpoint {step}: it holds steps {steps}")
    try:
        state, meta = stored.read(path / CHECKPOINTS / str(step))
    except DamagedCheckpointError as error:
        others = ", ".join(str(other) for other in steps if other != step) or "none"
        raise DamagedCheckpointError(
            f"{error}: restore it from a copy, or give another step (there are {others})"
        ) from error
    return config, {
        "params": state["params"],
        "teacher_params": state["teacher_params"],
        "step": int(state["step"]),
        "meta": meta,
    }


def save_run(workdir: str | os.PathLike, config: ConfigDict, state: TrainState) -> None:
    """Writes a network that was not trained here as a run's folder that every command takes.

    Raises:
        CheckpointError: the folder holds a run already, or the disk is too full.
    """
    workdir = pathlib.Path(workdir)
    if (workdir / CONFIG_FILE).exists():
        raise CheckpointError(f"{workdir} holds a run already: choose another target")
    workdir.mkdir(parents=True, exist_ok=True)
    save_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    try:
        checkpoints.check_room(state)
    except OSError as error:
        raise CheckpointError(
            f"the disk of {workdir.parent} is too full for the run: {error}; make room, or choose "
            "another target"
        ) from error
    checkpoints.save(state, meta={"seconds": 0.0})
    checkpoints.close()
