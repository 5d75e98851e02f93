"""The classifier of whole images: its scores, and how they weigh the decoder's classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import ToCo, call, weighed

BACKBONE = backbone_from_name("width=16,depth=3,heads=2,patch=8")


def test_the_odds_of_a_class_are_multiplied_by_its_probability_in_the_image():
    seg = jnp.log(jnp.array([[[[6.0, 3.0, 1.0]]]]))
    cls = jnp.log(jnp.array([[3.0, 1 / 9]]))  # probabilities of 3/4 and 1/10
    found = jax.nn.softmax(weighed(seg, cls))
    np.testing.assert_allclose(found[0, 0, 0], np.array([6, 2.25, 0.1]) / 8.35, rtol=1e-5)


@pytest.fixture(scope="module")
def network():
    """The network without and with the head, the latter's parameters and two images."""
    plain = ToCo(BACKBONE, num_classes=3, aux_layer=-2, grid=4, decoder_width=8)
    model = plain.clone(image_head=True)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    params = model.init(jax.random.key(0), images[:, :8, :8])["params"]
    params = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(2), x.shape), params)
    return plain, model, params, images


def test_the_head_changes_the_scores_and_the_segmentation_alone(network):
    plain, model, params, images = network
    before, after = (call(x, params, "__call__", images) for x in (plain, model))
    head = jax.device_get(params["img_head"])
    frozen = call(plain, params | {"encoder": params["img_encoder"]}, "encode", images)
    logits = np.asarray(frozen["cls_token"]) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(after["cls_logits"], logits, rtol=1e-5, atol=1e-6)
    assert np.abs(after["cls_logits"] - before["cls_logits"]).max() > 0.1
    prior = np.log(1 / (1 + np.exp(-logits)))[:, None, None]
    expected = np.asarray(before["seg_logits"]) + np.pad(prior, [(0, 0)] * 3 + [(1, 0)])
    np.testing.assert_allclose(after["seg_logits"], expected, rtol=1e-5, atol=1e-5)
    for name in before.keys() - {"cls_logits", "seg_logits"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_only_the_head_learns(network):
    _, model, params, images = network

    def loss(params):
        return jnp.sum(call(model, params, "classify_image", images) ** 2)

    moved = {
        name
        for name, part in jax.grad(loss)(params).items()
        if any(map(jnp.any, jax.tree.leaves(part)))
    }
    assert moved == {"img_head"}


def test_training_sees_the_decoder_and_the_patches_classifier_as_they_are(network):
    plain, model, params, images = network
    tokens, grid = call(model, params, "encode", images), (4, 4)
    for method in ("decode", "classify"):
        found, expected = (call(x, params, method, tokens, grid) for x in (model, plain))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
