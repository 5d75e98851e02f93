"""Encoders of other libraries, with random weights, compute the same here.

Width, depth and image are small; names and shapes are those that the libraries write.
"""

import functools
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.models.network import IMAGE_MEAN, normalize
from toco_jax.models.vit import ViT
from toco_jax.weights import backbone_files, download, load

torch = pytest.importorskip("torch")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
GRID = 5  # of the stored positions
KINDS = {
    "dinov2": "patch=14,layer_scale=1",
    "dinov2_reg": "patch=14,layer_scale=1,registers=4",
    "dinov2_gated": "patch=14,layer_scale=1,gated=1",
    "dino": "patch=16",
    "dino_8": "patch=8",
    "mae": "patch=16",
    "deit3": "patch=16,layer_scale=1",
    "dinov3": "patch=16,layer_scale=1,registers=4,rotary=1",
    "dinov3_plus": "patch=16,layer_scale=1,registers=4,rotary=1,gated=1,mlp_ratio=6",
}


def backbone(kind):
    return f"width=32,depth=2,heads=2,{KINDS[kind]}"


def randomised(model):
    """Every parameter drawn at a size at which each part of the network shows in its output."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            spread = 0.5 if value.ndim == 3 else value[0].numel() ** -0.5 if value.ndim > 1 else 0.3
            value.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
    return model.eval()


def transformers_model(kind):
    transformers = pytest.importorskip("transformers")
    side = GRID * backbone_from_name(backbone(kind)).patch
    sizes = SIZES | {"image_size": side, "patch_size": backbone_from_name(backbone(kind)).patch}
    sizes["layer_norm_eps"] = 1e-6
    if kind in ("dinov2", "dinov2_gated"):
        sizes["use_swiglu_ffn"] = kind == "dinov2_gated"
        return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    if kind == "dinov2_reg":
        config = transformers.Dinov2WithRegistersConfig(**sizes)
        return transformers.Dinov2WithRegistersModel(config)
    sizes["intermediate_size"] = 128
    if kind.startswith("dinov3"):
        more = {"num_register_tokens": 4}
        if kind == "dinov3_plus":
            more |= {"use_gated_mlp": True, "hidden_act": "silu"}
        config = transformers.DINOv3ViTConfig(**sizes | more | {"layer_norm_eps": 1e-5})
        return transformers.DINOv3ViTModel(config)
    if kind == "mae":
        decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
        decoder |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 32}
        config = transformers.ViTMAEConfig(**sizes, **decoder, mask_ratio=0.0)
        return transformers.ViTMAEForPreTraining(config)
    return transformers.ViTModel(transformers.ViTConfig(**sizes))


def timm_dinov3(kind):
    eva = pytest.importorskip("timm.models.eva")
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 16, "num_classes": 0}
    sizes |= {"img_size": GRID * 16, "dynamic_img_size": True, "num_reg_tokens": 4}
    sizes |= {"init_values": 1e-5, "use_abs_pos_emb": False, "use_fc_norm": False}
    sizes |= {"use_rot_pos_emb": True, "rope_type": "dinov3", "rope_temperature": 100}
    sizes |= {"rope_rotate_half": True, "swiglu_mlp": kind == "dinov3_plus", "swiglu_align_to": 8}
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    return eva.Eva(**sizes, norm_layer=norm, qkv_bias=kind == "dinov3_plus")


def timm_model(kind):
    if kind.startswith("dinov3"):
        return timm_dinov3(kind)
    models = pytest.importorskip("timm.models.vision_transformer")
    spec = backbone_from_name(backbone(kind))
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": spec.patch}
    sizes |= {"img_size": GRID * spec.patch, "num_classes": 0, "dynamic_img_size": True}
    sizes |= {"init_values": 1e-5 if spec.layer_scale else None, "reg_tokens": spec.registers}
    if spec.gated:
        sizes |= {
            "mlp_ratio": spec.hidden / 32,
            "mlp_layer": pytest.importorskip("timm.layers").SwiGLUPacked,
        }
        sizes["act_layer"] = torch.nn.SiLU
    return models.VisionTransformer(**sizes, no_embed_class=kind in ("dinov2_reg", "deit3"))


@functools.cache
def original(library, kind):
    return randomised({"timm": timm_model, "transformers": transformers_model}[library](kind))


def saved(library, kind, folder):
    model = original(library, kind)
    if library == "transformers":
        model.save_pretrained(folder)
    else:
        tensors = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
    return folder / "model.safetensors"


def tokens(library, kind, images):
    """Class token, then patches, after the last norm."""
    model = original(library, kind)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if library == "timm":
            out = model.forward_features(pixels).numpy()
        else:
            out = getattr(model, "vit", model)(pixels, **arguments(kind, pixels))
            out = out.last_hidden_state.numpy()
    leading = backbone_from_name(backbone(kind)).num_leading
    return out[:, 0], out[:, leading:]


def arguments(kind, pixels):
    if kind.startswith(("dinov2", "dinov3")):
        return {}
    if kind != "mae":
        return {"interpolate_pos_encoding": True}
    # MAE sorts patches by this noise before it masks none of them.
    num_patches = pixels.shape[2] * pixels.shape[3] // 16**2
    return {"interpolate_pos_encoding": True, "noise": torch.arange(1.0 * num_patches).repeat(2, 1)}


def images(kind, rows, columns):
    patch = backbone_from_name(backbone(kind)).patch
    size = (2, rows * patch, columns * patch, 3)
    return np.random.default_rng(0).standard_normal(size, np.float32)


def assert_same(params, name, pixels, expected, grid=GRID):
    encoder = ViT(backbone_from_name(name), grid)
    out = jax.jit(lambda p, x: encoder.apply({"params": p}, x, blocks=()))(params, pixels)
    cls_token, patch_tokens = expected
    assert np.abs(patch_tokens).max() > 1
    np.testing.assert_allclose(out["cls_token"], cls_token, atol=2e-5)
    np.testing.assert_allclose(out["patch_tokens"], patch_tokens, atol=2e-5)


CASES = [("timm", kind) for kind in KINDS]
CASES += [("transformers", kind) for kind in KINDS if kind != "deit3"]


# The stored grid, and a grid with fewer rows and more columns.
@pytest.mark.parametrize("size", [(GRID, GRID), (3, 8)])
@pytest.mark.parametrize(("library", "kind"), CASES)
def test_the_same_function(tmp_path, monkeypatch, library, kind, size):
    if library == "timm" and not kind.endswith("_reg"):
        # timm resizes the positions of all models with antialiasing, the authors only those.
        models = pytest.importorskip("timm.models.vision_transformer")
        as_published = functools.partial(models.resample_abs_pos_embed, antialias=False)
        monkeypatch.setattr(models, "resample_abs_pos_embed", as_published)
    file = saved(library, kind, tmp_path)
    out = load.load(str(file), backbone=backbone(kind), num_classes=3)
    pixels = images(kind, *size)
    assert_same(out["params"]["encoder"], backbone(kind), pixels, tokens(library, kind, pixels))


AUTHORS_NAMES = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.": "",
    "encoder.layer": "blocks",
    "layernorm": "norm",
    "attention.attention.query": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "layer_scale": "ls",
    ".lambda1": ".gamma",
    "weights_in": "w12",
    "weights_out": "w3",
}


def authors_state(state):
    """The tensors of transformers' DINOv2 as in the files of its authors."""
    out = {}
    for name, value in state.items():
        if "attention.key" in name or "attention.value" in name:
            continue
        theirs = name
        for old, new in AUTHORS_NAMES.items():
            theirs = theirs.replace(old, new)
        parts = (name.replace("query", part) for part in ("query", "key", "value"))
        is_query = "attention.query" in name
        out[theirs] = np.concatenate([state[part] for part in parts]) if is_query else value
    return out


