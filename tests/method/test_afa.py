"""The boxes of AFA against numbers worked by hand, and its losses on a tiny network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import make_batch

from toco_jax.config import ConfigError, resolve, use_method
from toco_jax.method import afa
from toco_jax.method.phases import phase_at
from toco_jax.models.heads import AffinityHead
from toco_jax.run.network import make_model
from toco_jax.training import step


def test_patches_are_near_in_both_directions():
    near = afa.neighbours((2, 3), radius=1)
    # Patch 0 is the corner of [[0, 1, 2], [3, 4, 5]].
    np.testing.assert_array_equal(near[0], [True, True, False, True, True, False])
    np.testing.assert_array_equal(near, near.T)
    assert afa.neighbours((20, 20))[0].sum() == 81


def test_a_patch_becomes_the_mean_of_those_near_it_by_squared_affinity():
    cam = jnp.array([1.0, 3.0, 100.0]).reshape(1, 1, 3, 1)
    affinity = jnp.array([[[1.0, 0.5, 1.0], [0.5, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    near = afa.neighbours((1, 3), radius=1)
    expected = [(1 + 0.25 * 3) / 1.25, (0.25 * 1 + 3) / 1.25, 0.0]
    np.testing.assert_allclose(afa.spread(cam, affinity, near)[0, 0, :, 0], expected, rtol=1e-6)


def test_the_loss_takes_the_means_over_near_pairs_with_a_label():
    label = afa.affinity_label(jnp.array([[[1, 1, 0, 255]]]), afa.neighbours((1, 4), radius=1))
    expected = [[255, 1, 255, 255], [1, 255, 0, 255], [255, 0, 255, 255], [255] * 4]
    np.testing.assert_array_equal(label[0], expected)
    affinity = jnp.full((1, 4, 4), 0.9).at[0, 1, 2].set(0.4).at[0, 2, 1].set(0.4)
    loss = afa.affinity_loss(affinity, label)
    np.testing.assert_allclose(loss, 0.5 * 0.2 / 3 + 0.5 * 0.8 / 3, rtol=1e-5)
    assert afa.affinity_loss(affinity, jnp.full_like(label, 255)) == 0


def test_the_head_makes_symmetric_affinities():
    attention = jax.random.uniform(jax.random.key(0), (1, 2, 3, 3))
    params = {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([0.5])}
    found = AffinityHead().apply({"params": params}, attention)
    mixed = np.asarray(2 * attention[0, 0] - attention[0, 1])
    np.testing.assert_allclose(found[0], 1 / (1 + np.exp(-(mixed + mixed.T + 0.5))), rtol=1e-5)
    np.testing.assert_allclose(found, found.swapaxes(1, 2), rtol=1e-6)


def test_its_losses_reach_the_head_and_not_what_it_leaves_alone(tiny_config):
    config = tiny_config()
    use_method(config, "afa")
    model = make_model(config, grid=4)
    params = step.init_params(model, jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, make_batch(0, 2))
    loss_fn = afa.make_loss_fn(config, model, phase_at(config, 3), num_present=4)

    def loss(head):
        extra = afa.init_extra(config, params)
        keys = jax.random.split(jax.random.key(1), 2)
        total, seen = loss_fn(params | {"aff_head": head}, extra, keys, batch)
        return total, seen

    slopes, seen = jax.grad(loss, has_aux=True)(params["aff_head"])
    assert seen["terms"].keys() == {"cls", "seg", "reg", "aff", "total"}
    weighted = seen["cls"] + 0.1 * seen["seg"] + 0.01 * seen["reg"] + 0.1 * seen["aff"]
    np.testing.assert_allclose(seen["terms"]["total"], weighted, rtol=1e-5)
    # The spread CAM makes labels, which carry no gradient: all of it comes from `aff`.
    of_aff = jax.grad(
        lambda head: (
            0.1
            * afa.affinity_loss(
                AffinityHead().apply({"params": head}, seen["log_attention"]),
                seen["affinity_label"],
            )
        )
    )(params["aff_head"])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-8), slopes, of_aff
    )
    assert jnp.abs(slopes["kernel"]).max() > 0


def test_low_memory_that_keeps_no_attention_is_refused(tiny_config):
    config = tiny_config()
    use_method(config, "afa")
    config.machine.low_memory = "on"
    with pytest.raises(ConfigError, match=r"no attention, from which method=afa learns: use"):
        resolve(config, "cpu")
