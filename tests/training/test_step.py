"""The training step: a published step replayed, and its structure on a tiny network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import channels_last
from reference_weights import probe, reference_state_dict

from toco_jax.config import ConfigError
from toco_jax.method import toco
from toco_jax.method.phases import phase_at
from toco_jax.models import network
from toco_jax.run.network import compute_of, make_model
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.training import step
from toco_jax.weights.published import params_from_reference, params_to_reference


def published_config(voc_config):
    config = voc_config("deit_tiny")
    config.crop_size = 224
    config.batch_size = 2
    config.as_published = True
    return config


def to_reference(params, teacher_params):
    """Our parameters under the reference's names and in its layouts, float64."""
    named = params_to_reference(params, teacher_params, backbone="deit_tiny")
    return {
        key: value.astype(np.float64)
        for key, value in named.items()
        if not key.endswith(("weight_g", "head.weight", "head.bias"))
    }


@pytest.fixture(scope="module")
def published(golden, voc_config):
    data = golden("train_step")
    config = published_config(voc_config)
    params, teacher = params_from_reference(
        reference_state_dict(192, 12), backbone="deit_tiny", num_classes=20
    )
    model = make_model(config, grid=14)
    batch = {
        "image": channels_last(data["inputs_u8"]),
        "view2": channels_last(data["crop1_u8"]),
        "local": channels_last(data["crop2_u8"]),
        "cls_label": data["cls_label"],
        "valid_box": data["img_box"].astype(np.int32),
    }
    return data, config, model, params, teacher, batch


def noise(data, field):
    return 10 * float(data[f"f32_maxabs/{field}"])


@pytest.fixture(scope="module")
def first(published):
    """What the losses of the first published step are made from."""
    data, config, model, params, teacher, batch = published
    loss_fn = toco.make_loss_fn(config, model, phase_at(config, 2500), num_present=7)

    @jax.jit
    def aux_of(state, batch, origins):
        extra = step.moved_extra(config, state)
        keys = jax.random.split(jax.random.key(0), 2)
        batch = batch | {"crop_origins": origins}
        return loss_fn(state.params, extra, keys, batch)[1]

    state = step.init_state(config, params, teacher)
    return aux_of(state, batch, data["crop_index"].astype(np.int32))


@pytest.fixture(scope="module")
def replay(published):
    """Terms, and parameters, teacher head and first moments after each of three published steps by
    the real step.
    """
    data, config, model, params, teacher, batch = published
    mesh = make_mesh(1)
    train_step = step.make_train_step(config, model, mesh, phase_at(config, 2500), num_present=7)
    state = dataclasses.replace(step.init_state(config, params, teacher), step=jnp.int32(2500))
    state, batch = step.place_state(config, state, mesh), shard_batch(batch, mesh)
    steps = []
    for _ in range(3):
        state, terms = train_step(state, batch, data["crop_index"].astype(np.int32))
        # On the host, as the next step takes the state's memory.
        moments = state.opt_state[1].mu
        steps.append(jax.device_get((terms, state.params, state.extra["proj_head"], moments)))
    return steps


def test_attention_by_cudnn_without_a_gpu(voc_config):
    config = voc_config("deit_tiny")
    config.machine.attention = "cudnn"
    with pytest.raises(ConfigError, match=r"attention='cudnn' needs a GPU .* float32 on a cpu"):
        make_model(config, grid=14)


def test_low_memory_by_default_is_for_large_encoders_on_a_cpu(voc_config):
    def of(variant, size, low_memory="auto", platform="cpu"):
        config = voc_config(variant)
        config.update(backbone=variant, crop_size=size, machine={"low_memory": low_memory})
        compute = compute_of(config, platform)
        return compute.in_parts, compute.remat

    assert of("deit_tiny", 224) == (True, False)
    assert of("vit_base", 448) == (True, True)
    assert of("deit_tiny", 224, "on") == (True, True)
    assert of("vit_base", 448, "off") == (False, False)
    assert of("vit_base", 448, platform="gpu") == (False, False)
    assert of("deit_tiny", 224, "on", platform="gpu") == (True, True)


def test_class_maps_of_one_image_at_a_time(tiny_config, monkeypatch):
    config = tiny_config(**{"machine.low_memory": "on", "cam_scales": (1.0, 0.5)})
    model = make_model(config, grid=4)
    params = step.init_params(model, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    call, numbers = network.call, set()

    def recorded(model, params, method, images):
        numbers.add(len(images))
        return call(model, params, method, images)

    def maps(patches_at_once):
        numbers.clear()
        monkeypatch.setattr(network, "PATCHES_AT_ONCE", patches_at_once)
        result = jax.jit(lambda p, x: network.frozen_cams(model, p)(x))(params, images)
        return result, set(numbers)

    monkeypatch.setattr(network, "call", recorded)
    together, all_at_once = maps(4096)
    apart, one_at_a_time = maps(16)
    assert (all_at_once, one_at_a_time) == ({2}, {1})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), together, apart)


