"""The outputs of a network for one class, taken from a network of other classes."""

import json
import pathlib

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from toco_jax.run import checkpoints, workdir
from toco_jax.weights import load

# Parts of the network with one output a class, and those with one for the background before.
_CLASSIFIERS = ("classifier", "aux_classifier")
_DECODER = ("decoder", "conv8")


def names_of(init: str) -> tuple[str, ...] | None:
    """Names of the classes of starting weights; None where they are not known or there are none.

    Args:
        init: a name, a file or a run, as `pretrained.load` takes it.

    Raises:
        CheckpointError: a run whose `classes.json` is broken.
    """
    path = load.resolve(init)
    if path.is_dir():
        folder, _ = checkpoints.run_folder(path)
        # Model folders of others have a config.json too; `pretrained.load` says what they are.
        if not (folder / "checkpoints").is_dir():
            return None
        return workdir.class_names(folder, checkpoints.load_config(folder))
    return _names_in(path)


def _names_in(path: pathlib.Path) -> tuple[str, ...] | None:
    try:
        with safe_open(path, framework="np") as file:
            names = json.loads((file.metadata() or {}).get("classes", "null"))
    except (SafetensorError, json.JSONDecodeError):  # a file of another format, or of others
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else None


def take(
    loaded: dict, fresh: dict, theirs: tuple[str, ...] | None, ours: tuple[str, ...]
) -> tuple[dict, list[str]]:
    """A network for the classes `ours` from one for the classes `theirs`.

    Args:
        loaded: parameters of the network of `theirs`.
        fresh: random parameters of a network of `ours`.
        theirs: class names, in label order; None where they are not known, and only their number is
            that of `ours`.
        ours: class names, in label order.

    Returns:
        `loaded` with the outputs of `ours`, by name: a class that both know keeps its own, the
        background too, and others are those of `fresh`. And lines that say which, unless the
        classes are the same.
    """
    if theirs is None:
        return loaded, ["the weights do not name their classes: their outputs are taken in order"]
    if theirs == ours:
        return loaded, []
    known = [name for name in ours if name in theirs]
    to = np.array([list(ours).index(name) for name in known], np.int64)
    source = np.array([list(theirs).index(name) for name in known], np.int64)

    def merged(old: jax.Array, new: jax.Array, offset: int) -> np.ndarray:
        out = np.array(new)
        out[..., :offset] = old[..., :offset]
        out[..., to + offset] = old[..., source + offset]
        return out

    taken = dict(loaded)
    for part in _CLASSIFIERS:
        taken[part] = jax.tree.map(lambda old, new: merged(old, new, 0), loaded[part], fresh[part])
    head, last = _DECODER
    conv = jax.tree.map(lambda old, new: merged(old, new, 1), loaded[head][last], fresh[head][last])
    taken[head] = loaded[head] | {last: conv}
    lost = [name for name in theirs if name not in ours]
    new = [name for name in ours if name not in theirs]
    lines = [f"the weights' outputs are taken by name, for {', '.join(known) or 'no class'}"]
    if new:
        lines.append(f"outputs that start at random, as the weights have none: {', '.join(new)}")
    if lost:
        lines.append(f"outputs of the weights that are left out: {', '.join(lost)}")
    return taken, lines
