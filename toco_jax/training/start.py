"""What a run begins with: its data, its network and the state before its next step."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.config import ConfigError
from toco_jax.data import open_configured, reads_masks, remarks
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo
from toco_jax.run import checkpoints
from toco_jax.run import workdir as folder
from toco_jax.run.network import make_model
from toco_jax.run.state import TrainState
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.training.step import init_params, init_state, place_state
from toco_jax.training.tracking import LARGEST_WEIGHT, broken_weights
from toco_jax.weights import checks, class_rows, load


def open_sources(config: ConfigDict) -> tuple[Any, Any]:
    """Opens the record sources of training and of validation.

    Replaces a `num_classes` of 0 in `config` by the number of their classes. Prints how many images
    they have, and remarks on what was found.

    Raises:
        ConfigError: their classes differ from one another, or in number from `num_classes`.
        DataError: the data set is broken.
    """
    data = config.data
    with_masks = reads_masks(config, "train")
    source = open_configured(config, part="train", masks=with_masks)
    val_source = open_configured(config, part="val", masks=True)
    num_classes = len(source.class_names)
    if tuple(source.class_names) != tuple(val_source.class_names):
        raise ConfigError(
            f"data.train_split={data.train_split!r} and data.val_split={data.val_split!r} have "
            "other classes: list all classes in classes.txt"
        )
    config.num_classes = config.num_classes or num_classes
    if num_classes != config.num_classes:
        raise ConfigError(
            f"num_classes={config.num_classes}, but data source {data.source!r} has {num_classes} "
            f"classes: use num_classes={num_classes}"
        )
    say(
        f"{len(source)} training images of {data.train_split!r}, {len(val_source)} validation "
        f"images of {data.val_split!r}, {num_classes} classes"
    )
    if with_masks and isinstance(getattr(source, "masks", None), tuple):
        num = sum(path is not None for path in source.masks)
        if num == 0:
            raise ConfigError(
                f"loss_weights.sup={config.loss_weights.sup} needs masks, and no image of "
                f"{data.train_split!r} has one: give their folder as data.train_masks"
            )
        others = len(source.masks) - num
        rest = f"; the other {others} contribute nothing to it" if others else ""
        say(f"{num} of them have a mask, for the loss term sup{rest}")
    for remark in remarks.of_splits(source, val_source):
        say(f"remark: {remark}")
    return source, val_source


def begin(
    config: ConfigDict,
    workdir: pathlib.Path,
    store: checkpoints.Checkpoints,
    mesh: Mesh,
    class_names: Sequence[str],
) -> tuple[ToCo, TrainState, dict[str, Any]]:
    """Restores the newest checkpoint of a run, or makes the state before its first step.

    Args:
        config: the resolved configuration.
        workdir: the run's folder.
        store: the folder's checkpoints.
        mesh: the devices that receive the state.
        class_names: foreground classes of the data, in label order.

    Returns:
        The network, its state on the devices, and what the checkpoint keeps beside the state: the
        `seconds` that training took so far, and the last `evaluation` or None.

    Raises:
        ConfigError: the initial weights do not fit, or are not finite.
        CheckpointError: the weights of the checkpoint are not finite.
    """
    start = load_start(config)
    model, state = start_state(config, start, class_names)
    state = place_state(config, state, mesh)
    folder.note_start(workdir, start["origin"], goes_on=store.latest_step is not None)
    meta = {"seconds": 0.0, "evaluation": None}
    if store.latest_step is not None:
        state, meta = store.restore(state)
        say(f"going on from step {int(state.step)} in {workdir}")
    check_start(config, state, workdir)
    return model, state, meta


def load_start(config: ConfigDict) -> dict[str, Any]:
    """Loads the weights that `config.init` names and prints which they are.

    Returns:
        What `weights.load.load` returns, and under `class_names` the classes that the weights were
        trained on, None where these are not known.

    Raises:
        ConfigError: there are no such weights, or they do not fit.
    """
    if config.init == "random":
        grid = config.crop_size // backbone_from_name(config.backbone).patch
        origin = {"init": "random", "sha256": None}
        nothing: dict[str, Any] = {"params": {}, "teacher_params": None, "class_names": None}
        return nothing | {"grid": grid, "origin": origin}
    try:
        checks.check_name(config.init, config.backbone)
        theirs = class_rows.names_of(config.init)
        weights = load.load(
            config.init,
            backbone=config.backbone,
            num_classes=len(theirs or ()) or config.num_classes,
            decoder_width=config.decoder_width,
        )
    except UserError as error:
        raise ConfigError(str(error)) from error
    for note in weights["notes"]:
        say(note)
    return weights | {"class_names": theirs}


def start_state(
    config: ConfigDict,
    weights: dict[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> tuple[ToCo, TrainState]:
    """Makes the network and its state before the first step.

    Args:
        config: the configuration; its `seed` draws the parameters that no weights are given for.
        weights: what `load_start` returns; the weights of `config.init` by default.
        class_names: foreground classes in label order. Outputs of loaded classifiers are taken for
            the classes of the same names; without names they are taken as they are.

    Raises:
        ConfigError: there are no such weights, or they do not fit.
    """
    weights = load_start(config) if weights is None else weights
    loaded = weights["params"]
    model = make_model(config, grid=weights["grid"])
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(config.seed))
    if "img_encoder" in params.keys() - loaded.keys():
        if "encoder" not in loaded:
            say(
                "remark: the encoder of the image head is random and not trained, so that the head "
                "can learn little: set init to trained weights, or "
                'loss_weights.cls_img="((0,0.0),)"'
            )
        encoder = loaded.get("encoder", params["encoder"])
        loaded = loaded | {"img_encoder": jax.tree.map(np.array, encoder)}
    for name in sorted(loaded.keys() - params.keys()):
        say(f"left out: the weights' {name}, which this network has not")
    loaded = {name: part for name, part in loaded.items() if name in params}
    if class_names and "classifier" in loaded:
        loaded, lines = class_rows.take(loaded, params, weights["class_names"], tuple(class_names))
        for line in lines:
            say(line)
    return model, init_state(config, params | loaded, weights["teacher_params"])


def check_start(config: ConfigDict, state: TrainState, workdir: pathlib.Path) -> None:
    """Refuses weights that are not finite or too large, from which no step could learn.

    Raises:
        CheckpointError: those of a checkpoint of this run.
        ConfigError: those that the run would start from.
    """
    if not (broken := broken_weights((state.params, state.extra))):
        return
    what = f"NaN, infinity or values beyond {LARGEST_WEIGHT:g} in {len(broken)} arrays, the first "
    what += broken[0]
    if step := int(state.step):
        raise checkpoints.CheckpointError(
            f"the checkpoint of step {step} in {workdir} has {what}: remove "
            f"{workdir / 'checkpoints' / str(step)} to go on from the one before, or use another "
            "--out"
        )
    raise ConfigError(f"init={config.init!r} has {what}: use other weights")
