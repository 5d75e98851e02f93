"""A step on one device and on four is the same step."""

import jax
import numpy as np
import pytest

from toco_jax import step
from toco_jax.config import phase_at
from toco_jax.sharding import make_mesh, replicated, shard_batch


@pytest.fixture(scope="module")
def stepped(tiny_config):
    """State and loss terms after one step of eight images on one and on four devices."""
    config = tiny_config(batch_size=8, group_size=2)
    model = step.make_model(config, grid=4)
    params = jax.tree.map(np.asarray, step.init_params(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    views = {name: rng.integers(0, 256, (8, 32, 32, 3), np.uint8) for name in ("image", "view2")}
    batch = views | {
        "local": views["image"],
        "cls_label": rng.integers(0, 2, (8, 4)).astype(np.float32),
        "valid_box": np.tile(np.int32([0, 32, 4, 32]), (8, 1)),
    }
    results = []
    for num_devices in (1, 4):
        mesh = make_mesh(num_devices)
        state = jax.device_put(step.init_state(config, params), replicated(mesh))
        train_step = step.make_train_step(config, model, mesh, phase_at(config, 5), max_classes=5)
        results.append(jax.device_get(train_step(state, shard_batch(batch, mesh))))
    return results


def test_losses_are_equal(stepped):
    (_, one), (_, four) = stepped
    assert sorted(one) == ["cls", "cls_aux", "ctc", "ptc", "reg", "seg", "total"]
    for name, value in one.items():
        np.testing.assert_allclose(four[name], value, rtol=0, atol=1e-6, err_msg=name)


def test_gradients_and_parameters_are_equal(stepped):
    (one, _), (four, _) = stepped
    moments = [state.opt_state[1].mu for state in (one, four)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), *moments)

    # Where the gradient is rounding noise its sign, hence Adam's first step, is arbitrary.
    def compare(a, b, moment):
        known = np.abs(moment) > 1e-6
        np.testing.assert_allclose(a[known], b[known], rtol=0, atol=1e-6)

    jax.tree.map(compare, one.params, four.params, moments[0])
    jax.tree.map(np.testing.assert_array_equal, one.teacher_params, four.teacher_params)


def test_teacher_moves_towards_the_student_before_the_update(tiny_config):
    config = tiny_config()
    model = step.make_model(config, grid=4)
    params = step.init_params(model, jax.random.key(0))
    state = step.init_state(config, params)
    moved = state.replace(params=jax.tree.map(lambda x: x + 1.0, params))
    teacher = step.momentum_update(moved, 0.9)
    for old, new in zip(
        jax.tree.leaves(state.teacher_params), jax.tree.leaves(teacher), strict=True
    ):
        np.testing.assert_allclose(new, old + 0.1, atol=1e-6)
