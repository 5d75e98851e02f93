"""Schedule and optimiser against the published ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.training import optim

VOC = {"warmup_steps": 1500, "total_steps": 20000}


def test_schedule_golden(golden):
    rates = golden("schedule")["lr"]
    factor = jax.jit(functools.partial(optim.poly_warmup_factor, **VOC))(np.arange(len(rates)))
    np.testing.assert_allclose(6e-5 * np.float64(factor), rates[:, 0], rtol=1e-6)
    np.testing.assert_allclose(6e-4 * np.float64(factor), rates[:, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 1e-6), (750, 0.5), (1499, 0.99933), (1500, 0.925**0.9), (19999, 5e-5**0.9)],
)
def test_schedule_by_hand(step, factor):
    np.testing.assert_allclose(optim.poly_warmup_factor(step, **VOC), factor, rtol=2e-5)


def test_no_warmup():
    np.testing.assert_allclose(
        optim.poly_warmup_factor(0, warmup_steps=0, total_steps=10), 1.0, rtol=1e-6
    )


@pytest.mark.parametrize("start", [0, 1497, 2500])
def test_five_steps_golden(golden, start):
    data = golden("schedule")
    groups = dict(entry.split("=") for entry in data["opt/group"].tolist())
    # A parameter whose gradient is None is left alone, which is what a scale of 0 does.
    scales = {name: 1.0 if int(group) < 2 else 10.0 for name, group in groups.items()}
    scales["head_nograd"] = 0.0
    schedule = lambda step: 6e-5 * optim.poly_warmup_factor(step, **VOC)  # noqa: E731
    optimizer = optim.adamw(schedule, scales, weight_decay=0.01)
    params = {name: jnp.asarray(data[f"opt/init/{name}"]) for name in groups}
    state = optimizer.init(params)
    update = jax.jit(lambda g, s, p, step: optimizer.update(g, s, p, step=step))
    for i in range(5):
        grads = {
            name: data[f"opt/grad/{name}"][i] if f"opt/grad/{name}" in data else 0 * params[name]
            for name in groups
        }
        updates, state = update(grads, state, params, start + i)
        params = jax.tree.map(jnp.add, params, updates)
        for name in groups:
            key = f"opt/start{start}/{name}"
            np.testing.assert_allclose(
                params[name],
                data[key][i],
                rtol=0,
                atol=10 * float(data[f"f32_maxabs/{key}"]),
                err_msg=f"{name} after update {i}",
            )


def test_one_step_by_hand():
    params = {
        "encoder": {"w": jnp.array([2.0]), "pos_embed": jnp.array([3.0])},
        "head": jnp.ones(1),
    }
    scales = optim.learning_rate_scales(
        params | {"proj_head": 0.0}, head_lr_multiplier=10.0, projection_lr_multiplier=3.0
    )
    assert scales.pop("proj_head") == 3.0
    assert scales == {"encoder": {"w": 1.0, "pos_embed": 0.0}, "head": 10.0}
    optimizer = optim.adamw(lambda _: 0.1, scales, weight_decay=0.5)
    grads = jax.tree.map(lambda p: 4 * p, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params, step=0)
    # The first Adam direction is the gradient's sign; decay adds half of the parameter.
    np.testing.assert_allclose(updates["encoder"]["w"], -0.1 * (1 + 0.5 * 2.0), rtol=1e-4)
    np.testing.assert_allclose(updates["head"], -1.0 * (1 + 0.5 * 1.0), rtol=1e-4)
    assert float(updates["encoder"]["pos_embed"][0]) == 0.0


def test_the_rate_falls_from_the_last_block_to_the_embedding_of_patches():
    names = ("patch_embed", "cls_token", "pos_embed", "blocks_0", "blocks_10", "norm")
    blocks = {f"blocks_{i}": 0.0 for i in range(11)}
    params = {"encoder": blocks | dict.fromkeys(names, 0.0), "decoder": 0.0, "proj_head": 0.0}
    scales = optim.learning_rate_scales(
        params, head_lr_multiplier=10.0, projection_lr_multiplier=3.0, layer_lr_decay=0.5
    )
    encoder = scales.pop("encoder")
    assert scales == {"decoder": 10.0, "proj_head": 3.0}
    embedding = 0.5**12
    assert [encoder[name] for name in names] == [embedding, embedding, 0, 0.5**11, 0.5, 1]


def test_nothing_is_kept_for_the_encoder_of_the_image_head():
    params = {"head": jnp.ones(2), "img_encoder": {"w": jnp.ones(3)}}
    scales = optim.learning_rate_scales(
        params, head_lr_multiplier=1.0, projection_lr_multiplier=1.0
    )
    optimizer = optim.adamw(lambda _: 0.1, scales, weight_decay=0.5)
    state = optimizer.init(params)
    updates, state = optimizer.update(params, state, params, step=0)
    assert state[1].mu.keys() == state[1].nu.keys() == {"head"}
    np.testing.assert_allclose(updates["head"], -0.1 * (1 + 0.5), rtol=1e-4)
    np.testing.assert_array_equal(updates["img_encoder"]["w"], np.zeros(3))


def test_clipping_bounds_the_gradient():
    optimizer = optim.adamw(lambda _: 1.0, {"w": 1.0}, weight_decay=0.0, max_grad_norm=1.0)
    params = {"w": jnp.zeros(2)}
    _, state = optimizer.update(
        {"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params, step=0
    )
    np.testing.assert_allclose(state[1].mu["w"], [0.06, 0.08], rtol=1e-5)
