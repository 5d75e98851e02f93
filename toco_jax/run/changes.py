"""What differs between the configuration of a run's folder and the one that it goes on with."""

import datetime
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from toco_jax.config import flat_values
from toco_jax.run.records import CHANGES_FILE, FREE_KEYS, CheckpointError
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import write_atomically

# The old and the new value of each key that differs.
Changes = Mapping[str, tuple[Any, Any]]


def between(begun: ConfigDict, config: ConfigDict) -> Changes:
    """Returns what differs between two configurations, apart from values that are not yet resolved.

    Args:
        begun: the configuration in the folder.
        config: the one to go on with.
    """
    old, new = flat_values(begun.to_dict()), flat_values(config.to_dict())
    if "auto" in (old.get("compute_dtype"), new.get("compute_dtype")):
        new["compute_dtype"] = old.get("compute_dtype")
    if new.get("num_classes") == 0:
        new["num_classes"] = old.get("num_classes")
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def harmful(changes: Changes) -> Changes:
    """Returns the changes that make another run of it."""
    return {key: values for key, values in changes.items() if not _is_harmless(key, *values)}


def check(workdir: pathlib.Path, changes: Changes, *, override: bool) -> None:
    """Refuses changes that make another run of it, unless `override` allows them.

    Raises:
        CheckpointError: the message names each key with its old and new value.
    """
    if (other := harmful(changes)) and not override:
        raise CheckpointError(
            f"{workdir} holds a run with other values: {shown(other)}; use another --out or the "
            "same values, or --override to go on with the new ones"
        )


def record(workdir: pathlib.Path, changes: Changes, *, step: int, override: bool) -> None:
    """Prints changes and adds them to the folder's `config_changes.jsonl`.

    Args:
        workdir: the run's folder.
        changes: what changed.
        step: the step after which the changes hold.
        override: whether changes of every kind were allowed.
    """
    say(f"{workdir} goes on from step {step} with other values: {shown(changes)}")
    about = {
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "override": override,
        "changed": changes,
    }
    path = workdir / CHANGES_FILE
    earlier = path.read_bytes() if path.exists() else b""
    write_atomically(path, earlier + json.dumps(about).encode() + b"\n")


def _is_harmless(key: str, old: Any, new: Any) -> bool:
    if key == "total_steps":
        return new > old
    return key in FREE_KEYS or key.startswith("machine.")


def shown(changes: Changes) -> str:
    """Formats changes for people, each key with its old and new value."""
    return ", ".join(f"{key} ({old} there, {new} now)" for key, (old, new) in changes.items())
