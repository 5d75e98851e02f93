"""Rotary positions: the angles, which tokens they turn, and every way in which attention runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.inference.native import make_padding
from toco_jax.models import layers
from toco_jax.models.backbones import Backbone
from toco_jax.models.rotary import Rotary, rotary, rotated
from toco_jax.models.vit import ViT, stored_grid
from toco_jax.runtime.compute import Compute

# Not `rotary` itself, whose every operation would be compiled alone.
ANGLES = jax.jit(rotary, static_argnums=(0, 1), static_argnames=("num_leading", "num_tokens"))
SPEC = Backbone(16, 2, 2, patch=4, registers=3, layer_scale=True, rotary=True)
ROWS, COLUMNS = 3, 5  # with class token and registers an odd number of tokens


def test_pairs_of_channels_turn_by_the_place_of_the_patch():
    """Channels i and i + d / 2 are a complex number that is multiplied by exp(i angle)."""
    angles = ANGLES((2, 3), 8, num_leading=1, num_tokens=8)
    x = np.random.default_rng(0).standard_normal((2, 8, 3, 8), np.float32)
    out = np.asarray(jax.jit(rotated)(x, angles))
    for row in range(2):
        for column in range(3):
            token = 1 + 3 * row + column
            height, width = (row + 0.5) / 2 * 2 - 1, (column + 0.5) / 3 * 2 - 1
            turn = 2 * np.pi * np.array([height, height / 10, width, width / 10])
            pairs = x[:, token, :, :4] + 1j * x[:, token, :, 4:]
            pairs = pairs * np.exp(1j * turn)
            expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
            np.testing.assert_allclose(out[:, token], expected, atol=1e-5)
    for token in (0, 7):
        np.testing.assert_array_equal(out[:, token], x[:, token])


def test_each_image_of_a_padded_batch_has_positions_of_its_own():
    valid = np.zeros((2, 4, 6), bool)
    valid[0, :2, :3] = valid[1, :4, :1] = True
    whole = ANGLES((4, 6), 8, valid=jnp.asarray(valid), num_leading=2, num_tokens=26)
    for i, (height, width) in enumerate([(2, 3), (4, 1)]):
        count = height * width
        alone = ANGLES((height, width), 8, num_leading=2, num_tokens=2 + count)
        for ours, expected in zip(whole, alone, strict=True):
            patches = ours[i, 2:].reshape(4, 6, 8)[:height, :width].reshape(count, 8)
            np.testing.assert_allclose(patches, expected[0, 2:], atol=1e-6)
            np.testing.assert_array_equal(ours[i, :2], expected[0, :2])


def test_rotation_is_exact_in_low_precision():
    angles = ANGLES((1, 2), 4, num_leading=0, num_tokens=2)
    x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    turn = jax.jit(rotated)
    out = turn(x, angles)
    assert out.dtype == jnp.bfloat16
    exact = turn(x.astype(jnp.float32), angles)
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))
    assert isinstance(angles, Rotary) and angles.cos.dtype == jnp.float32


@pytest.fixture(scope="module")
def vit():
    """The network, parameters of a size at which each shows, images, and what it computes."""
    model = ViT(SPEC)
    image = jax.random.normal(jax.random.key(0), (2, 4 * ROWS, 4 * COLUMNS, 3))
    variables = jax.eval_shape(model.init, jax.random.key(1), image)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: jnp.asarray(0.4 * rng.standard_normal(x.shape), x.dtype),
                             variables)  # fmt: skip
    return model, variables, image, computed(model, variables, image)


def computed(model, variables, image):
    """Tokens, and the gradient of all parameters."""

    @jax.jit
    def both(variables, image):
        def loss(variables):
            out = model.apply(variables, image, num_mapped=1, blocks=(0,))
            tokens = out["block_0"]["tokens"]
            return jnp.sum(out["patch_tokens"] ** 2) + jnp.sum(tokens**2), (
                out["cls_token"],
                tokens,
            )

        return jax.value_and_grad(loss, has_aux=True)(variables)

    return both(variables, image)


def test_keys_have_no_bias_and_positions_no_table(vit):
    encoder = vit[1]["params"]
    assert "pos_embed" not in encoder and stored_grid(encoder) == 0
    assert encoder["blocks_0"]["attn"]["qkv"]["bias"].shape == (2 * 16,)
    assert stored_grid({"pos_embed": np.zeros((1, 1 + 5**2, 8))}) == 5


@pytest.mark.parametrize(
    ("attention", "remat"), [("in_parts", False), ("in_parts", True), ("cudnn", True)]
)
def test_every_way_to_attend_is_the_same_function(
    vit, monkeypatch, emulated_cudnn, attention, remat
):
    model, variables, image, expected = vit
    monkeypatch.setattr(layers, "LARGE_MAPS", 0)
    other = model.clone(compute=Compute(attention=attention, remat=remat))
    found = computed(other, variables, image)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, expected
    )
    assert set(emulated_cudnn) == ({20} if attention == "cudnn" else set())


def test_a_padded_image_is_encoded_as_if_it_were_not(vit):
    model, variables, image, (_, gradient) = vit
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    (_, (cls_token, _)), _ = vit[3]
    padded = jnp.pad(image, ((0, 0), (0, 8), (0, 4), (0, 0)), constant_values=9.0)
    padding = make_padding([(ROWS, COLUMNS)], (ROWS + 2, COLUMNS + 1), grid=0)
    assert padding.rows.shape == (2, ROWS + 2, 0)

    @jax.jit
    def encode(variables, padded, padding):
        return model.apply(variables, padded, padding, num_mapped=1, blocks=())["cls_token"]

    np.testing.assert_allclose(encode(variables, padded, padding), cls_token, atol=1e-5)
