"""The projection heads and the teacher's momentum against the published implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_weights import probe, reference_state_dict

from toco_jax.config import defaults
from toco_jax.models.backbones import BACKBONES
from toco_jax.models.heads import ProjectionHead
from toco_jax.models.network import ToCo, normalize
from toco_jax.training import step
from toco_jax.weights import published


@pytest.fixture(scope="module")
def calls(golden):
    """Teacher parameters and outputs of two calls, the student's head scaled in between."""
    data = golden("proj")
    model = ToCo(BACKBONES["deit_tiny"], num_classes=20)
    params, teacher = published.params_from_reference(
        reference_state_dict(192, 12), backbone="deit_tiny", num_classes=20
    )

    @jax.jit
    def class_tokens(params, views):
        images = normalize(jnp.moveaxis(views, 2, -1))  # [V, B, H, W, 3]
        images = images.reshape(-1, *images.shape[2:])  # [V * B, H, W, 3]
        return model.apply({"params": params}, images, method="encode")["cls_token"]

    global_tokens = class_tokens(params, data["global_u8"])
    tokens = jnp.concatenate([global_tokens, class_tokens(params, data["local_u8"])])
    config = defaults()  # whose momentum is 0.9
    state = step.TrainState(0, params, {"proj_head": teacher}, None, None)
    results = []
    for _ in range(2):
        # The teacher moves first, then projects.
        state = dataclasses.replace(state, extra=step.moved_extra(config, state))
        student = model.apply({"params": state.params}, tokens, method="project")
        teacher_out = ProjectionHead().apply({"params": state.extra["proj_head"]}, global_tokens)
        results.append((state.extra["proj_head"], student, teacher_out))
        scaled = jax.tree.map(lambda x: 1.25 * x, state.params["proj_head"])
        state = dataclasses.replace(state, params=state.params | {"proj_head": scaled})
    return data, params, results


@pytest.mark.parametrize(("call", "suffix"), [(0, ""), (1, "_call2")])
def test_outputs_golden(calls, call, suffix):
    data, _, results = calls
    _, student, teacher = results[call]
    for field, value in ((f"output_s{suffix}", student), (f"output_t{suffix}", teacher)):
        atol = 10 * float(data[f"f32_maxabs/{field}"])
        np.testing.assert_allclose(value, data[field], rtol=0, atol=atol, err_msg=field)


def test_teacher_after_the_first_call_golden(calls):
    data, params, results = calls
    named = published.params_to_reference(params, results[0][0], backbone="deit_tiny")
    for i, name in enumerate(data["ema_names"].tolist()):
        value = named[name].astype(np.float64)
        found = {
            "ema_sum": value.sum(),
            "ema_l2": np.linalg.norm(value),
            "ema_probe": np.sum(value * probe(name, value.shape)),
        }
        for field, number in found.items():
            atol = 10 * float(data[f"f32_maxabs/{field}"])
            np.testing.assert_allclose(
                number, data[field][i], rtol=0, atol=atol, err_msg=f"{field} of {name}"
            )
    for field, name in (("ema_mlp0_bias", "mlp.0.bias"), ("ema_mlp4_bias", "mlp.4.bias")):
        value = named[f"proj_head_t.{name}"]
        atol = 10 * float(data[f"f32_maxabs/{field}"])
        np.testing.assert_allclose(value, data[field], rtol=0, atol=atol, err_msg=field)
