"""Checkpoints of a run: the last two and the best, restored to the bit. The only user of orbax.

A run's folder holds `config.json`, `checkpoints/<step>/` and what training writes beside them.
"""

import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from toco_jax.config import completed
from toco_jax.run.state import TrainState
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import write_atomically

CONFIG_FILE = "config.json"
_FOLDER = "checkpoints"
_BEST = "seg_miou"


class CheckpointError(UserError):
    """A run or checkpoint is missing or does not fit; the message says what to do."""


def _manager(workdir: pathlib.Path, *, read_only: bool = False) -> ocp.CheckpointManager:
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
        cleanup_tmp_directories=not read_only,
        create=not read_only,
        read_only=read_only,
    )
    # Orbax fails without a word on a relative path.
    folder = (workdir / _FOLDER).resolve()
    return ocp.CheckpointManager(folder, options=options, item_names=("state", "meta"))


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
        self._workdir = workdir
        self._manager = _manager(workdir)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, meta: dict, seg_miou: float | None = None) -> None:
        """Saves in the background; a step that is there already is left alone.

        Args:
            state: the training state.
            meta: JSON values kept beside it.
            seg_miou: the score by which the best checkpoint is chosen, where it is known.

        Raises:
            CheckpointError: the checkpoint was refused.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_plain(state)), meta=ocp.args.JsonSave(meta)
            ),
            metrics=None if seg_miou is None else {_BEST: seg_miou},
        )
        if not saved:
            raise CheckpointError(
                f"the checkpoint of step {step} in {self._workdir} was not saved: a newer one is "
                "there; remove it or use another --workdir"
            )

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """The newest checkpoint placed like `state`, and its `meta`."""

        def abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

        restored = self._manager.restore(
            self.latest_step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(abstract, _plain(state))),
                meta=ocp.args.JsonRestore(),
            ),
        )
        plain = restored["state"] | {"key": jax.random.wrap_key_data(restored["state"]["key"])}
        return TrainState(**plain), restored["meta"]

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def save_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes the run's configuration."""
    write_atomically(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration of a run's folder; raises `CheckpointError` where there is none."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{workdir} is not a run: it has no {CONFIG_FILE}; give a --workdir")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): restore it from a copy") from error
    if not isinstance(values, dict) or not {"backbone", "num_classes"} <= values.keys():
        raise CheckpointError(
            f"{path} is not the configuration of a run: give the folder of one; weights of others, "
            "such as a model folder of Hugging Face, are for --config.init"
        )
    return completed(values)


def run_folder(path: str | os.PathLike) -> tuple[pathlib.Path, int | None]:
    """The run's folder that a path names, and the step where it is `<run>/checkpoints/<step>`."""
    path = pathlib.Path(path)
    if path.parent.name == _FOLDER and path.name.isdecimal():
        return path.parent.parent, int(path.name)
    return path, None


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
    if not (path / _FOLDER).is_dir():
        raise CheckpointError(f"{path} has no checkpoint yet: train it first")
    manager = _manager(path, read_only=True)
    steps = sorted(manager.all_steps())
    step = steps[-1] if step is None and steps else step
    if step not in steps:
        raise CheckpointError(f"{path} has no checkpoint {step or ''}: it holds steps {steps}")
    try:
        args = ocp.args.Composite(state=_numpy_restore(path, step), meta=ocp.args.JsonRestore())
        restored = manager.restore(step, args=args)
    except (OSError, ValueError, KeyError) as error:  # what orbax raises for missing or cut files
        others = ", ".join(str(other) for other in steps if other != step) or "none"
        raise CheckpointError(
            f"{path / _FOLDER / str(step)} is damaged ({' '.join(str(error).split())[:200]}): "
            f"restore it from a copy, or give another step (there are {others})"
        ) from error
    finally:
        manager.close()
    state = restored["state"]
    return config, {
        "params": state["params"],
        "teacher_params": state["teacher_params"],
        "step": int(state["step"]),
        "meta": restored["meta"],
    }


def _numpy_restore(workdir: pathlib.Path, step: int) -> ocp.args.PyTreeRestore:
    """Arguments that restore a state to numpy, without the devices that it was written on."""
    folder = (workdir / _FOLDER).resolve() / str(step) / "state"
    tree = ocp.PyTreeCheckpointHandler().metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return ocp.args.PyTreeRestore(restore_args=as_numpy)


def save_run(workdir: str | os.PathLike, config: ConfigDict, state: TrainState) -> None:
    """Writes a network that was not trained here as a run's folder that every command takes.

    Raises:
        CheckpointError: the folder holds a run already.
    """
    workdir = pathlib.Path(workdir)
    if (workdir / CONFIG_FILE).exists():
        raise CheckpointError(f"{workdir} holds a run already: choose another target")
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, meta={"seconds": 0.0})
    checkpoints.close()
    save_config(workdir, config)