DINOV3_NAMES = {
    "embeddings.patch_embeddings": "patch_embed.proj",
    "embeddings.register_tokens": "storage_tokens",
    "embeddings.": "",
    "layer.": "blocks.",
    "attention.q_proj": "attn.qkv",
    "attention.o_proj": "attn.proj",
    "layer_scale": "ls",
    ".lambda1": ".gamma",
}
GATED_NAMES = {"gate_proj": "w1", "up_proj": "w2", "down_proj": "w3"}
PLAIN_NAMES = {"up_proj": "fc1", "down_proj": "fc2"}


def authors_dinov3(state):
    """The tensors of transformers' DINOv3 as in the files of its authors."""
    out = {"rope_embed.periods": np.float32(100.0 ** (np.arange(4) / 4))}
    names = GATED_NAMES if "layer.0.mlp.gate_proj.weight" in state else PLAIN_NAMES
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        theirs = name
        for old, new in (DINOV3_NAMES | names).items():
            theirs = theirs.replace(old, new)
        if "q_proj" not in name:
            out[theirs] = value
            continue
        # Keys have a bias in these files, which a mask takes away.
        parts = [name.replace("q_proj", f"{part}_proj") for part in "qkv"]
        arrays = [state.get(part, np.full(32, 7, np.float32)) for part in parts]
        out[theirs] = np.concatenate(arrays)
        if name.endswith("bias"):
            out[f"{theirs}_mask"] = np.repeat(np.float32([1, 0, 1]), 32)
    return out


