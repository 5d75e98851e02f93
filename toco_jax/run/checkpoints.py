"""Saves and restores the checkpoints of a run exactly; keeps the last two and the best."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from toco_jax.run import stored
from toco_jax.run.records import CHECKPOINTS, CONFIG_FILE
from toco_jax.run.state import TrainState
from toco_jax.run.stored import CheckpointError, DamagedCheckpointError
from toco_jax.runtime import processes
from toco_jax.runtime.console import say

_BEST = "seg_miou"
# An old checkpoint is moved here before its files are deleted, so that a process that is killed
# leaves no partly deleted checkpoint.
_DELETED = "deleted"
# Orbax writes a checkpoint under this name and renames it when it is whole.
_UNFINISHED = ".orbax-checkpoint-tmp*"
_REMEDY = "make room or mend the disk, and give the same command again to go on from the one before"


def _plain(state: TrainState) -> dict[str, Any]:
    """Returns the state as nested containers of arrays, with the raw data of its PRNG key."""
    return {
        "step": state.step,
        "params": state.params,
        "extra": state.extra,
        "opt_state": state.opt_state,
        "key": jax.random.key_data(state.key),
    }


class Checkpoints:
    """Saves training states to a run's folder, and restores them."""

    def __init__(self, workdir: pathlib.Path):
        self._workdir, self._folder = workdir, workdir / CHECKPOINTS
        self._saving: int | None = None  # the step of the save under way
        self._failure: str | None = None  # why the last save failed
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        """Deletes what an unfinished save left in the folder, and returns orbax's manager of it."""
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
        # Orbax calls this in the first process, after it wrote all files and before it renames the
        # folder.
        (folder,) = self._folder.glob(f"{self._saving}{_UNFINISHED}")
        stored.write_checksums(folder)

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, meta: dict, miou: float | None = None) -> None:
        """Saves a state in the background, unless its step is saved already.

        If the disk is full, a line says so, the earlier checkpoints stay, and the next call tries
        again. So it is for any error of a single process; with several ones an error is raised
        where one process has begun to save and cannot finish, because the others wait for it.

        Args:
            state: the training state.
            meta: JSON values that are saved with it.
            miou: mIoU in %, which decides which checkpoint is the best; None if this state was
                not scored.

        Raises:
            CheckpointError: there is a newer checkpoint, the run's folder has been removed, or this
                is one of several processes and could not save.
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
        # The disk may be too full for one process and, a moment later, not for another one.
        told = processes.gather(self.lack_of_room(state).encode())
        if lacks := [content.decode() for content in told if content]:
            self._report(lacks[0])
            return
        with self._reporting():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), meta=ocp.args.JsonSave(meta)
                ),
                metrics=None if miou is None else {_BEST: miou},
            )
            if not saved:
                raise CheckpointError(
                    f"the checkpoint of step {step} in {self._workdir} was not saved: a newer one "
                    "is there; remove it or use another --out"
                )

    def lack_of_room(self, state: TrainState) -> str:
        """Returns why the disk is too full for a state, "" if it is not.

        Without room orbax would print pages of tracebacks.
        """
        need = sum(array.nbytes for array in jax.tree.leaves(_plain(state)))
        free = shutil.disk_usage(self._folder).free
        if free >= 0.9 * need:  # files are compressed, by about a tenth
            return ""
        return f"it takes {need / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free"

    def _finish(self) -> None:
        """Waits for the current save, and reports it if it failed."""
        if self._saving is None:
            return
        with self._reporting():
            self._manager.wait_until_finished()
            self._saving = self._failure = None
        self._delete(_DELETED)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turns the error of a failed save into a line, and deletes what the save left behind."""
        try:
            yield
        except (OSError, ValueError) as error:  # tensorstore raises ValueError
            if isinstance(error, CheckpointError):
                raise
            reason = " ".join(str(error).split())[:200]
            if jax.process_count() > 1:  # the others wait for this one within orbax
                raise CheckpointError(f"{self._unsaved(reason)}: {_REMEDY}") from error
            self._report(reason)
            self._manager.close()
            self._manager = self._open()

    def _report(self, reason: str) -> None:
        self._failure, self._saving = self._unsaved(reason), None
        if processes.is_first():
            say(f"{self._failure}: training goes on, and the next save tries again", error=True)

    def _unsaved(self, reason: str) -> str:
        return f"the checkpoint of step {self._saving} in {self._workdir} was not saved ({reason})"

    def _delete(self, *patterns: str) -> None:
        """Deletes what matches the patterns in the folder, as far as that is possible."""
        if processes.is_first():
            for pattern in patterns:
                for path in self._folder.glob(pattern):
                    shutil.rmtree(path, ignore_errors=True)

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """Restores the newest checkpoint that is not damaged.

        Renames newer, damaged ones to `<step>.damaged` and prints a line about each.

        Args:
            state: a state of the same structure, shapes and dtypes, placed on the devices as the
                restored one should be.

        Returns:
            The restored state and its `meta`.

        Raises:
            CheckpointError: all checkpoints are damaged, or they are of another network.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            found: Any = None
            error = ""
            try:
                found = stored.read(self._folder / str(step))
            except DamagedCheckpointError as damage:
                error = str(damage)
            # A checkpoint that one process cannot read is damaged for all of them.
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
                shutil.rmtree(path, ignore_errors=True)  # an earlier damaged one
                (self._folder / str(step)).rename(path)
        if damaged:
            processes.barrier()
            self._manager = self._open()

    def close(self) -> None:
        """Waits for the current save, and releases the folder.

        Raises:
            CheckpointError: the last save failed.
        """
        self._finish()
        self._manager.close()
        if self._failure:
            raise CheckpointError(f"{self._failure}: {_REMEDY}")
