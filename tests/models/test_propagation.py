"""CAMs that are spread by attention: by hand, in every way of execution, and around padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.config import ConfigError, resolve
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo, affinity_of, call, propagated

BACKBONE = backbone_from_name("width=16,depth=3,heads=2,patch=8")


def test_affinity_is_the_sum_over_blocks_of_the_mean_over_heads_without_leading_tokens():
    first = jnp.arange(18.0).reshape(1, 2, 3, 3)
    second = jnp.ones((1, 1, 3, 3))
    expected = (np.array([[4, 5], [7, 8]]) + np.array([[13, 14], [16, 17]])) / 2 + 1
    np.testing.assert_allclose(affinity_of([first, second], 1), expected[None], rtol=1e-6)


def test_a_patch_receives_the_positive_part_of_those_that_it_attends_to():
    cam = jnp.array([[[2.0, -1.0], [4.0, 3.0]]])
    affinity = jnp.array([[[0.5, 0.25], [0.0, 1.0]]])
    np.testing.assert_allclose(propagated(cam, affinity), [[[2.0, 0.75], [4.0, 3.0]]])


@pytest.fixture(scope="module")
def network():
    """The network with and without propagation, its parameters and two images."""
    plain = ToCo(BACKBONE, num_classes=3, aux_layer=-2, grid=4, decoder_width=8)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    params = plain.init(jax.random.key(0), images[:, :8, :8])["params"]
    params = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape), params)
    return plain, plain.clone(propagate_cams=True), params, images


def test_only_the_cams_change_and_by_the_networks_own_attention(network):
    plain, spread, params, images = network
    before, after = (call(model, params, "__call__", images) for model in (plain, spread))
    attention = plain.apply(
        {"params": params}, images, method=lambda net, x: net.encoder(x), mutable=False
    )
    affinity = sum(
        np.asarray(attention[f"block_{i}"]["attention"]).mean(axis=1)[:, 1:, 1:] for i in range(3)
    )
    for name in before.keys() - {"cam", "aux_cam"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    for name in ("cam", "aux_cam"):
        positive = np.maximum(before[name], 0).reshape(2, 16, 3)
        expected = (affinity @ positive).reshape(2, 4, 4, 3)
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-6)


def test_a_part_of_the_batch_has_the_maps_of_the_whole(network):
    _, spread, params, images = network
    whole = call(spread, params, "encode", images)
    part = call(spread, params, "encode", images, num_mapped=1)
    np.testing.assert_allclose(part["affinity"], whole["affinity"][:1], rtol=1e-5, atol=1e-7)
    assert "affinity" not in call(spread, params, "encode", images, num_mapped=0)


def test_low_memory_that_keeps_no_attention_is_refused_and_not_chosen(tiny_config):
    config = tiny_config(propagate_cams=True, backbone="deit_base", crop_size=448)
    config.machine.low_memory = "auto"
    assert resolve(config, "cpu").machine.low_memory == "parts"
    config.machine.low_memory = "on"
    with pytest.raises(
        ConfigError,
        match=r"no attention, from which CAMs are propagated: use machine\.low_memory='parts'",
    ):
        resolve(config, "cpu")
