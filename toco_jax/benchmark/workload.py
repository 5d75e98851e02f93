"""The training step as the benchmarks run it: a configuration, random weights, made-up batches."""

import argparse
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.benchmark.photos import photo
from toco_jax.config import validate
from toco_jax.method.phases import Phase, phase_at
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo
from toco_jax.run import network
from toco_jax.run.config_files import assign, load_config
from toco_jax.runtime.sharding import batch_sharded, shard_batch
from toco_jax.training import step

# Foreground classes in an image, as many as training on VOC allows for.
NUM_PRESENT = 6


def configuration(
    args: argparse.Namespace, *, num_devices: int, platform: str | None = None
) -> ConfigDict:
    """Returns the validated configuration of the workload, by default on the devices at hand.

    Raises:
        ConfigError: there is no such configuration or key, or a value cannot work.
    """
    config = load_config(args.config)
    on_cpu = (platform or jax.default_backend()) == "cpu"
    config.crop_size = 224 if on_cpu else 448
    if on_cpu:
        config.backbone = "deit_tiny"
    for assignment in args.keys:
        assign(config, assignment)
    if not any(assignment.startswith("batch_size=") for assignment in args.keys):
        config.batch_size = config.group_size * config.machine.accumulate * num_devices
    validate(config, num_devices)
    return config


def make_model(config: ConfigDict, platform: str | None = None) -> ToCo:
    """The network, with stored positions for the size of the views."""
    patch = backbone_from_name(config.backbone).patch
    return network.make_model(config, grid=config.crop_size // patch, platform=platform)


def phase_of(config: ConfigDict, name: str) -> Phase:
    """The phase a run begins with, or the one with all terms that it ends with."""
    return phase_at(config, 0 if name == "first" else config.total_steps - 1)


def traced_step(config: ConfigDict, model: ToCo, mesh: Mesh, phase: str) -> jax.stages.Traced:
    """The training step of a phase, see `phase_of`, traced for a mesh."""
    numbers = {"num_present": NUM_PRESENT}
    train_step = step.make_train_step(config, model, mesh, phase_of(config, phase), **numbers)
    return train_step.trace(*abstract_inputs(config, model, mesh))


def make_batch(config: ConfigDict) -> dict[str, np.ndarray]:
    """A batch of made-up photographs of one to three classes, a margin of each being padding."""
    num, size = config.batch_size, config.crop_size
    rng = np.random.default_rng(0)
    cls_label = np.zeros((num, config.num_classes), np.float32)
    for row in cls_label:
        row[rng.choice(config.num_classes, rng.integers(1, 4), replace=False)] = 1
    views = np.stack([photo(seed, size, size) for seed in range(3 * num)])
    image, view2, local = np.split(views, 3)
    margin = rng.integers(0, size // 8, (num, 1))
    valid_box = np.concatenate([margin, size - margin] * 2, axis=1).astype(np.int32)
    return {
        "image": image,
        "view2": view2,
        "local": local,
        "cls_label": cls_label,
        "valid_box": valid_box,
    }


def make_inputs(config: ConfigDict, model: ToCo, mesh: Mesh) -> tuple[step.TrainState, dict]:
    """State and batch on the devices of a mesh."""
    params = jax.jit(lambda key: step.init_params(model, key))(jax.random.key(config.seed))
    state = step.place_state(config, step.init_state(config, params), mesh)
    return state, shard_batch(make_batch(config), mesh)


def abstract_inputs(config: ConfigDict, model: ToCo, mesh: Mesh) -> tuple[step.TrainState, dict]:
    """Shapes, types and placements of `make_inputs`, without the memory."""

    def placed(x: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def init(key: jax.Array) -> step.TrainState:
        return step.init_state(config, step.init_params(model, key))

    shapes = jax.eval_shape(init, jax.random.key(0))
    state = jax.tree.map(placed, shapes, step.state_placement(config, shapes, mesh))
    batch = jax.tree.map(lambda x: placed(x, batch_sharded(mesh)), make_batch(config))
    return state, batch
