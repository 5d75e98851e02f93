"""Reads one checkpoint into memory and verifies its checksums."""

import json
import math
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from toco_jax.run.records import CheckpointError
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import clipped, is_inside

CHECKSUMS_FILE = "checksums.json"
ITEMS = ("state", "meta")
# What arrays may take in memory: so many times the size of their files, which are compressed, and
# so many bytes whatever that is.
_MOST_TIMES = 64
_FREE = 2**26


class DamagedCheckpointError(CheckpointError):
    """Files of a checkpoint are missing, truncated, or hold other bytes than were saved."""


def write_checksums(folder: pathlib.Path) -> None:
    """Writes the size and the checksum of each file of a checkpoint that `read` reads."""
    files = [path for item in ITEMS for path in (folder / item).rglob("*") if path.is_file()]
    found = {path.relative_to(folder).as_posix(): _checksum(path) for path in sorted(files)}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(found, indent=1) + "\n")


def _checksum(path: pathlib.Path) -> list[int]:
    """Returns the size in bytes and the CRC-32."""
    size = value = 0
    with path.open("rb") as file:
        while block := file.read(2**24):
            size, value = size + len(block), zlib.crc32(block, value)
    return [size, value]


def _inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a checkpoint's file; raises ValueError for what lies elsewhere."""
    if not is_inside(name) or ((folder / name).exists() and not (folder / name).is_file()):
        raise ValueError(f"{clipped(name)} in {CHECKSUMS_FILE} is no file of the checkpoint")
    return folder / name


def _verify(folder: pathlib.Path) -> None:
    """Raises `DamagedCheckpointError` if a file does not match its checksum."""
    try:
        saved = json_text.parse((folder / CHECKSUMS_FILE).read_text(encoding="utf-8"))
        for path, checksum in saved.items():
            file = _inside(folder, path)
            # The size first: what the list names may never end.
            if file.stat().st_size != checksum[0] or _checksum(file) != checksum:
                raise ValueError(f"{clipped(path)} holds other bytes than were saved")
    except FileNotFoundError as error:
        name = pathlib.Path(error.filename).relative_to(folder).as_posix()
        if name != CHECKSUMS_FILE:  # older checkpoints have no checksums
            raise DamagedCheckpointError(f"{folder} is damaged: {name} is missing") from error
    except PermissionError:  # the content may be fine
        raise
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {clipped(error)}") from error


def read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a checkpoint, whatever devices wrote it.

    Args:
        folder: `<run>/checkpoints/<step>`.

    Returns:
        The state as nested containers of numpy arrays, and the `meta` that was saved with it.

    Raises:
        DamagedCheckpointError: a file is missing or truncated, or holds other bytes than were
            saved. Older checkpoints have no checksums; of them this finds what cannot be read.
        PermissionError: the user may not read a file.
    """
    folder = folder.resolve()  # orbax wants absolute paths
    _verify(folder)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        meta = json_text.parse((folder / "meta" / "metadata").read_text(encoding="utf-8"))
        tree = handler.metadata(folder / "state").tree
        _check_sizes(folder / "state", tree)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(restore_args=as_numpy)
        return _present(handler.restore(folder / "state", args=args)), meta
    except PermissionError:
        raise
    # Orbax and its libraries raise any of these for files that are missing or damaged.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedCheckpointError(f"{folder} is damaged ({reason})") from error


def _check_sizes(folder: pathlib.Path, tree: Any) -> None:
    """Raises ValueError if arrays announce far more than their files can hold."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if getattr(leaf, "shape", None) is not None]
    announced = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays)
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if announced > _MOST_TIMES * held + _FREE:
        raise ValueError(f"{held:,} bytes of files announce arrays of {announced:,}")


def _present(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state whose teacher head is where it is now, wherever an earlier version had it."""
    if "teacher_params" in state:
        state["extra"] = {"proj_head": state.pop("teacher_params")}
    return state


def place(plain: dict[str, Any], *, like: dict[str, Any]) -> dict[str, Any]:
    """Places the arrays of a checkpoint on the devices.

    Args:
        plain: nested containers of numpy arrays, as `read` returns them.
        like: a tree of JAX arrays of the expected shapes, dtypes and placement.

    Returns:
        A tree like `like` with the values of `plain`.

    Raises:
        CheckpointError: the arrays have other paths, shapes or dtypes.
    """
    values = by_path(plain)
    wanted = by_path(like)
    for name in sorted(values.keys() | wanted):
        there, here = (_shape(tree.get(name)) for tree in (values, wanted))
        if there != here:
            raise CheckpointError(
                f"the checkpoint is of another network: {name} is {there} there and {here} in this "
                "run; use the run's own configuration, or another --out"
            )
    placed = [
        jax.make_array_from_callback(array.shape, array.sharding, values[name].__getitem__)
        for name, array in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the arrays of a tree by their paths, such as `encoder/norm/scale`.

    A path is the same whether its containers are dictionaries, lists or tuples.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _shape(array: Any) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"
