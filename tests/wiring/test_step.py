"""The real training step against the one written plainly in `slow_step`, and its draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import slow_step
from tiny_run import photo

from toco_jax.config import LOSS_TERMS
from toco_jax.method import par
from toco_jax.method.phases import phase_at
from toco_jax.run.network import make_model
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.training import step

ORIGINS = np.int32([[[0, 3], [9, 8]], [[15, 15], [2, 11]], [[6, 0], [15, 1]], [[4, 4], [12, 0]]])


def make_batch():
    """Four photos with padding at their borders, each with some of four classes."""
    views = {
        name: np.stack([photo((32, 32), seed + i) for i in range(4)])
        for name, seed in (("image", 0), ("view2", 10), ("local", 20))
    }
    # Of two grey levels that are one in the published code, where PAR then sees nothing.
    dark = np.argmax(par.published_image_table() < np.arange(256)[:, None], axis=0)
    views["image"][:2] = dark - (views["image"][:2] > 127)
    return views | {
        "cls_label": np.float32([[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]]),
        "valid_box": np.int32([[0, 32, 4, 32], [5, 30, 0, 27], [0, 29, 0, 32], [0, 32, 0, 32]]),
    }


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config(**slow_step.CHANGES)


@pytest.fixture(scope="module")
def slow(config):
    """A function that takes the plain step of `make_batch`, and the step itself."""
    _, params, teacher = slow_step.start_weights()
    plain = slow_step.SlowStep(config)
    teacher = slow_step.moved(teacher, params["proj_head"])

    def run(**changes):
        return plain(params, teacher, make_batch(), ORIGINS, weights=slow_step.WEIGHTS, **changes)

    return run, plain, params, teacher


@pytest.fixture(scope="module")
def fast(config):
    """State and terms after the real step of `make_batch`."""
    _, params, teacher = slow_step.start_weights()
    mesh = make_mesh(1)
    model = make_model(config, grid=slow_step.GRID)
    train_step = step.make_train_step(config, model, mesh, phase_at(config, 0), num_present=3)
    state = step.place_state(config, step.init_state(config, params, teacher), mesh)
    return jax.device_get(train_step(state, shard_batch(make_batch(), mesh), ORIGINS))


def test_the_plain_step_has_every_kind_of_label(slow):
    labels = slow[0]()[2]
    assert set(np.unique(labels["affinity"])) == {0, 1, 255}
    assert set(np.unique(labels["pseudo_label"])) == {0, 1, 2, 3, 4, 255}
    assert set(np.unique(labels["region"])) == {0, 1, 2}
    assert set(np.unique(labels["positive"][2:])) == {False, True}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"scaled_box": False}, "affinity"),
        ({"truncated": True}, "pseudo_label"),
        ({"refined": "aux_cam"}, "pseudo_label"),
    ],
)
def test_the_plain_step_tells_the_variants_apart(slow, change, label):
    run = slow[0]
    terms, _, labels = run()
    other_terms, _, other_labels = run(**change)
    assert (labels[label] != other_labels[label]).any()
    # By ten times what `test_terms` allows.
    assert any(abs(other_terms[name] / terms[name] - 1) > 1e-4 for name in slow_step.WEIGHTS)


def test_terms(slow, fast):
    expected = slow[0]()[0]
    assert set(fast[1]) == {*expected, step.LEFT_OUT}
    for name, value in expected.items():
        np.testing.assert_allclose(fast[1][name], value, rtol=1e-5, err_msg=name)


def test_update(slow, fast):
    run, plain, params, teacher = slow
    state = fast[0]
    new, (first, second) = plain.update(params, run()[1], None, step=0)
    assert state.step == 1
    slow_step.assert_updated(state.params, new, slow_step.flat(params), first)
    for name, value in slow_step.flat(state.opt_state[1].mu).items():
        np.testing.assert_allclose(value, first[name], rtol=0, atol=1e-7, err_msg=name)
    for name, value in slow_step.flat(state.opt_state[1].nu).items():
        np.testing.assert_allclose(value, second[name], rtol=0, atol=1e-9, err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, state.extra["proj_head"], teacher)


def test_crops_are_drawn_anew_for_each_image_and_step(tiny_config):
    only = {f"loss_weights.{term}": ((0, float(term == "ctc")),) for term in LOSS_TERMS}
    config = tiny_config(**slow_step.CHANGES | only)
    params = slow_step.start_weights()[1]
    one = {name: value[:1] for name, value in make_batch().items()}
    alike = {name: np.repeat(value, 4, axis=0) for name, value in one.items()}
    mesh = make_mesh(2)
    model = make_model(config, grid=slow_step.GRID)
    train_step = step.make_train_step(config, model, mesh, phase_at(config, 0), num_present=3)

    def drawn(number, seed):
        """Corners for four images alike, in no order: each device tells its own."""
        config.seed = seed
        state = dataclasses.replace(step.init_state(config, params), step=jnp.int32(number))
        taken.clear()
        train_step(step.place_state(config, state, mesh), shard_batch(alike, mesh))
        jax.effects_barrier()
        assert len(taken) == 4
        return {origins.tobytes() for _, origins in taken}

    with slow_step.recorded_crops() as taken:
        draws = [drawn(number, seed) for number, seed in ((0, 0), (1, 0), (0, 1))]
        assert drawn(0, 0) == draws[0]
    assert len(set().union(*draws)) == 12
