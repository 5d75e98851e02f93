"""One run, however many devices there are and however they share the work."""

import dataclasses
import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import XLA_FLAGS
from eight_devices import STEPS, make_batch

from toco_jax.config.methods import ADDED, TERMS
from toco_jax.method.phases import phase_at
from toco_jax.run.network import make_model
from toco_jax.runtime.sharding import make_mesh, shard_batch, split_over
from toco_jax.training import step

TESTS = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `eight_devices.py` writes."""
    out = tmp_path_factory.mktemp("eight") / "found.pickle"
    environment = os.environ | {
        "XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    program = [sys.executable, str(TESTS / "eight_devices.py"), str(out)]
    subprocess.run(program, env=environment, check=True)
    return pickle.loads(out.read_bytes())


def assert_equal_terms(ours, theirs, atol=1e-5):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=atol, err_msg=name)


def test_steps_are_equal(found):
    assert len(found["terms_1"]) == len(found["terms_8"]) == STEPS
    assert {*found["terms_1"][0]} == {*TERMS["toco"], "total", step.LEFT_OUT} - {*ADDED}
    for one, eight in zip(found["terms_1"], found["terms_8"], strict=True):
        assert_equal_terms(eight, one)


def test_gradients_and_parameters_are_equal(found):
    moments = found["moments"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), moments[1], moments[8]
    )

    # Where the gradient is rounding noise its sign, hence Adam's first step, is arbitrary.
    def compare(a, b, moment):
        known = np.abs(moment) > 1e-6
        np.testing.assert_allclose(a[known], b[known], rtol=0, atol=1e-6)

    jax.tree.map(compare, found["first_params_1"], found["first_params_8"], moments[1])


def test_a_checkpoint_goes_on_elsewhere(found):
    # Either mesh takes the last step from the other's checkpoint, and loses what the other lost.
    assert_equal_terms(found["crossed_8"], found["terms_1"][-1])
    assert_equal_terms(found["crossed_1"], found["terms_8"][-1])


def test_devices_exchange_gradients_and_scalars_only(found):
    exchanged = found["exchanged_8"]
    size = exchanged.pop("all-reduce")
    assert not any(exchanged.values())
    num_terms = len(found["terms_8"][0].keys() - {step.LEFT_OUT})
    # What the optimiser never moves has no gradient to exchange.
    assert 0.95 * found["parameter_bytes"] < size <= found["parameter_bytes"] + 4 * num_terms


def test_every_array_of_the_state_is_updated_in_place(found):
    assert all(found["deleted_8"])


@pytest.fixture(scope="module")
def four(tiny_config):
    """Function from changes of a configuration to one step of 16 images on four devices."""
    phases = {f"loss_weights.{term}": ((0, 0.0),) for term in ("ctc", "seg", "reg")}
    params = {}

    def run(**changes):
        config = tiny_config(batch_size=16, group_size=2, **phases, **changes)
        model = make_model(config, grid=4)
        if not params:
            params.update(jax.tree.map(np.asarray, step.init_params(model, jax.random.key(0))))
        mesh = make_mesh(4)
        state = step.place_state(config, step.init_state(config, params), mesh)
        train_step = step.make_train_step(config, model, mesh, phase_at(config, 5), num_present=4)
        return train_step(state, shard_batch(make_batch(0, 16), mesh))

    return run


@pytest.fixture(scope="module")
def plain(four):
    """The step as it is by default."""
    return four()


def test_accumulated_step_is_the_step(four, plain):
    (state, terms), (expected, expected_terms) = four(**{"machine.accumulate": 2}), plain
    assert_equal_terms(jax.device_get(terms), jax.device_get(expected_terms), atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        state.opt_state[1].mu,
        expected.opt_state[1].mu,
    )


def test_sharded_optimiser_is_the_optimiser(four, plain):
    (state, _), (expected, _) = four(**{"machine.shard_optimizer": True}), plain
    kernel = state.opt_state[1].mu["encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-7),
        (state.params, state.opt_state),
        (expected.params, expected.opt_state),
    )


def test_what_no_device_count_divides_is_copied():
    mesh = make_mesh(4)
    assert split_over(mesh, (3, 8, 12)).spec == jax.sharding.PartitionSpec(None, None, "data")
    assert split_over(mesh, (3, 5)).is_fully_replicated
    assert split_over(mesh, ()).is_fully_replicated


def test_teacher_moves_towards_the_student_before_the_update(tiny_config):
    config = tiny_config()
    model = make_model(config, grid=4)
    params = step.init_params(model, jax.random.key(0))
    state = step.init_state(config, params)
    moved = dataclasses.replace(state, params=jax.tree.map(lambda x: x + 1.0, params))
    teacher = step.moved_extra(config, moved)["proj_head"]
    for old, new in zip(
        jax.tree.leaves(state.extra["proj_head"]), jax.tree.leaves(teacher), strict=True
    ):
        np.testing.assert_allclose(new, old + 0.1, atol=1e-6)
