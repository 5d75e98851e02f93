"""The network against the outputs of the published implementation."""

import jax
import numpy as np
import pytest
from channels import channels_first, channels_last
from reference_weights import reference_state_dict

from toco_jax.models.backbones import BACKBONES
from toco_jax.models.network import ToCo, normalize
from toco_jax.weights.published import params_from_reference


def build(backbone):
    spec = BACKBONES[backbone]
    state_dict = reference_state_dict(spec.width, spec.depth)
    params, teacher = params_from_reference(state_dict, backbone=backbone, num_classes=20)
    return ToCo(spec, num_classes=20), params, teacher, state_dict


@pytest.fixture(scope="module")
def deit_tiny():
    return build("deit_tiny")


def test_weight_rule(golden, deit_tiny):
    data = golden("forward_deit_tiny_patch16_224")
    state_dict = deit_tiny[3]
    assert sorted(data["state_dict_keys"].tolist()) == sorted(state_dict)
    for key, norm, total in zip(
        data["state_dict_keys"], data["state_dict_l2"], data["state_dict_sum"], strict=True
    ):
        value = state_dict[str(key)].astype(np.float64)
        np.testing.assert_allclose(np.sqrt((value**2).sum()), norm, rtol=1e-6)
        np.testing.assert_allclose(value.sum(), total, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize(("size", "stride"), [("s224", 2), ("s448", 8), ("s224x320", 4)])
def test_deit_tiny(golden, deit_tiny, size, stride):
    data = golden("forward_deit_tiny_patch16_224")
    model, params, _, _ = deit_tiny
    image = channels_last(data[f"{size}/image_u8"])

    @jax.jit
    def forward(params, image):
        image = normalize(image)
        embed = model.apply({"params": params}, image, method=lambda m, x: m.encoder.embed(x))
        return model.apply({"params": params}, image) | {"tokens_in": embed}

    out = forward(params, image)
    expected = {
        "tokens_in": out["tokens_in"][:, ::stride],
        "patch_tokens": out["patch_tokens"][:, ::stride],
        "aux_tokens": out["aux_patch_tokens"][:, ::stride],
        "cls_token": out["cls_token"],
        "cls": out["cls_logits"],
        "cls_aux": out["aux_cls_logits"],
        "seg": channels_first(out["seg_logits"]),
        "cam": channels_first(out["cam"]),
        "cam_aux": channels_first(out["aux_cam"]),
    }
    for field, value in expected.items():
        noise = float(data[f"f32_maxabs/{size}/{field}"])
        np.testing.assert_allclose(
            value, data[f"{size}/{field}"], rtol=0, atol=10 * noise, err_msg=field
        )


def test_vit_base(golden):
    data = golden("forward_vit_base_patch16_224")
    model, params, _, _ = build("vit_base")
    image = channels_last(data["image_u8"])
    out = jax.jit(lambda p, x: model.apply({"params": p}, normalize(x)))(params, image)
    selected = data["patch_idx"]
    expected = {
        "cls_token": out["cls_token"],
        "patch_tokens_sel": out["patch_tokens"][:, selected],
        "aux_tokens_sel": out["aux_patch_tokens"][:, selected],
        "cls": out["cls_logits"],
        "cls_aux": out["aux_cls_logits"],
        "seg": channels_first(out["seg_logits"]),
    }
    for field, value in expected.items():
        noise = float(data[f"f32_maxabs/{field}"])
        np.testing.assert_allclose(value, data[field], rtol=0, atol=10 * noise, err_msg=field)
