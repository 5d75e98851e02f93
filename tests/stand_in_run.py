"""Runs of the real loop, step, log and checkpoints in a second, around stand-ins for the rest."""

import pathlib
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from toco_jax.method import toco
from toco_jax.run.state import TrainState
from toco_jax.training import loop, step

# What the objective makes of each value of `cls_label`.
GOOD, NAN_LOSS, STEEP, INFINITE_SLOPE = 1.0, np.nan, 1e20, 0.0


def make_loss_fn(config, model, phase, *, num_present):
    """An objective of one term, whose value and slope the labels choose."""

    def loss_fn(params, extra, keys, batch):
        factor = batch["cls_label"].mean()
        total = factor * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))
        # At a factor of 0 the loss is 0 and the slope of the root infinite.
        total += jnp.sqrt(total)
        return total, {"terms": {"cls": total, "total": total}}

    return loss_fn


def initial(config: ConfigDict) -> TrainState:
    """The state before the first step."""
    params = {part: {"w": jnp.arange(1.0, 5.0)} for part in ("encoder", "proj_head")}
    return step.init_state(config, params, {"w": jnp.zeros(4)})


def labelled(value: float) -> dict[str, np.ndarray]:
    """A batch of four images."""
    return {"image": np.zeros((4, 1), np.uint8), "cls_label": np.full((4, 1), value, np.float32)}


def begin(config, workdir, store, mesh, class_names):
    """What `start.begin` does, without a network."""
    state, meta = step.place_state(config, initial(config), mesh), {"seconds": 0.0}
    if store.latest_step is not None:
        state, meta = store.restore(state)
    return None, state, meta | {"evaluation": None}


class Evaluator:
    """Finds the same score for any state."""

    def __init__(self, *args):
        pass

    def __call__(self, state, tracker):
        return {"seg_miou": 50.0}


class History:
    """Keeps nothing."""

    def __init__(self, *args, **options):
        pass

    def add(self, *args, **options):
        pass


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    labels: Mapping[int, float] | None = None,
    before: Callable[[int], None] = lambda at: None,
) -> dict:
    """Trains with the labels given for some steps; `before` is called before each."""

    def batches(source, config, *, start_step, **share):
        for at in range(start_step + 1, config.total_steps + 1):
            before(at)
            yield labelled((labels or {}).get(at, GOOD)) | {"name": [f"image {at}"]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toco, "make_loss_fn", make_loss_fn)
        patch.setattr(loop, "begin", begin)
        patch.setattr(loop, "configured_batches", batches)
        patch.setattr(loop, "Evaluator", Evaluator)
        patch.setattr(loop, "History", History)
        patch.setattr(loop, "finish", lambda *args: {"finished": True})
        return loop.train(config, workdir)
