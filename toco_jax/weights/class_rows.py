"""Takes over the outputs of a network for the classes that another network shares."""

import pathlib
from collections.abc import Mapping

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

from toco_jax.data.classes import can_be_shown
from toco_jax.run import workdir
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import some_of
from toco_jax.weights import load

# Parts with one output per class, and the part that has one for the background before them.
_CLASSIFIERS = ("classifier", "aux_classifier", "img_head")
_DECODER = ("decoder", "conv8")


def names_of(init: str) -> tuple[str, ...] | None:
    """Returns the names of the classes of starting weights, or None if the weights name none.

    Args:
        init: a name, a file or a run, as in `load.load`.

    Raises:
        CheckpointError: it is a run whose `classes.json` is damaged.
    """
    path = load.resolve(init)
    if path.is_dir():
        folder, _ = workdir.run_folder(path)
        # A model folder of Hugging Face has a config.json too; `load.load` reads or refuses it.
        if not (folder / "checkpoints").is_dir():
            return None
        return workdir.class_names(folder, workdir.load_config(folder))
    return _names_in(path)


def _names_in(path: pathlib.Path) -> tuple[str, ...] | None:
    try:
        with safe_open(path, framework="np") as file:
            return names_in(file.metadata() or {})
    except SafetensorError:  # another format
        return None


def names_in(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Returns the names of the classes in a file's metadata, or None if it has no list of names."""
    try:
        names = json_text.parse(metadata.get("classes", "null"))
    except ValueError:  # metadata of others
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list and all(map(can_be_shown, names)) else None


def take(
    loaded: dict, fresh: dict, theirs: tuple[str, ...] | None, ours: tuple[str, ...]
) -> tuple[dict, list[str]]:
    """Makes a network for the classes `ours` from one for the classes `theirs`.

    Args:
        loaded: parameters of the network of `theirs`.
        fresh: random parameters of a network of `ours`.
        theirs: class names, in label order; None if they are not known, in which case there are as
            many as in `ours`.
        ours: class names, in label order.

    Returns:
        `loaded` with one output per class of `ours`: the background and the classes in both keep
        their outputs, and the other classes have those of `fresh`. And notes that name them, unless
        the classes are the same.
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
    for part in taken.keys() & fresh.keys() & set(_CLASSIFIERS):
        taken[part] = jax.tree.map(lambda old, new: merged(old, new, 0), loaded[part], fresh[part])
    head, last = _DECODER
    conv = jax.tree.map(lambda old, new: merged(old, new, 1), loaded[head][last], fresh[head][last])
    taken[head] = loaded[head] | {last: conv}
    lost = [name for name in theirs if name not in ours]
    new = [name for name in ours if name not in theirs]
    lines = [f"the weights' outputs are taken by name, for {some_of(known) or 'no class'}"]
    if new:
        lines.append(f"outputs that start at random, as the weights have none: {some_of(new)}")
    if lost:
        lines.append(f"outputs of the weights that are left out: {some_of(lost)}")
    return taken, lines
