"""The boxes of the figure as programs of their own, on the inputs that they have in the step.

They do not add up to the step exactly: inside it XLA fuses across their borders.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from toco_jax.method import toco
from toco_jax.method.numbers import numbers_of
from toco_jax.method.phases import Phase
from toco_jax.models.network import ToCo, call, frozen_cams
from toco_jax.training import step

Parts = dict[str, tuple[Callable, tuple]]


def make_parts(
    config: ConfigDict,
    model: ToCo,
    phase: Phase,
    state: step.TrainState,
    batch: dict[str, jax.Array],
    *,
    num_present: int,
    jit: Callable = jax.jit,
) -> Parts:
    """Returns the parts by name, compiled by `jit`, each with its arguments.

    `state` and `batch` are one device's share; see `make_loss_fn` for the other arguments.
    """
    parts: Parts = {}
    terms = set(phase.active)
    numbers = numbers_of(config, model, phase, num_present=num_present)
    keys = jax.random.split(state.key, len(batch["image"]))
    net_of = functools.partial(functools.partial, call, model)

    def run(name: str, function: Callable, *inputs: Any) -> Any:
        parts[name] = jit(function), inputs
        return parts[name][0](*inputs)

    def views(params: dict, batch: dict) -> tuple[Any, dict]:
        seen = toco.classification(net_of(params), batch, with_view2="ctc" in terms)
        names = ("cls_token", "patch_tokens", "aux_patch_tokens")
        return sum(jnp.sum(seen[name].astype(jnp.float32) ** 2) for name in names), seen

    def maps(params: dict, seen: dict) -> dict:
        return toco.class_maps(frozen_cams(model, params), seen, **numbers["class_maps"])

    def patch_contrast(tokens: jax.Array, seen: dict) -> jax.Array:
        seen = seen | {"patch_tokens": tokens}
        return toco.patch_contrast(seen, **numbers["patch_contrast"])["ptc"]

    def class_contrast(params, cls_token, head, keys, seen) -> jax.Array:
        teacher = functools.partial(net_of({"proj_head": head}), "project")
        seen = seen | {"cls_token": cls_token}
        seen |= toco.uncertain_crops(keys, seen, **numbers["uncertain_crops"])
        settings = numbers["class_contrast"]
        return toco.class_contrast(net_of(params), teacher, seen, **settings)["ctc"]

    def segmentation(params: dict, tokens: jax.Array, seen: dict) -> Any:
        seen = seen | {"patch_tokens": tokens}
        out = toco.segmentation(net_of(params), seen, **numbers["segmentation"])
        return sum(phase.weight(term) * out[term] for term in ("seg", "reg"))

    def update(state: step.TrainState, grads: dict) -> step.TrainState:
        return step.apply_gradients(config, state, step.moved_extra(config, state), grads)

    params = state.params
    _, seen = run("views, gradient", jax.grad(views, has_aux=True), params, batch)
    seen = batch | seen
    if terms - {"cls", "cls_aux"}:
        seen |= run("class maps", maps, params, seen)
    if "ptc" in terms:
        run("patch contrast, gradient", jax.grad(patch_contrast), seen["patch_tokens"], seen)
    if "ctc" in terms:
        inputs = (params, seen["cls_token"], state.extra["proj_head"], keys, seen)
        run("crops and class contrast, gradient", jax.grad(class_contrast, (0, 1)), *inputs)
    if terms & {"seg", "reg"}:
        inputs = (params, seen["patch_tokens"], seen)
        run("PAR, decoder, dense energy, gradient", jax.grad(segmentation, (0, 1)), *inputs)
    run("optimiser", update, state, params)
    return parts
