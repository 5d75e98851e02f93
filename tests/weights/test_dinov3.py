"""Files of DINOv3: its authors' and timm's names, what is announced, and what is refused."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.runtime.errors import MissingWeightsError, WeightsError
from toco_jax.weights import backbone_files, encoder_layouts, layouts, load, published, recognise
from toco_jax.weights.inspection import inspect

NAME = "width=8,depth=1,heads=2,patch=16,registers=4,layer_scale=1,rotary=1"
SMALL = NAME.replace(",rotary=1", "")
PLUS = f"{NAME},gated=1,mlp_ratio=6"
PERIODS = "rope_embed.periods"


def joined(name=NAME):
    """Random tensors of an encoder, under the names that all files come to."""
    rng = np.random.default_rng(0)
    sources = encoder_layouts.timm_encoder(backbone_from_name(name), 0)
    return {s.names[0]: rng.standard_normal(s.shape, np.float32) for s in sources.values()}


def authors(name=NAME):
    """The file of the authors."""
    out = joined(name)
    bias = out.pop("blocks.0.attn.qv_bias")
    out["blocks.0.attn.qkv.bias"] = np.concatenate([bias[:8], np.zeros(8, np.float32), bias[8:]])
    out["storage_tokens"] = out.pop("reg_token")
    out["mask_token"] = np.zeros((1, 8), np.float32)
    out[PERIODS] = np.ones(1, np.float32)
    return out


def timm(name=NAME):
    """The file of timm."""
    out = joined(name)
    bias = out.pop("blocks.0.attn.qv_bias")
    out["blocks.0.attn.q_bias"], out["blocks.0.attn.v_bias"] = np.split(bias, 2)
    for i in (1, 2):
        out[f"blocks.0.gamma_{i}"] = out.pop(f"blocks.0.ls{i}.gamma")
    if name == PLUS:
        for leaf in ("weight", "bias"):
            gate, value = np.split(out.pop(f"blocks.0.mlp.fc1.{leaf}"), 2)
            out |= {f"blocks.0.mlp.fc1_g.{leaf}": gate, f"blocks.0.mlp.fc1_x.{leaf}": value}
    return out


def read(tensors, name=NAME):
    return load.from_tensors(tensors, backbone=name, num_classes=3)


def assert_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found["params"], expected["params"])


@pytest.mark.parametrize(("file", "name"), [(authors, NAME), (timm, NAME), (timm, PLUS)])
def test_authors_and_timm_name_one_encoder(file, name):
    out = read(file(name), name)
    assert out["grid"] == 0 and "pos_embed" not in out["params"]["encoder"]
    bias = out["params"]["encoder"]["blocks_0"]["attn"]["qkv"]["bias"]
    np.testing.assert_array_equal(bias, joined(name)["blocks.0.attn.qv_bias"])
    assert out["pretraining"].startswith("DINOv3, or EUPE")


def test_biases_that_a_file_lacks_are_zero():
    without = {name: x for name, x in timm().items() if not name.endswith(("q_bias", "v_bias"))}
    out = read(without)
    bias = out["params"]["encoder"]["blocks_0"]["attn"]["qkv"]["bias"]
    np.testing.assert_array_equal(bias, np.zeros(16))
    zeros = {name: 0 * x if name.endswith("_bias") else x for name, x in timm().items()}
    assert_equal(out, read(zeros))


def test_the_norm_of_local_crops_is_dropped_by_name():
    more = {f"local_cls_norm.{leaf}": np.ones(8, np.float32) for leaf in ("weight", "bias")}
    out = read(authors() | more)
    assert any("local_cls_norm.weight (8,)" in note for note in out["notes"])
    assert_equal(out, read(authors()))


KEY_BIAS = {"blocks.0.attn.qkv.bias": np.ones(24, np.float32)}
NO_MASK = {"blocks.0.attn.qkv.bias_mask": np.ones(24, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (KEY_BIAS, r"blocks\.0\.attn\.qkv\.bias has a bias of keys"),
        (KEY_BIAS | NO_MASK, r"has a bias of keys, or its mask is not that of DINOv3"),
        (
            {"blocks.0.attn.qkv.bias": np.ones(16, np.float32)},
            r"1 tensors are missing: blocks\.0\.attn\.qv_bias",
        ),
        (
            {PERIODS: np.full(1, 2, np.float32)},
            r"goes from 2 to 2, and DINOv3's from 1 to 1: these",
        ),
        (
            {PERIODS: np.ones(2, np.float32)},
            r"has 2 entries, for heads of 8 channels, and .* have 4",
        ),
    ],
)
def test_what_is_not_dinov3_is_refused(change, message):
    with pytest.raises(WeightsError, match=message):
        read(authors() | change)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (SMALL, r"have rotary positions, the backbone .* a table of"),
        (SMALL.replace("registers=4,layer_scale=1", "registers=0"), r"have rotary positions"),
        (NAME.replace("registers=4", "registers=2"), r"have 4 register tokens, the backbone .* 2"),
        (PLUS, "have no gated layers"),
    ],
)
def test_another_backbone_is_refused(name, message):
    with pytest.raises(WeightsError, match=message):
        read(authors(), name)


def test_a_table_of_positions_is_not_rotary():
    state = joined(SMALL) | {"pos_embed": np.zeros((1, 5, 8), np.float32)}
    with pytest.raises(WeightsError, match=r"have a table of positions, the backbone .* rotary"):
        read(state)


def test_inspection_says_what_it_is(tmp_path):
    save_file(timm(PLUS), tmp_path / "weights")
    text = "\n".join(inspect(str(tmp_path / "weights")))
    assert "DINOv3, or EUPE, whose files look alike" in text
    assert "heads=N,registers=4,layer_scale=1,gated=1,rotary=1,mlp_ratio=6" in text
    assert "positions" not in text


@pytest.mark.parametrize("name", [name for name in BACKBONES if name.startswith("dinov3_")])
def test_named_backbones_are_told_by_their_sizes(name):
    spec = BACKBONES[name]
    state = {
        source.names[0]: np.broadcast_to(np.float32(0), source.shape)
        for source in encoder_layouts.timm_encoder(spec, 0).values()
    }
    assert backbone_files.backbones_of(backbone_files.sizes_of(state, "timm")) == [name]
    assert recognise.foreign(state) is None


def test_weights_of_dinov3_are_not_downloaded():
    with pytest.raises(MissingWeightsError, match=r"Accept their licence .* give the file as init"):
        load.load("dinov3_small", backbone="dinov3_small", num_classes=3)


def test_the_whole_network_goes_to_torch_and_back():
    sources = layouts.own(layouts.reference(backbone_from_name(PLUS), 0, 3, 4))
    rng = np.random.default_rng(0)
    paths = {path: rng.standard_normal(s.shape, np.float32) for path, s in sources.items()}
    params, teacher = published.nested(paths)
    state = published.params_to_reference(params, teacher, backbone=PLUS)
    assert state["encoder.blocks.0.attn.qv_bias"].shape == (16,)
    assert "encoder.pos_embed" not in state
    assert "rotary" in recognise.parts_of(state)
    back = published.params_from_reference(state, backbone=PLUS, num_classes=3, decoder_width=4)
    jax.tree.map(np.testing.assert_array_equal, back, (params, teacher))
