"""The folder of a run: its configuration, the names of its classes, and which run it belongs to."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from toco_jax.config import ConfigError, check_known, completed, with_values
from toco_jax.config import resolve as resolve_config
from toco_jax.data.classes import COCO_CLASSES, VOC_CLASSES, can_be_shown
from toco_jax.run import changes, records
from toco_jax.run.records import (
    CHECKPOINTS,
    CLASSES_FILE,
    CONFIG_FILE,
    METRICS_FILE,
    RESULTS_FILE,
    START_FILE,
    CheckpointError,
)
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError, clipped, some_of
from toco_jax.runtime.outputs import make_folder, write_atomically

_MOST_CLASSES = 65_534  # that 16-bit masks can hold
# The names of data sets whose classes are always the same.
_FIXED_CLASSES = {"voc": VOC_CLASSES, "coco": COCO_CLASSES}


def save_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Writes the run's configuration."""
    write_atomically(workdir / CONFIG_FILE, json.dumps(config.to_dict(), indent=2) + "\n")


def load_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration of a run's folder; raises `CheckpointError` where there is none."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        if workdir.is_file():
            raise CheckpointError(
                f"{workdir} is a file, not a run: if it holds weights of a network, make a run "
                f"of it with: toco convert {workdir} runs/NAME"
            )
        reason = f"it has no {CONFIG_FILE}" if workdir.exists() else "it does not exist"
        raise CheckpointError(
            f"{workdir} is not a run: {reason}; give the folder of a run, such as runs/voc, or one "
            "checkpoint in it, such as runs/voc/checkpoints/2000"
        )
    values = records.read_json(path, remedy="restore it from a copy")
    if not isinstance(values, dict) or not {"backbone", "num_classes"} <= values.keys():
        raise CheckpointError(
            f"{path} is not the configuration of a run: give the folder of one; weights of others, "
            "such as a model folder of Hugging Face, are for init=FOLDER"
        )
    try:
        config = completed(values)
        check_known(config)
        if config.num_classes > _MOST_CLASSES:
            raise ConfigError(f"num_classes={config.num_classes} exceeds {_MOST_CLASSES}")
    # The last three where a value stands for a group or a group for a value, or groups are deep.
    except (UserError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({clipped(error, 300)}): restore it from a copy"
        ) from error
    return config


def run_folder(path: str | os.PathLike) -> tuple[pathlib.Path, int | None]:
    """Returns the folder of the run that a path names, and the step if it names one checkpoint.

    Args:
        path: the folder of a run, its folder of checkpoints, one checkpoint, or a link to any of
            them.
    """
    given = pathlib.Path(path)
    if (given / CONFIG_FILE).is_file():
        return given, None
    for place in (given, given.resolve()):
        if place.parent.name == CHECKPOINTS and place.name.isdecimal():
            return place.parent.parent, int(place.name)
        if place.name == CHECKPOINTS:
            return place.parent, None
    return given, None


def resolve(workdir: pathlib.Path, config: ConfigDict) -> ConfigDict:
    """Resolves a configuration as `config.resolve` does, for the run that a folder may hold.

    A `compute_dtype` of "auto" becomes that of the run. A line is printed if the run was begun in
    another precision than it would be here, or if its configuration does not say in which.
    """
    here = resolve_config(config)
    if config.compute_dtype != "auto" or not (workdir / CONFIG_FILE).exists():
        return here
    begun = load_config(workdir).compute_dtype
    if begun == "auto":
        say(
            f"{workdir / CONFIG_FILE} is an older one and does not record in which "
            f"precision the run was begun: it goes on in {here.compute_dtype}"
        )
        return here
    if begun != here.compute_dtype:
        say(
            f"{workdir} goes on in {begun}, in which it was begun, not in {here.compute_dtype}, "
            "which compute_dtype='auto' means on this machine"
        )
    return resolve_config(with_values(config, compute_dtype=begun))


def class_names(folder: pathlib.Path, config: ConfigDict) -> tuple[str, ...] | None:
    """Returns the foreground classes of a run in label order, None if their names are not known.

    Raises:
        CheckpointError: `classes.json` is not a list of `num_classes` different names.
    """
    path = folder / CLASSES_FILE
    if not path.exists():
        names = _FIXED_CLASSES.get(config.data.source, ())
        return names if len(names) == config.num_classes else None
    names = _listed(path, config.num_classes)
    if len(names) != config.num_classes:
        raise _not_names(path, config.num_classes)
    return names


def _listed(path: pathlib.Path, num: int) -> tuple[str, ...]:
    try:
        names = records.read_json(path, remedy="")
    except CheckpointError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _not_names(path, num)
    if len(set(names)) != len(names) or not all(map(can_be_shown, names)):
        raise _not_names(path, num)
    return tuple(names)


