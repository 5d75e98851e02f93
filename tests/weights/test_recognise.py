"""What weights are, told by content: each look-alike by its name, or all that are possible."""

import json

import numpy as np
import pytest
from reference_weights import reference_shapes
from safetensors.numpy import save_file
from weight_formats import timm_state, transformers_state

from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import backbone_files, load, recognise
from toco_jax.weights.inspection import inspect

WIDTH, DEPTH = 8, 2
SMALL = f"width={WIDTH},depth={DEPTH},heads=2,patch=14"


def vit(*, grid=14, patch=14, head=1000):
    """A small ViT in timm's layout; no head for `head=0`."""
    shapes = reference_shapes(WIDTH, DEPTH, patch=patch, grid=grid)
    generator = np.random.default_rng(0)
    state = {k: generator.standard_normal(s, dtype=np.float32) for k, s in shapes.items()}
    state = {k: np.ascontiguousarray(v) for k, v in timm_state(state).items()}
    state = {k: v for k, v in state.items() if not k.startswith("head.")}
    if head:
        state["head.weight"] = np.zeros((head, WIDTH), np.float32)
        state["head.bias"] = np.zeros(head, np.float32)
    return state


def scales(names=("ls1.gamma", "ls2.gamma")):
    return {
        f"blocks.{i}.{name}": np.full(WIDTH, 0.5, np.float32) for i in range(2) for name in names
    }


def zeros(*shape):
    return np.zeros(shape, np.float32)


def without_class_position(state):
    return state | {"pos_embed": np.ascontiguousarray(state["pos_embed"][:, 1:])}


def sine_cosine(state):
    positions = zeros(1, 14 * 14 + 1, WIDTH)
    angle = np.arange(14 * 14)[:, None] * np.array([1.0, 0.01])
    positions[0, 1:] = np.tile(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), 2)
    return state | {"pos_embed": positions}


ALIKE = {
    "dinov2": (vit(grid=37, head=0) | scales() | {"mask_token": zeros(1, WIDTH)}, "DINOv2"),
    "dinov2_timm": (vit(grid=37, head=0) | scales(), "DINOv2"),
    "dinov2_reg": (
        vit(grid=37, head=0) | scales() | {"reg_token": zeros(1, 4, WIDTH)},
        "DINOv2 with registers",
    ),
    "dinov2_resized": (vit(grid=16, head=0) | scales(), "DINOv2, or an encoder made from it"),
    "deit_3": (without_class_position(vit(patch=16) | scales(("gamma_1", "gamma_2"))), "DeiT III"),
    "deit_3_timm": (without_class_position(vit(patch=16) | scales()), "DeiT III"),
    "deit_3_huge": (without_class_position(vit(grid=16) | scales()), "DeiT III"),
    "scaled": (vit(patch=16) | scales(), "DeiT III, or another ViT with layer scales"),
    "scaled_without_head": (
        vit(patch=16, head=0) | scales(),
        "a ViT with layer scales and without classes: DINOv2 or DeiT III",
    ),
    "mae": (
        sine_cosine(vit(patch=16, head=0)),
        "no classes and sine-cosine positions: MAE or MoCo v3, whose files look alike",
    ),
    "mae_decoder": (
        vit(patch=16, head=0)
        | {"mask_token": zeros(1, 1, 5), "decoder_pos_embed": zeros(1, 197, 5)}
        | {"decoder_pred.weight": zeros(3, 5), "decoder_blocks.0.norm1.bias": zeros(5)},
        "MAE with its decoder",
    ),
    "dino": (
        vit(patch=16, head=0),
        "no classes: self-supervision (DINO, iBOT, MSN) or ImageNet-21k without its head, whose "
        "files look alike",
    ),
    "in21k": (
        vit(patch=16, head=21843),
        "trained on 21843 classes: ImageNet-21k only (augreg, as they lack the original's "
        "pre_logits layer)",
    ),
}


def test_sine_cosine_positions_have_none_for_the_class_token():
    state = sine_cosine(vit(patch=16, head=0))
    learnt = state | {"pos_embed": state["pos_embed"].copy()}
    learnt["pos_embed"][:, 0] = 1
    assert "sine-cosine" in recognise.pretraining(state, "timm")
    assert "sine-cosine" not in recognise.pretraining(learnt, "timm")
    empty = state | {"pos_embed": state["pos_embed"][:, :1]}
    assert "sine-cosine" not in recognise.pretraining(empty, "timm")


def test_two_tensors_are_named_without_more():
    known, _ = recognise.foreign({"fc_norm.weight": zeros(1), "fc_norm.bias": zeros(1)})
    assert known.endswith("(fc_norm.bias, fc_norm.weight)")