def test_intermediates_golden(published, first):
    data, aux = published[0], first
    for term, value in aux["terms"].items():
        np.testing.assert_allclose(value, data[f"loss/{term}"], rtol=0, atol=1e-5, err_msg=term)
    np.testing.assert_array_equal(aux["roi_mask"], data["roi_mask"])
    np.testing.assert_array_equal(aux["pseudo_label"], data["refined_pseudo_label"])
    np.testing.assert_array_equal(aux["pseudo_label_aux"], data["pseudo_label_aux"])
    np.testing.assert_array_equal(aux["positive"], data["flags"])
    present = data["present_class"]
    place = np.argmax(aux["class_ids"] == present[:, None], axis=1)
    of_present = np.s_[np.arange(2), ::2, ::2, place]
    expected = {
        "cls": aux["cls_logits"],
        "cls_aux": aux["aux_cls_logits"],
        "segs": np.moveaxis(aux["seg_logits"], -1, 1),
        "out_t": aux["teacher"].reshape(4, -1),
        "out_s": aux["student"].reshape(20, -1),
        "cam_present": np.asarray(aux["full_cam"])[of_present],
        "cam_aux_present": np.asarray(aux["full_aux_cam"])[of_present],
    }
    for field, value in expected.items():
        np.testing.assert_allclose(
            value, data[field], rtol=0, atol=noise(data, field), err_msg=field
        )


def test_gradients_golden(published, replay):
    data = published[0]
    # Adam's first moment begins at 0, and nothing is clipped.
    grads = jax.tree.map(lambda moment: moment / np.float32(0.1), replay[0][3])
    ours = to_reference(grads, grads["proj_head"])
    compared = 0
    for name, is_none, norm, projection in zip(
        *(data[f] for f in ("param_names", "grad_is_none", "grad_l2", "grad_probe")), strict=True
    ):
        key = str(name)
        if is_none:
            continue
        grad = ours[key]
        np.testing.assert_allclose(
            np.linalg.norm(grad), norm, rtol=0, atol=noise(data, "grad_l2"), err_msg=key
        )
        np.testing.assert_allclose(
            np.sum(grad * probe(key, grad.shape)),
            projection,
            rtol=0,
            atol=noise(data, "grad_probe"),
            err_msg=key,
        )
        if f"grad/{key}" in data:
            np.testing.assert_allclose(
                grad,
                data[f"grad/{key}"],
                rtol=0,
                atol=noise(data, f"grad/{key}"),
                err_msg=key,
            )
        compared += 1
    assert compared == 161


def test_three_iterations_golden(published, replay):
    data = published[0]
    names = [str(name) for name in data["loss_names"]]
    for i, (terms, *_) in enumerate(replay):
        np.testing.assert_allclose(
            [float(terms[name]) for name in names],
            data["losses_iter0_1_2"][i],
            rtol=0,
            atol=1e-5 if i == 0 else noise(data, "losses_iter0_1_2"),
            err_msg=f"iteration {i}",
        )


def test_parameters_after_a_step_golden(published, replay):
    data, _, _, params, teacher, _ = published
    before = to_reference(params, teacher)
    after = to_reference(*replay[0][1:3])
    fields = ("param_names", "after_l2", "after_probe", "delta_l2", "delta_probe")
    compared = 0
    for name, l2, projection, delta_l2, delta_projection in zip(
        *(data[f] for f in fields), strict=True
    ):
        key = str(name)
        if key not in after:
            continue
        direction = probe(key, after[key].shape)
        delta = after[key] - before[key]
        found = {
            "after_l2": (np.linalg.norm(after[key]), l2),
            "after_probe": (np.sum(after[key] * direction), projection),
            "delta_l2": (np.linalg.norm(delta), delta_l2),
            "delta_probe": (np.sum(delta * direction), delta_projection),
        }
        for field, (value, expected) in found.items():
            np.testing.assert_allclose(
                value, expected, rtol=0, atol=noise(data, field), err_msg=f"{field} of {key}"
            )
        if f"after/{key}" in data:
            np.testing.assert_allclose(
                after[key], data[f"after/{key}"], rtol=0, atol=noise(data, f"after/{key}")
            )
        compared += 1
    assert compared == 169