def _not_names(path: pathlib.Path, num: int) -> CheckpointError:
    return CheckpointError(
        f"{path} must be a JSON list of the {num} different names of the run's classes, in label "
        "order, without control characters; correct it"
    )


def numbered(num: int) -> tuple[str, ...]:
    """Returns names for classes whose names are not known: "class 1", "class 2", ..."""
    return tuple(f"class {k + 1}" for k in range(num))


def missing_names(folder: pathlib.Path, num: int) -> str:
    """Returns the sentence about a run whose classes' names are not known."""
    return (
        f"{folder / CLASSES_FILE} is missing: the run's classes are called class 1 to class {num}; "
        "write their names there as a JSON list, in label order"
    )


def write_class_names(folder: pathlib.Path, names: Sequence[str]) -> None:
    """Writes the names of a run's classes to its folder."""
    write_atomically(folder / CLASSES_FILE, json.dumps(list(names), indent=1) + "\n")


def claim(
    workdir: pathlib.Path,
    config: ConfigDict,
    class_names: tuple[str, ...],
    *,
    override: bool = False,
) -> changes.Changes:
    """Makes a run's folder, or checks that the folder holds the same run and is not damaged.

    A run that ended before its first step gives way to any other.

    Of several processes only the first one calls it.

    Args:
        workdir: the folder.
        config: the resolved configuration.
        class_names: the foreground classes in label order.
        override: whether a run may go on with other values than it was begun with.

    Returns:
        The values that differ from those in the folder; `record` writes them there.

    Raises:
        CheckpointError: the folder holds another run, or is damaged.
        OutputError: the folder cannot be written to.
    """
    make_folder(workdir, "--out")
    records.check(workdir)
    if not _has_begun(workdir):  # such as after weights that could not be downloaded
        for name in (CONFIG_FILE, CLASSES_FILE):
            (workdir / name).unlink(missing_ok=True)
    changed = _claim_config(workdir, config, override=override)
    _claim_classes(workdir, class_names)
    return changed


def _has_begun(workdir: pathlib.Path) -> bool:
    """Returns whether a folder holds steps of a run, or what may be left of such a run."""
    metrics = workdir / METRICS_FILE
    has_steps = metrics.exists() and metrics.stat().st_size > 0
    is_scored = (workdir / RESULTS_FILE).exists()
    return has_steps or is_scored or any((workdir / CHECKPOINTS).glob("[0-9]*"))


def record(
    workdir: pathlib.Path,
    config: ConfigDict,
    changed: changes.Changes,
    *,
    step: int,
    override: bool,
) -> None:
    """Writes the values with which a run goes on from `step`, and which of them changed."""
    changes.record(workdir, changed, step=step, override=override)
    save_config(workdir, config)


def _claim_config(workdir: pathlib.Path, config: ConfigDict, *, override: bool) -> changes.Changes:
    if not (workdir / CONFIG_FILE).exists():
        if any((workdir / CHECKPOINTS).glob("[0-9]*")):
            raise CheckpointError(
                f"{workdir} has checkpoints and no {CONFIG_FILE}, so it cannot be told whether "
                "they are of this run: restore that file from a copy, or use another --out"
            )
        save_config(workdir, config)
        return {}
    begun = load_config(workdir)
    if begun.compute_dtype == "auto":  # as older runs recorded it
        begun = with_values(begun, compute_dtype=config.compute_dtype)
        save_config(workdir, begun)
    changed = changes.between(begun, config)
    changes.check(workdir, changed, override=override)
    return changed


def _claim_classes(workdir: pathlib.Path, class_names: tuple[str, ...]) -> None:
    path = workdir / CLASSES_FILE
    if not path.exists():
        write_class_names(workdir, class_names)
        return
    listed = _listed(path, len(class_names))
    if listed != tuple(class_names):
        raise CheckpointError(
            f"{path} lists other classes than the data has now; use another --out or the same "
            f"data: {some_of(listed)} there, {some_of(class_names)} now"
        )


def note_start(workdir: pathlib.Path, origin: dict[str, Any], *, goes_on: bool) -> None:
    """Writes to the folder, in the first process, which weights a run started from.

    A run that goes on keeps what was noted when it began; a line is printed if the weights of that
    name have changed since.

    Args:
        workdir: the run's folder.
        origin: the `origin` of what `weights.load.load` returned.
        goes_on: whether the run has a checkpoint.
    """
    path = workdir / START_FILE
    if not processes.is_first():
        return
    if not goes_on or not path.exists():
        write_atomically(path, json.dumps(origin, indent=1) + "\n")
        return
    noted = records.start(workdir)
    if noted is not None and noted["sha256"] != origin["sha256"]:
        say(
            f"init={origin['init']!r} now is of the SHA-256 {origin['sha256']}; this run started "
            f"from {clipped(noted['sha256'])} and goes on from its own checkpoint"
        )
