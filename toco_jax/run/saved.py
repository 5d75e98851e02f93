"""A trained network as the folder of a run, read and written."""

import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.run import stored
from toco_jax.run.checkpoints import Checkpoints
from toco_jax.run.records import CHECKPOINTS, CONFIG_FILE, WEIGHTS_FILE, checkpoint_steps
from toco_jax.run.state import TrainState
from toco_jax.run.stored import CheckpointError, DamagedCheckpointError
from toco_jax.run.workdir import load_config, run_folder, save_config
from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import files, published


def load_run(path: str | os.PathLike) -> tuple[ConfigDict, dict[str, Any]]:
    """Reads a trained network from a run's folder.

    Args:
        path: the folder of a run, for its newest checkpoint, or `<run>/checkpoints/<step>`; or one
            that `toco push` wrote, with `model.safetensors` in place of checkpoints, as step 0.

    Returns:
        The run's configuration, and a dictionary: `params` and `extra`, nested
        dictionaries of numpy arrays; the int `step`; and `meta`, the values saved with them.

    Raises:
        CheckpointError: there is no run or no checkpoint, it is damaged, or a parameter is not
            finite.
        WeightsError: `model.safetensors` is damaged, or does not fit the configuration.
    """
    path, step = run_folder(path)
    config = load_config(path)
    if (path / WEIGHTS_FILE).is_file() and not (path / CHECKPOINTS).exists():
        return config, _shared(path / WEIGHTS_FILE, config)
    steps = checkpoint_steps(path)
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
    _refuse_not_finite(state, f"the checkpoint of step {step} in {path}", steps)
    return config, {
        "params": state["params"],
        "extra": state["extra"],
        "step": int(state["step"]),
        "meta": meta,
    }


def _shared(file: pathlib.Path, config: ConfigDict) -> dict[str, Any]:
    """Returns what `load_run` does of a file of weights."""
    try:
        params, teacher_params = published.params_from_reference(
            files.read(file).tensors,
            backbone=config.backbone,
            num_classes=config.num_classes,
            decoder_width=config.decoder_width,
        )
    except WeightsError as error:
        raise WeightsError(f"{file} does not fit {CONFIG_FILE} beside it: {error}") from error
    meta = {"seconds": 0.0}
    return {"params": params, "extra": {"proj_head": teacher_params}, "step": 0, "meta": meta}


def _refuse_not_finite(state: dict[str, Any], where: str, steps: list[int]) -> None:
    """Raises `CheckpointError` for parameters of which a network could make nothing but NaNs."""
    arrays = stored.by_path({name: state[name] for name in ("params", "extra")})
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise CheckpointError(
            f"{where} has NaN or infinity in {len(broken)} arrays, the first {broken[0]}: give "
            f"another step (there are {', '.join(map(str, steps))}), or train again"
        )


def save_run(workdir: str | os.PathLike, config: ConfigDict, state: TrainState) -> None:
    """Writes a network, such as one converted from PyTorch, as the folder of a new run.

    Raises:
        CheckpointError: the folder already holds a run, or the disk is too full.
    """
    workdir = pathlib.Path(workdir)
    if (workdir / CONFIG_FILE).exists():
        raise CheckpointError(f"{workdir} holds a run already: use another --out")
    workdir.mkdir(parents=True, exist_ok=True)
    save_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    if lacks := checkpoints.lack_of_room(state):
        raise CheckpointError(
            f"the disk of {workdir.parent} is too full for the run: {lacks}; make room, or choose "
            "another target"
        )
    checkpoints.save(state, meta={"seconds": 0.0})
    checkpoints.close()