def test_scales_of_another_width_are_refused():
    state = vit(patch=16) | scales()
    state["blocks.0.ls1.gamma"] = zeros(5)
    message = r"blocks\.0\.ls1\.gamma is \(5,\), but blocks\.0\.attn\.proj\.weight is \(8, 8\)"
    with pytest.raises(WeightsError, match=message):
        load.from_tensors(state, backbone="width=8,depth=2,heads=2,patch=16", num_classes=20)


def test_backbones_are_named_by_their_sizes():
    sizes = {"width": 192, "depth": 12, "patch": 16}
    assert backbone_files.backbones_of(sizes) == ["deit_tiny", "augreg_tiny"]
    assert backbone_files.backbones_of(sizes | {"depth": 11}) == []


@pytest.mark.parametrize("name", ALIKE)
def test_look_alikes(tmp_path, name):
    state, what = ALIKE[name]
    save_file(state, tmp_path / "weights")
    said = f"{what}, not the published initialisation"
    patch = state["patch_embed.proj.weight"].shape[-1]
    backbone = SMALL.replace("patch=14", f"patch={patch}")
    if name == "dinov2_reg":
        backbone += ",registers=4"
    out = load.load(str(tmp_path / "weights"), backbone=backbone, num_classes=20)
    assert out["notes"][1] == f"these weights are: {said}"
    assert out["origin"]["weights"] == said
    lines = inspect(str(tmp_path / "weights"))
    assert f"weights    {said}" in lines
    assert f"{'layout':<10} ViT backbone (timm layout)" in lines
    assert f"patch={patch},heads=N" in "\n".join(lines)


def test_the_usual_head_names_all_that_have_it(tmp_path):
    save_file(vit(patch=16), tmp_path / "weights")
    backbone = SMALL.replace("patch=14", "patch=16")
    notes = load.load(str(tmp_path / "weights"), backbone=backbone, num_classes=20)["notes"]
    assert "ImageNet-1k: DeiT, the original ViT or augreg, whose files look alike" in notes[1]


def test_transformers_layout_is_told_too():
    plain = transformers_state(vit(patch=16), "")
    bare = {k: v for k, v in plain.items() if not k.startswith("classifier.")}
    assert "no classes: self-supervision" in recognise.pretraining(bare, "transformers")
    mae = transformers_state(sine_cosine(vit(patch=16)), "")
    bare = {k: v for k, v in mae.items() if not k.startswith("classifier.")}
    assert "MAE or MoCo v3" in recognise.pretraining(bare, "transformers")


def test_dinov2_is_the_same_function(tmp_path):
    """Its scales are folded in; its mask token, of the pre-training alone, is dropped by name."""
    state = ALIKE["dinov2"][0]
    save_file(state, tmp_path / "weights")
    out = load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)
    assert out["grid"] == 37 and any("mask_token (1, 8)" in note for note in out["notes"])
    block = out["params"]["encoder"]["blocks_1"]
    np.testing.assert_array_equal(
        block["attn"]["proj"]["kernel"], 0.5 * state["blocks.1.attn.proj.weight"].T
    )
    np.testing.assert_array_equal(out["params"]["encoder"]["pos_embed"], state["pos_embed"])


@pytest.mark.parametrize(
    ("kind", "backbone", "message"),
    [
        ("dinov2_reg", SMALL, "have 4 register tokens, the backbone .* has 0: set backbone to"),
        ("dinov2", f"{SMALL},registers=4", "have 0 register tokens, the backbone .* has 4: set"),
        ("dino", SMALL.replace("14", "16,layer_scale=1"), "have no layer scales, the backbone"),
        ("dinov2", f"{SMALL},gated=1", "have no gated layers .* has them: set backbone"),
    ],
)
def test_a_file_with_other_parts_than_the_backbone(tmp_path, kind, backbone, message):
    save_file(ALIKE[kind][0], tmp_path / "weights")
    with pytest.raises(WeightsError, match=message):
        load.load(str(tmp_path / "weights"), backbone=backbone, num_classes=20)


def test_inspection_names_the_backbone_with_its_parts(tmp_path):
    for kind, ending in (("dinov2_reg", "heads=N,registers=4,layer_scale=1"), ("dino", "heads=N")):
        save_file(ALIKE[kind][0], tmp_path / "weights")
        assert f"{ending})" in "\n".join(inspect(str(tmp_path / "weights")))
    sizes = {"width": 384, "depth": 12, "patch": 14, "registers": 4, "layer_scale": 1}
    assert backbone_files.backbones_of(sizes) == ["dinov2_small_reg"]


