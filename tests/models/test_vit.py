"""The encoder and the heads: shapes, named intermediates, resized positions, initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.inference.native import make_padding
from toco_jax.models.backbones import Backbone
from toco_jax.models.heads import Classifier, ProjectionHead
from toco_jax.models.network import ToCo, normalize
from toco_jax.models.vit import ViT, sincos_positions
from toco_jax.runtime.compute import Compute

TINY = Backbone(width=16, depth=3, heads=2, patch=8)


@pytest.fixture(scope="module")
def vit():
    model = ViT(TINY, grid=4)
    image = jax.random.normal(jax.random.key(0), (2, 32, 40, 3))
    return model, jax.jit(model.init)(jax.random.key(1), image), image


def test_every_block_by_name(vit):
    model, variables, image = vit
    out = model.apply(variables, image)
    assert sorted(out) == ["block_0", "block_1", "block_2", "cls_token", "patch_tokens"]
    for i in range(3):
        assert out[f"block_{i}"]["tokens"].shape == (2, 21, 16)
        attention = out[f"block_{i}"]["attention"]
        assert attention.shape == (2, 2, 21, 21)
        np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-5)
    normed = out["block_2"]["tokens"]
    normed = (normed - normed.mean(-1, keepdims=True)) / jnp.sqrt(
        normed.var(-1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(out["cls_token"], normed[:, 0], atol=1e-5)
    np.testing.assert_allclose(out["patch_tokens"], normed[:, 1:], atol=1e-5)


def test_unused_blocks_and_maps_cost_nothing(vit):
    model, variables, image = vit

    def flops(pick):
        compiled = jax.jit(lambda v, x: pick(model.apply(v, x))).lower(variables, image).compile()
        return compiled.cost_analysis()["flops"]

    first = flops(lambda out: out["block_0"]["tokens"])
    whole = flops(lambda out: out["cls_token"])
    assert first < 0.5 * whole


def test_rows_beyond_the_last_patch_are_dropped(vit):
    model, variables, image = vit
    whole = model.apply(variables, image)["patch_tokens"]
    ragged = jnp.pad(image, ((0, 0), (0, 5), (0, 7), (0, 0)), constant_values=9.0)
    np.testing.assert_array_equal(model.apply(variables, ragged)["patch_tokens"], whole)


def test_positions_of_the_stored_grid_are_used_as_they_are(vit):
    model, variables, image = vit
    zero = jax.tree.map(jnp.zeros_like, variables)
    zero["params"]["pos_embed"] = variables["params"]["pos_embed"]
    tokens = model.apply(zero, image[:, :32, :32], method="embed")
    np.testing.assert_array_equal(tokens[0], variables["params"]["pos_embed"][0])


def test_sincos_positions_are_distinct_and_leave_the_class_token():
    positions = sincos_positions(4, 16)
    assert positions.shape == (1, 17, 16)
    assert not positions[0, 0].any()
    assert len(np.unique(positions[0].round(5), axis=0)) == 17


def test_parts_that_a_backbone_lacks_have_no_parameters(vit):
    shapes = jax.tree.map(jnp.shape, vit[1]["params"])
    more = Backbone(16, 3, 2, patch=8, registers=4, layer_scale=True)
    params = jax.eval_shape(ViT(more, grid=4).init, jax.random.key(1), vit[2])["params"]
    assert params.pop("register_tokens").shape == (1, 4, 16)
    for i in range(3):
        assert params[f"blocks_{i}"].pop("layer_scale1").shape == (16,)
        assert params[f"blocks_{i}"].pop("layer_scale2").shape == (16,)
    assert jax.tree.map(jnp.shape, params) == shapes


def test_registers_reach_no_map_and_padding_changes_nothing(vit):
    """Tokens of the patches are those of the patches, whatever is padded or computed apart."""
    spec = Backbone(16, 3, 2, patch=8, registers=3)
    model, image = ToCo(spec, num_classes=2, aux_layer=1, grid=3, decoder_width=4), vit[2]
    params = jax.jit(model.init)(jax.random.key(0), image)["params"]
    encoder = ViT(spec, grid=3)

    @jax.jit
    def both(params, x):
        blocks = encoder.apply({"params": params["encoder"]}, x)
        return model.apply({"params": params}, x), blocks

    out, blocks = both(params, image)
    assert out["patch_tokens"].shape == out["aux_patch_tokens"].shape == (2, 20, 16)
    assert out["cam"].shape == (2, 4, 5, 2) and out["seg_logits"].shape == (2, 4, 5, 3)
    aux = blocks["block_1"]["tokens"]
    assert aux.shape == (2, 1 + 3 + 20, 16)
    np.testing.assert_allclose(out["aux_patch_tokens"], aux[:, 4:], atol=1e-5)
    np.testing.assert_allclose(out["cls_token"], blocks["cls_token"], atol=1e-5)
    padding = make_padding([(4, 5)], (5, 7), grid=3, method=spec.position_resize)
    padded = jnp.pad(image, ((0, 0), (0, 8), (0, 16), (0, 0)), constant_values=9.0)
    apart = jax.jit(lambda p, x: model.apply({"params": p}, x, padding))(params, padded)
    for name in ("cam", "aux_cam", "seg_logits"):
        np.testing.assert_allclose(apart[name][:, :4, :5], out[name], atol=1e-5)
    np.testing.assert_allclose(apart["cls_logits"], out["cls_logits"], atol=1e-5)


@pytest.fixture(scope="module")
def toco():
    model = ToCo(TINY, num_classes=3, aux_layer=1, grid=4, decoder_width=8, decoder_dilation=2)
    return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def test_contract_of_the_network(toco, vit):
    (model, params), image = toco, vit[2]
    out = model.apply({"params": params}, image)
    shapes = {name: value.shape for name, value in out.items()}
    assert shapes == {
        "cls_token": (2, 16),
        "patch_tokens": (2, 20, 16),
        "aux_patch_tokens": (2, 20, 16),
        "cls_logits": (2, 3),
        "aux_cls_logits": (2, 3),
        "seg_logits": (2, 4, 5, 4),
        "cam": (2, 4, 5, 3),
        "aux_cam": (2, 4, 5, 3),
    }
    kernel = params["classifier"]["kernel"]
    np.testing.assert_allclose(out["cls_logits"], out["patch_tokens"].max(1) @ kernel, rtol=1e-5)
    encoder = ViT(TINY, grid=4).apply({"params": params["encoder"]}, image)
    np.testing.assert_array_equal(out["aux_patch_tokens"], encoder["block_1"]["tokens"][:, 1:])


@pytest.mark.parametrize(("unrolled", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_low_precision_keeps_float32_where_it_matters(toco, vit, unrolled, dtype):
    (model, params), image = toco, vit[2]
    low = model.clone(compute=Compute("bfloat16", unrolled=unrolled))
    out, exact = (m.apply({"params": params}, image) for m in (low, model))
    assert out["patch_tokens"].dtype == dtype
    rounding = out["patch_tokens"].astype(jnp.float32) - exact["patch_tokens"]
    assert jnp.abs(rounding).max() > 1e-4
    for name in ("cls_logits", "cam", "seg_logits"):
        assert out[name].dtype == jnp.float32
        np.testing.assert_allclose(out[name], exact[name], atol=0.05)


def test_projections_are_weight_normalised():
    head = ProjectionHead(hidden=8, bottleneck=6, features=5)
    variables = head.init(jax.random.key(0), jnp.zeros((1, 4)))
    tokens = jax.random.normal(jax.random.key(1), (7, 4))
    out = head.apply(variables, tokens)
    assert float(jnp.abs(out).max()) <= 1 + 1e-6
    scaled = jax.tree.map(jnp.array, variables)
    scaled["params"]["last_layer"] = 3 * scaled["params"]["last_layer"]
    np.testing.assert_allclose(head.apply(scaled, tokens), out, atol=1e-6)


def test_projection_of_nothing_has_a_finite_gradient():
    head = ProjectionHead(hidden=8, bottleneck=6, features=5)
    variables = jax.tree.map(jnp.zeros_like, head.init(jax.random.key(0), jnp.zeros((1, 4))))
    grads = jax.grad(lambda v: head.apply(v, jnp.ones((1, 4))).sum())(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_normalize():
    white = normalize(jnp.full((1, 1, 1, 3), 255, jnp.uint8))
    np.testing.assert_allclose(white[0, 0, 0], [2.2489083, 2.4285715, 2.64], rtol=1e-6)


def test_maximum_sends_its_gradient_to_one_token():
    classifier = Classifier(num_classes=2)
    tokens = jnp.array([[[1.0], [3.0], [3.0], [2.0]]])
    variables = {"params": {"kernel": jnp.array([[1.0, 10.0]])}}
    logits, cam = classifier.apply(variables, tokens)
    assert logits.tolist() == [[3.0, 30.0]]
    assert cam[0, :, 0].tolist() == [1.0, 3.0, 3.0, 2.0]
    grad = jax.grad(lambda x: classifier.apply(variables, x)[0].sum())(tokens)
    assert grad.ravel().tolist() == [0.0, 11.0, 0.0, 0.0]


def loss_of(model):
    """A function of parameters and images that needs every token."""

    def loss(variables, image):
        out = model.apply(variables, image, blocks=(0,))
        return jnp.sum(out["patch_tokens"] ** 2) + jnp.sum(out["block_0"]["tokens"] ** 3)

    return loss


def test_low_memory_is_the_same_function(vit):
    model, variables, image = vit
    frugal = model.clone(compute=Compute(remat=True))
    ours, theirs = (
        jax.jit(jax.value_and_grad(loss_of(m)))(variables, image) for m in (frugal, model)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
    assert "attention" not in frugal.apply(variables, image)["block_0"]


def test_only_the_blocks_asked_for_come_back(vit):
    model, variables, image = vit
    whole = model.apply(variables, image)
    for remat in (False, True):
        some = model.clone(compute=Compute(remat=remat)).apply(variables, image, blocks=(1, 2))
        assert sorted(some) == ["block_1", "block_2", "cls_token", "patch_tokens"]
        for name in ("block_1", "block_2"):
            np.testing.assert_allclose(some[name]["tokens"], whole[name]["tokens"], atol=1e-5)


def test_low_memory_keeps_less_for_the_gradient():
    deep = Backbone(width=16, depth=6, heads=2, patch=8)
    image = jnp.zeros((2, 64, 64, 3))
    variables = jax.eval_shape(ViT(deep, grid=8).init, jax.random.key(0), image)

    def temporary(remat):
        loss = loss_of(ViT(deep, grid=8, compute=Compute(remat=remat)))
        compiled = jax.jit(jax.grad(loss)).lower(variables, image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(True) < 0.5 * temporary(False)


@pytest.mark.parametrize("remat", [False, True])
def test_images_that_are_not_mapped_keep_their_class_token(vit, remat):
    model, variables, image = vit
    whole = model.apply(variables, image)
    model = model.clone(compute=Compute(remat=remat))
    for num in (0, 1):
        part = model.apply(variables, image, num_mapped=num)
        np.testing.assert_allclose(part["cls_token"], whole["cls_token"], atol=1e-5)
        if num:
            np.testing.assert_allclose(part["patch_tokens"], whole["patch_tokens"][:1], atol=1e-5)
        else:
            assert "patch_tokens" not in part


def test_flash_attention_is_the_same_function(vit, emulated_cudnn):
    model, variables, image = vit

    def results(model):
        """Value and gradient, and the class tokens where one image is not mapped."""
        grad = jax.value_and_grad(loss_of(model))

        def both(variables, image):
            part = model.apply(variables, image, num_mapped=1, blocks=())
            return grad(variables, image), part

        return jax.jit(both)(variables, image)

    plain = results(model)
    for remat in (False, True):
        fast = results(model.clone(compute=Compute(attention="cudnn", remat=remat)))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), fast, plain
        )
    assert set(emulated_cudnn) == {22}


@pytest.mark.usefixtures("cudnn")
def test_flash_attention_is_lowered_for_odd_lengths(vit):
    model, variables, image = vit
    fast = model.clone(compute=Compute("bfloat16", "cudnn", unrolled=True))
    gradient = jax.jit(jax.grad(loss_of(fast)))
    assert fast.apply(variables, image, method="embed").shape[1] % 2 == 1
    # JAX refuses what cuDNN cannot do while it lowers.
    gradient.trace(variables, image).lower(lowering_platforms=("cuda",))