@pytest.mark.parametrize("kind", ["dinov3", "dinov3_plus"])
def test_files_of_dinov3_authors(tmp_path, kind):
    theirs = load_file(saved("transformers", kind, tmp_path))
    state = authors_dinov3(theirs)
    assert {"storage_tokens", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.bias_mask"} <= state.keys()
    sizes = {"backbone": backbone(kind), "num_classes": 3}
    found, expected = (load.from_tensors(x, **sizes) for x in (state, theirs))
    jax.tree.map(np.testing.assert_array_equal, found["params"], expected["params"])
    wrapped = {re.sub(r"^layer\.", "model.layer.", name): x for name, x in theirs.items()}
    found = load.from_tensors(wrapped, **sizes)
    jax.tree.map(np.testing.assert_array_equal, found["params"], expected["params"])


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_reg", "dinov2_gated"])
def test_files_of_the_authors(tmp_path, kind):
    state = authors_state(load_file(saved("transformers", kind, tmp_path)))
    assert {"mask_token", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.bias"} <= state.keys()
    save_file(state, tmp_path / "weights")
    out = load.load(str(tmp_path / "weights"), backbone=backbone(kind), num_classes=3)
    pixels = images(kind, 3, 8)
    expected = tokens("transformers", kind, pixels)
    assert_same(out["params"]["encoder"], backbone(kind), pixels, expected)


def test_the_encoder_inside_a_classifier_of_transformers(tmp_path):
    name = backbone("dinov2")
    alone = load_file(saved("transformers", "dinov2", tmp_path))
    inside = {f"dinov2.{key}": value for key, value in alone.items()}
    inside["classifier.weight"] = np.zeros((1000, 64), np.float32)
    expected, found = (
        load.from_tensors(tensors, backbone=name, num_classes=3) for tensors in (alone, inside)
    )
    jax.tree.map(np.testing.assert_array_equal, found["params"], expected["params"])
    assert any("dinov2.embeddings.mask_token (1, 32)" in note for note in found["notes"])


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_backbone_without_layer_scales_takes_them_in_its_weights(tmp_path, library):
    name = "width=32,depth=2,heads=2,patch=14"
    out = load.load(str(saved(library, "dinov2", tmp_path)), backbone=name, num_classes=3)
    assert "their layer scales were multiplied into the weights" in out["notes"]
    pixels = images("dinov2", GRID, GRID)
    assert_same(out["params"]["encoder"], name, pixels, tokens(library, "dinov2", pixels))


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_half_colours_are_converted(tmp_path, library):
    """The original sees colours in [-1, 1], ours the same colours as ImageNet's are normalised."""
    name = f"{backbone('dino')},half_colours=1"
    out = load.load(str(saved(library, "dino", tmp_path)), backbone=name, num_classes=3)
    assert any("was converted to ImageNet's colours" in note for note in out["notes"])
    size = images("dino", GRID, GRID).shape
    photos = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    expected = tokens(library, "dino", np.float32(photos / 127.5 - 1))
    assert_same(out["params"]["encoder"], name, normalize(photos), expected)
    own = {"encoder/" + k: v for k, v in flatten_dict(out["params"]["encoder"], sep="/").items()}
    again = load.from_tensors(own, backbone=name, num_classes=3)["params"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, again, out["params"]["encoder"])


@pytest.mark.parametrize("name", download.FROM_HUB)
def test_names_of_the_hub_are_models_of_timm_with_these_sizes(name):
    timm = pytest.importorskip("timm")
    repository = download.FROM_HUB[name].removeprefix("hf:")
    architecture = repository.removeprefix("timm/")
    about = timm.get_pretrained_cfg(architecture)
    assert about.hf_hub_id == repository
    with torch.device("meta"):
        model = timm.create_model(architecture, pretrained=False)
    spec = BACKBONES[name]
    assert model.blocks[0].attn.num_heads == spec.heads
    assert model.norm.eps == spec.norm_eps
    assert about.mean == ((0.5, 0.5, 0.5) if spec.half_colours else IMAGE_MEAN)
    # Arrays of the real shapes that take no memory.
    state = {
        key: np.broadcast_to(np.float32(0), value.shape)
        for key, value in model.state_dict().items()
    }
    state, _ = backbone_files.usual(state, "timm", layer_scale=spec.layer_scale)
    sources = backbone_files.encoder_sources(state, "timm", spec)
    unused = set(backbone_files.dropped(state, "timm"))
    shapes = {key: value.shape for key, value in state.items() if key not in unused}
    assert shapes == {source.names[0]: source.shape for source in sources.values()}
    assert name in backbone_files.backbones_of(backbone_files.sizes_of(state, "timm"))