@pytest.mark.parametrize(
    ("extra", "first"),
    [
        ("register_tokens", "dinov2_reg"),
        ("blocks.0.gamma_1", "dinov2"),
        ("blocks.0.mlp.w3.bias", "mae"),
    ],
)
def test_a_part_under_two_names_is_refused(extra, first):
    state = ALIKE[first][0] | {extra: zeros(1, 4, WIDTH)}
    with pytest.raises(WeightsError, match=f"{extra} and .* are the same part: the file has it"):
        load.from_tensors(state, backbone=SMALL, num_classes=3)


def test_registers_without_positions_are_not_dinov3_without_its_other_parts():
    known, why = recognise.foreign(
        {"embeddings.cls_token": zeros(1, 1, 8), "embeddings.register_tokens": zeros(1, 4, 8)}
    )
    assert known.startswith("a ViT with registers, but not DINOv3,") and "take DINOv2" in why


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("storage_tokens", "a relative of DINOv3 (storage_tokens), which has rotary positions"),
        ("norm_pre.weight", "the image encoder of CLIP (norm_pre.weight), which normalises"),
        ("blocks.0.attn.q_bias", "BEiT or EVA (blocks.0.attn.q_bias)"),
        ("blocks.0.mlp.fc1_g.weight", "EVA-02 (blocks.0.mlp.fc1_g.weight)"),
        ("blocks.0.attn.rel_pos_h", "the encoder of SAM"),
        ("fc_norm.weight", "a ViT that pools over its patches"),
        ("dist_token", "a distilled DeiT (dist_token)"),
    ],
)
def test_what_the_network_has_no_place_for(tmp_path, extra, what):
    save_file(vit(grid=37, head=0) | scales() | {extra: zeros(1, 4, WIDTH)}, tmp_path / "weights")
    with pytest.raises(WeightsError) as refused:
        load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)
    assert f"these are weights of {what}" in str(refused.value)
    assert ": take " in str(refused.value)
    text = "\n".join(inspect(str(tmp_path / "weights")))
    assert f"these are weights of {what}" in text and "width 8, depth 2, patch 14" in text


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("vision_model.embeddings.class_embedding", "CLIP"),
        ("visual.class_embedding", "CLIP"),
        ("layers.0.blocks.0.attn.relative_position_bias_table", "Swin Transformer"),
        ("layer1.0.conv1.weight", "ResNet"),
        ("blocks.0.attn.qkv.weight", "a ViT without class token"),
    ],
)
def test_other_networks_are_named(tmp_path, name, what):
    save_file({name: zeros(3)}, tmp_path / "weights")
    with pytest.raises(WeightsError, match=f"these look like weights of {what}"):
        load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)
    assert f"weights of {what}" in inspect(str(tmp_path / "weights"))[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_by_tensor_and_file(tmp_path, value):
    state = vit(patch=16)
    state["blocks.1.mlp.fc2.bias"][3] = value
    path = tmp_path / "weights"
    save_file(state, path)
    backbone = SMALL.replace("patch=14", "patch=16")
    with pytest.raises(WeightsError) as refused:
        load.load(str(path), backbone=backbone, num_classes=20)
    said = "1 tensors hold NaN or infinite numbers: blocks.1.mlp.fc2.bias (1 values)"
    assert str(path) in str(refused.value) and said in str(refused.value)
    assert any("blocks.1.mlp.fc2.bias holds NaN" in line for line in inspect(str(path)))


def model_folder(path, state, **about):
    path.mkdir()
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"model_type": "vit"} | about))
    return path


def test_a_model_folder_of_hugging_face_is_read(tmp_path):
    state = transformers_state(vit(patch=16))
    folder = model_folder(tmp_path / "vit-base", state, num_attention_heads=2)
    backbone = SMALL.replace("patch=14", "patch=16")
    sizes = {"backbone": backbone, "num_classes": 20}
    out = load.load(str(folder), **sizes)
    file = load.load(str(folder / "model.safetensors"), **sizes)
    assert out["notes"] == file["notes"] and out["origin"]["path"].endswith("model.safetensors")
    np.testing.assert_array_equal(
        out["params"]["encoder"]["pos_embed"], file["params"]["encoder"]["pos_embed"]
    )
    assert "Hugging Face transformers layout" in "\n".join(inspect(str(folder)))
    with pytest.raises(WeightsError, match=r"config\.json says 2 attention heads, 'width=8"):
        load.load(str(folder), backbone=backbone.replace("heads=2", "heads=4"), num_classes=20)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors.index.json", "holds its weights as .*index.json, which is not read"),
        ("tf_model.h5", r"holds its weights as tf_model\.h5, which is not read"),
        ("README.md", "is a Hugging Face model folder without weights .*: download them too"),
    ],
)
def test_a_model_folder_without_a_file_that_is_read(tmp_path, name, message):
    folder = model_folder(tmp_path / "vit", vit())
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(WeightsError, match=message):
        load.load(str(folder), backbone=SMALL, num_classes=20)
