"""The folder of a run: claimed before the first step, and refused if it holds another run."""

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from toco_jax import checkpoints, processes
from toco_jax.console import say

CLASSES_FILE = "classes.json"
START_FILE = "init.json"  # which weights the run started from
# Keys that may differ when a run goes on: they do not change what it computes.
FREE_KEYS = ("log_every", "eval_every", "eval_batches", "save_every", "data.root")
FREE_KEYS += ("data.num_threads", "data.on_error")
FREE_KEYS += ("accumulate", "low_memory", "attention", "shard_optimizer")


def claim(workdir: pathlib.Path, config: ConfigDict, class_names: tuple[str, ...]) -> None:
    """Makes a run's folder and writes its configuration and its classes in label order, or checks
    that it holds the same ones; the first process for all.

    Raises:
        CheckpointError: the folder holds another run, or not all processes see it.
    """
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        _claim_config(workdir, config)
        _claim_classes(workdir, class_names)
    processes.barrier("workdir")
    if not (workdir / CLASSES_FILE).exists():
        raise checkpoints.CheckpointError(
            f"{workdir} of the first process is not there for another one: --workdir must lie on a "
            "file system that all processes share"
        )


def _claim_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    if not (workdir / checkpoints.CONFIG_FILE).exists():
        checkpoints.save_config(workdir, config)
        return
    old, new = (_flat(c.to_dict()) for c in (checkpoints.load_config(workdir), config))
    if "data.split_seed" in new:  # before there was such a key, the seed drew a folder's split
        drawn = old["seed"] if old.get("data.source") == "folder" else new["data.split_seed"]
        old.setdefault("data.split_seed", drawn)
    if "data.label_separator" in new:
        old.setdefault("data.label_separator", "")  # as it was before there was such a key
    changed = [
        f"{key} ({old.get(key)} there, {new.get(key)} now)"
        for key in sorted(old.keys() | new.keys())
        if key not in FREE_KEYS and old.get(key) != new.get(key)
    ]
    if changed:
        raise checkpoints.CheckpointError(
            f"{workdir} holds a run with other values: {', '.join(changed)}; use another --workdir "
            "or the same values"
        )


def _claim_classes(workdir: pathlib.Path, class_names: tuple[str, ...]) -> None:
    path = workdir / CLASSES_FILE
    if not path.exists():
        checkpoints.write_atomically(path, json.dumps(list(class_names), indent=1) + "\n")
    elif json.loads(path.read_text()) != list(class_names):
        raise checkpoints.CheckpointError(
            f"{path} lists other classes than the data has now; use another --workdir or the same "
            "data"
        )


def note_start(workdir: pathlib.Path, origin: dict[str, Any], *, goes_on: bool) -> None:
    """Writes which weights a run started from; the first process for all.

    Args:
        workdir: the run's folder.
        origin: of `pretrained.load`.
        goes_on: whether the run has steps behind it. Then what it did start from stays noted, and
            a line says so where the weights of that name are others by now.
    """
    path = workdir / START_FILE
    if not processes.is_first():
        return
    if not goes_on or not path.exists():
        checkpoints.write_atomically(path, json.dumps(origin, indent=1) + "\n")
        return
    noted = json.loads(path.read_text())
    if noted.get("sha256") != origin["sha256"]:
        say(
            f"init={origin['init']!r} now is of the SHA-256 {origin['sha256']}; this run started "
            f"from {noted.get('sha256')} and goes on from its own checkpoint"
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {prefix + key: value} if nested is None else nested
    return flat
