"""Weights of every format: the published numbers come out, and whatever does not fit is named."""

import collections
import functools
import inspect
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from reference_weights import reference_shapes, reference_state_dict
from safetensors.numpy import save_file
from weight_formats import original_state, timm_state, transformers_state

from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.models.heads import ProjectionHead
from toco_jax.models.network import ToCo, normalize
from toco_jax.weights import encoder_layouts, files, layouts, load, published, torch_file

SMALL = "width=8,depth=2,heads=2,patch=4"
HEADS = ("classifier", "aux_classifier", "decoder", "proj_head")


def save_torch(tensors, path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)


def save_deit(tensors, path):
    torch = pytest.importorskip("torch")
    model = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in tensors.items())
    torch.save({"model": model, "epoch": 3}, path)


def save_npz(tensors, path):
    with path.open("wb") as file:
        np.savez(file, **tensors)


# Each format: from the whole state dict and the number of heads to the tensors, and their writer.
FORMATS = {
    "toco_pth": (lambda s, h: s, save_torch),
    "toco_module_pth": (lambda s, h: {f"module.{k}": v for k, v in s.items()}, save_torch),
    "toco_safetensors": (lambda s, h: s, save_file),
    "timm_safetensors": (lambda s, h: timm_state(s), save_file),
    "deit_pth": (lambda s, h: timm_state(s), save_deit),
    "jx_vit_pth": (lambda s, h: timm_state(s), save_torch),
    "original_npz": (lambda s, h: original_state(timm_state(s), h), save_npz),
    "vit_for_classification": (lambda s, h: transformers_state(timm_state(s)), save_file),
    "vit_model": (lambda s, h: transformers_state(timm_state(s), ""), save_file),
}


def write(name, state_dict, heads, path):
    convert, save = FORMATS[name]
    # A name that tells nothing: the content has to.
    save(convert(state_dict, heads), path)
    return str(path)


@functools.cache
def network(backbone):
    """State dict by the weight rule, its parameters, and the compiled network."""
    spec = BACKBONES[backbone]
    state_dict = reference_state_dict(spec.width, spec.depth)
    params, teacher = published.params_from_reference(state_dict, backbone=backbone, num_classes=20)
    model = ToCo(spec, num_classes=20)
    return state_dict, params, teacher, jax.jit(lambda p, x: model.apply({"params": p}, x))


@pytest.fixture(scope="module")
def forget():
    yield
    network.cache_clear()


def loaded(backbone, name, path):
    """Parameters after a format's writer and reader; heads a backbone lacks come from the rule."""
    state_dict, params, _, _ = network(backbone)
    file = write(name, state_dict, BACKBONES[backbone].heads, path)
    out = load.load(file, backbone=backbone, num_classes=20)
    assert (set(out["params"]) == {"encoder"}) == (not name.startswith("toco"))
    assert (out["teacher_params"] is None) == (not name.startswith("toco"))
    return {**{head: params[head] for head in HEADS}, **out["params"]}


def check(data, prefix, out, fields):
    for field, value in fields.items():
        noise = float(data[f"f32_maxabs/{prefix}{field}"])
        np.testing.assert_allclose(
            value(out), data[prefix + field], rtol=0, atol=10 * noise, err_msg=field
        )


@pytest.mark.parametrize("name", FORMATS)
def test_golden_deit_tiny(golden, forget, tmp_path, name):
    data = golden("forward_deit_tiny_patch16_224")
    params = loaded("deit_tiny", name, tmp_path / "weights")
    image = normalize(jnp.moveaxis(data["s224/image_u8"], 1, -1))
    fields = {
        "patch_tokens": lambda out: out["patch_tokens"][:, ::2],
        "aux_tokens": lambda out: out["aux_patch_tokens"][:, ::2],
        "cls_token": lambda out: out["cls_token"],
        "cls": lambda out: out["cls_logits"],
        "cls_aux": lambda out: out["aux_cls_logits"],
        "seg": lambda out: np.moveaxis(out["seg_logits"], -1, 1),
    }
    check(data, "s224/", network("deit_tiny")[3](params, image), fields)


@pytest.mark.parametrize("name", FORMATS)
def test_golden_vit_base(golden, forget, tmp_path, name):
    data = golden("forward_vit_base_patch16_224")
    path = tmp_path / "weights"
    params = loaded("vit_base", name, path)
    path.unlink()
    image = normalize(jnp.moveaxis(data["image_u8"], 1, -1))
    fields = {
        "cls_token": lambda out: out["cls_token"],
        "patch_tokens_sel": lambda out: out["patch_tokens"][:, data["patch_idx"]],
        "cls": lambda out: out["cls_logits"],
        "cls_aux": lambda out: out["aux_cls_logits"],
        "seg": lambda out: np.moveaxis(out["seg_logits"], -1, 1),
    }
    check(data, "", network("vit_base")[3](params, image), fields)


@pytest.mark.parametrize("name", ["toco_pth", "toco_safetensors"])
def test_golden_projection(golden, forget, tmp_path, name):
    data = golden("proj")
    file = write(name, network("deit_tiny")[0], 3, tmp_path / "weights")
    out = load.load(file, backbone="deit_tiny", num_classes=20)
    params, teacher = out["params"], out["teacher_params"]
    forward = network("deit_tiny")[3]

    def cls_tokens(views):
        views = normalize(jnp.moveaxis(views, 2, -1).reshape(-1, *views.shape[3:], 3))
        return forward(params, views)["cls_token"]

    global_tokens = cls_tokens(data["global_u8"])
    tokens = jnp.concatenate([global_tokens, cls_tokens(data["local_u8"])])
    project = jax.jit(lambda p, x: ProjectionHead().apply({"params": p}, x))
    teacher = jax.tree.map(lambda t, s: 0.9 * t + 0.1 * s, teacher, params["proj_head"])
    student = project(params["proj_head"], tokens)
    assert student.shape == data["output_s"].shape
    out = {"output_t": project(teacher, global_tokens), "output_s": student}
    fields = {field: lambda out, field=field: out[field] for field in out}
    check(data, "", out, fields)
    for field, leaf in (("ema_mlp0_bias", "mlp_0"), ("ema_mlp4_bias", "mlp_4")):
        check(data, "", teacher, {field: lambda out, leaf=leaf: out[leaf]["bias"]})


def small_state(**sizes):
    shapes = reference_shapes(8, 2, patch=4, **sizes)
    generator = np.random.default_rng(0)
    state = {k: generator.standard_normal(s, dtype=np.float32) for k, s in shapes.items()}
    return state | {k: np.ones_like(v) for k, v in state.items() if k.endswith("weight_g")}


@pytest.fixture(scope="module")
def small():
    return small_state()


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def encoder_of(state):
    return published.params_from_reference(state, backbone=SMALL, num_classes=20)[0]["encoder"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_exact(small, tmp_path, name):
    file = write(name, small, 2, tmp_path / "weights.bin")
    out = load.load(file, backbone=SMALL, num_classes=20)
    equal(out["params"]["encoder"], encoder_of(small))
    assert out["grid"] == 14
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(out["params"]))
    head = [
        k for k in FORMATS[name][0](small, 2) if "head." in k or "head/" in k or k[:5] == "class"
    ]
    head = [k.removeprefix("module.") for k in head if "toco" not in name or "encoder." in k]
    assert all(any(k in note and "dropped" in note for note in out["notes"]) for k in head)


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_stays_tied_to_the_file(small, tmp_path, name):
    path = tmp_path / "weights"
    out = load.load(write(name, small, 2, path), backbone=SMALL, num_classes=20)
    for leaf in jax.tree.leaves(out["params"]):
        assert leaf.flags.owndata
        assert leaf.flags.c_contiguous


@pytest.mark.parametrize("name", FORMATS)
def test_other_grids(tmp_path, name):
    state = small_state(grid=24)
    file = write(name, state, 2, tmp_path / "weights")
    out = load.load(file, backbone=SMALL, num_classes=20)
    assert out["grid"] == 24
    equal(out["params"]["encoder"], encoder_of(state))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "name", ["timm_safetensors", "vit_for_classification", "deit_pth", "original_npz"]
)
def test_half_precision_becomes_float32(small, tmp_path, name, dtype):
    torch = pytest.importorskip("torch")
    path = tmp_path / "weights"
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}[np.dtype(dtype).name]
    tensors = {
        k: torch.from_numpy(np.array(v)).to(half) for k, v in FORMATS[name][0](small, 2).items()
    }
    if name == "original_npz":
        save_npz(
            {k: v.astype(dtype) for k, v in original_state(timm_state(small), 2).items()}, path
        )
    elif name == "deit_pth":
        torch.save({"model": tensors}, path)
    else:
        from safetensors.torch import save_file as save_torch_tensors

        save_torch_tensors(tensors, path)
    out = load.load(str(path), backbone=SMALL, num_classes=20)
    rounded = {k: v.astype(dtype).astype(np.float32) for k, v in small.items()}
    rounded |= {k: small[k] for k in small if k.endswith("weight_g")}
    equal(out["params"]["encoder"], encoder_of(rounded))


def test_pre_logits_are_dropped_by_name(small, tmp_path):
    timm = timm_state(small) | {
        "pre_logits.fc.weight": np.ones((8, 8), np.float32),
        "pre_logits.fc.bias": np.ones(8, np.float32),
        "head.weight": np.ones((21843, 8), np.float32),
        "head.bias": np.ones(21843, np.float32),
    }
    original = original_state(timm, 2)
    original |= {"pre_logits/kernel": np.ones((8, 8)), "pre_logits/bias": np.ones(8)}
    for tensors, save, name in (
        (timm, save_file, "pre_logits.fc.weight (8, 8)"),
        (original, save_npz, "pre_logits/kernel (8, 8)"),
    ):
        path = tmp_path / "weights"
        save(tensors, path)
        out = load.load(str(path), backbone=SMALL, num_classes=20)
        equal(out["params"]["encoder"], encoder_of(small))
        notes = "\n".join(out["notes"])
        assert name in notes
        assert "ImageNet-21k only, not the published initialisation" in notes


def test_look_alikes_are_told(small, tmp_path):
    timm = timm_state(small)
    many = {"head.weight": np.ones((21843, 8), np.float32), "head.bias": np.ones(21843, np.float32)}
    none = {k: v for k, v in timm.items() if not k.startswith("head.")}
    path = tmp_path / "weights"
    for tensors, expected in ((timm | many, "augreg"), (none, "no classes"), (timm, None)):
        save_file(tensors, path)
        out = load.load(str(path), backbone=SMALL, num_classes=20)
        told = [note for note in out["notes"] if "not the published initialisation" in note]
        assert (expected in told[0]) if expected else not told
    path = tmp_path / "vit_base_patch16_224.augreg_in21k_ft_in1k.safetensors"
    save_file(timm, path)
    notes = load.load(str(path), backbone=SMALL, num_classes=20)["notes"]
    assert any(note.startswith("by its name these are augreg") for note in notes)


@pytest.mark.parametrize("names", [("gamma_1", "gamma_2"), ("ls1.gamma", "ls2.gamma")])
def test_deit_3_is_the_same_function(small, tmp_path, names):
    timm = timm_state(small)
    generator = np.random.default_rng(1)
    scales = {
        f"blocks.{i}.{name}": generator.standard_normal(8).astype(np.float32)
        for i in range(2)
        for name in names
    }
    deit_3 = timm | scales | {"pos_embed": timm["pos_embed"][:, 1:]}
    save_file({k: np.ascontiguousarray(v) for k, v in deit_3.items()}, tmp_path / "weights")
    out = load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)
    assert any("DeiT III" in note for note in out["notes"])
    blocks = out["params"]["encoder"]
    for i in range(2):
        # The branch's output, scaled, against the branch with the scale inside.
        x = generator.standard_normal((5, 32)).astype(np.float32)
        for layer, theirs, scale, width in (
            (blocks[f"blocks_{i}"]["attn"]["proj"], "attn.proj", names[0], 8),
            (blocks[f"blocks_{i}"]["mlp"]["fc2"], "mlp.fc2", names[1], 32),
        ):
            weight, bias = (timm[f"blocks.{i}.{theirs}.{leaf}"] for leaf in ("weight", "bias"))
            expected = scales[f"blocks.{i}.{scale}"] * (x[:, :width] @ weight.T + bias)
            ours = x[:, :width] @ layer["kernel"] + layer["bias"]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(blocks["pos_embed"][0, 0], 0)
    np.testing.assert_array_equal(blocks["pos_embed"][:, 1:], timm["pos_embed"][:, 1:])


@pytest.mark.parametrize(
    "extra", ["dist_token", "head_dist.weight", "deit.embeddings.distillation_token"]
)
def test_distilled_is_refused_by_name(small, tmp_path, extra):
    save_file(timm_state(small) | {extra: np.ones((1, 1, 8), np.float32)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=f"distilled DeiT .{extra}.*undistilled"):
        load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)


@pytest.mark.parametrize("name", FORMATS)
def test_every_key_counts(small, tmp_path, name):
    convert, save = FORMATS[name]
    tensors = convert(small, 2)
    path = tmp_path / "weights"
    removable = [k for k in tensors if not k.endswith("weight_g")]
    heads = ("encoder.head.", "head.", "head/", "classifier.")
    if name.startswith("toco"):
        heads = ("encoder.head.", "module.encoder.head.")
    removable = [k for k in removable if not k.startswith(heads)]
    generator = np.random.default_rng(2)
    for key in generator.choice(removable, 6, replace=False):
        plain = key.removeprefix("module.")
        save({k: v for k, v in tensors.items() if k != key}, path)
        with pytest.raises(ValueError, match=rf"(missing|neither).*{plain}|first names are"):
            load.load(str(path), backbone=SMALL, num_classes=20)
        misshapen = np.ones((*tensors[key].shape[:-1], tensors[key].shape[-1] + 1), np.float32)
        save(tensors | {key: misshapen}, path)
        with pytest.raises(ValueError, match=rf"{plain}|positional") as caught:
            load.load(str(path), backbone=SMALL, num_classes=20)
        if "pos" not in key:
            assert f"is {misshapen.shape}" in str(caught.value)
            assert "needs (" in str(caught.value)
    prefix = "module." if "module" in name else ""
    save(tensors | {f"{prefix}surplus": np.ones(3, np.float32)}, path)
    with pytest.raises(ValueError, match="belong to no parameter: surplus"):
        load.load(str(path), backbone=SMALL, num_classes=20)
    save(tensors | {key: np.ones(tensors[key].shape, np.int64)}, path)
    with pytest.raises(ValueError, match=f"{key.removeprefix('module.')} holds int64"):
        load.load(str(path), backbone=SMALL, num_classes=20)


def test_all_missing_parameters_of_the_reference_are_errors(small):
    dropped = ("encoder.head.weight", "encoder.head.bias")
    for key in small:
        rest = {k: v for k, v in small.items() if k != key}
        if key in dropped or key.endswith("weight_g"):
            params, _ = published.params_from_reference(rest, backbone=SMALL, num_classes=20)
            equal(params["encoder"], encoder_of(small))
            continue
        with pytest.raises(ValueError, match=f"{key}.*missing|missing.*{key}"):
            published.params_from_reference(rest, backbone=SMALL, num_classes=20)


def test_wrong_sizes_name_both_shapes(small):
    with pytest.raises(ValueError, match=r"classifier\.weight is \(20, 8, 1, 1\), .*\(21, 8, 1, 1"):
        published.params_from_reference(small, backbone=SMALL, num_classes=21)
    other = SMALL.replace("depth=2", "depth=1")
    with pytest.raises(ValueError, match=r"belong to no parameter: encoder\.blocks\.1"):
        published.params_from_reference(small, backbone=other, num_classes=20)
    other = SMALL.replace("patch=4", "patch=8")
    with pytest.raises(ValueError, match=r"\(8, 3, 4, 4\).*needs \(8, 3, 8, 8\)"):
        published.params_from_reference(small, backbone=other, num_classes=20)
    state = small | {"encoder.pos_embed": small["encoder.pos_embed"][:, :-1]}
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 196, 8\)"):
        published.params_from_reference(state, backbone=SMALL, num_classes=20)


def test_heads_of_the_original_files_count(small, tmp_path):
    save_npz(original_state(timm_state(small), 4), tmp_path / "weights")
    with pytest.raises(ValueError, match=r"\(8, 4, 2\).*needs \(8, 2, 4\)"):
        load.load(str(tmp_path / "weights"), backbone=SMALL, num_classes=20)


def test_a_gain_other_than_one_is_refused(small):
    state = small | {"proj_head_t.last_layer.weight_g": np.full((1024, 1), 1.5, np.float32)}
    with pytest.raises(ValueError, match=r"proj_head_t\.last_layer\.weight_g is not 1"):
        published.params_from_reference(state, backbone=SMALL, num_classes=20)


def test_out_and_in_again_is_exact(small):
    params, teacher = published.params_from_reference(small, backbone=SMALL, num_classes=20)
    back = published.params_to_reference(params, teacher, backbone=SMALL)
    assert set(back) == set(small)
    for key, value in small.items():
        assert back[key].shape == value.shape
        if not key.startswith("encoder.head."):
            np.testing.assert_array_equal(back[key], value)


def test_out_is_strict(small):
    params, teacher = published.params_from_reference(small, backbone=SMALL, num_classes=20)
    with pytest.raises(ValueError, match="teacher/mlp_0/kernel"):
        published.params_to_reference(params, {}, backbone=SMALL)
    with pytest.raises(ValueError, match="belong to no parameter: surplus"):
        published.params_to_reference(params | {"surplus": np.ones(2)}, teacher, backbone=SMALL)


def test_own_encoder_file(small, tmp_path):
    encoder = encoder_of(small)
    flat = {}

    def flatten(tree, prefix):
        for name, value in tree.items():
            if isinstance(value, dict):
                flatten(value, f"{prefix}/{name}")
            else:
                flat[f"{prefix}/{name}"] = np.float16(value)

    flatten(encoder, "encoder")
    path = tmp_path / "shapes.npz"
    about = {"seed": 0, "backbone": SMALL}
    np.savez(path, metadata=np.array(json.dumps(about)), **flat)
    other = SMALL.replace("heads=2", "heads=4")
    with pytest.raises(ValueError, match=f"backbone '{SMALL}', not '{other}'"):
        load.load(str(path), backbone=other, num_classes=7)
    out = load.load(str(path), backbone=SMALL, num_classes=7)
    equal(out["params"]["encoder"], jax.tree.map(lambda v: np.float32(np.float16(v)), encoder))
    np.savez(path, **flat, counts=np.ones(3))
    with pytest.raises(ValueError, match="belong to no parameter: counts"):
        load.load(str(path), backbone=SMALL, num_classes=7)


def test_the_encoder_of_the_demo():
    metadata = load.files.read(load.ASSETS["shapes"]).metadata
    out = load.load("shapes", backbone=metadata["backbone"], num_classes=5)
    assert out["grid"] == int(metadata["grid"])
    assert set(out["params"]) == {"encoder"}


def safetensors_of(header, data=b""):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype, size):
    return {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"<\0\0\08\0d\0", "is no file of weights \\(it starts"),
        (b"\x93NUMPY\x01\x00", "no file of weights"),
        (b"\xff" * 8 + b"{}", "damaged or cut"),
        (safetensors_of({}, b"rest"), "damaged or cut"),
        (safetensors_of({"x": 3}), "damaged or cut"),
        (safetensors_of({"x": entry("F32", 4)}, b"123"), "damaged or cut"),
        (safetensors_of({"x": entry("F32", 4), "y": entry("F32", 4)}, b"1234"), "damaged or cut"),
        (safetensors_of({"x": entry("F8_E4M3", 1)}, b"1"), "not supported.*save them as float32"),
        (b"PK\x03\x04", "damaged or cut"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load.load(str(path), backbone=SMALL, num_classes=20)


@pytest.mark.parametrize("name", ["timm_safetensors", "original_npz", "deit_pth"])
def test_cut_files(small, tmp_path, name):
    path = tmp_path / "weights"
    write(name, small, 2, path)
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="weights"):
            load.load(str(path), backbone=SMALL, num_classes=20)


def test_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"deit_tiny, .*vit_large, .*shapes, .*ing path"):
        load.load(str(tmp_path / "nothing"), backbone=SMALL, num_classes=20)


def test_neither_network_nor_backbone(tmp_path):
    save_file({"conv1.weight": np.ones((2, 3, 3, 3), np.float32)}, tmp_path / "resnet")
    with pytest.raises(ValueError, match=r"neither.*conv1\.weight"):
        load.load(str(tmp_path / "resnet"), backbone=SMALL, num_classes=20)


def test_a_decoder_of_another_width(small, tmp_path):
    generator = np.random.default_rng(3)
    shapes = {"conv6": (12, 8, 3, 3), "conv7": (12, 12, 3, 3), "conv8": (21, 12, 1, 1)}
    decoder = {
        f"decoder.{name}.weight": generator.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
    save_file(small | decoder, tmp_path / "weights")
    sizes = {"backbone": SMALL, "num_classes": 20}
    out = load.load(str(tmp_path / "weights"), decoder_width=12, **sizes)
    kernel = out["params"]["decoder"]["conv6"]["kernel"]
    np.testing.assert_array_equal(kernel, decoder["decoder.conv6.weight"].transpose(2, 3, 1, 0))
    with pytest.raises(ValueError, match=r"decoder.conv6.weight is \(12, 8, 3, 3\)"):
        load.load(str(tmp_path / "weights"), **sizes)


def test_our_own_layout_holds_joined_tensors_whole():
    sources = layouts.own(encoder_layouts.transformers_encoder(backbone_from_name(SMALL), 14))
    assert sources["encoder/blocks_1/attn/qkv/kernel"].shape == (8, 24)
    assert sources["encoder/blocks_1/attn/proj/kernel"].shape == (8, 8)
    assert sources["encoder/blocks_1/attn/qkv/bias"].names == ("encoder/blocks_1/attn/qkv/bias",)
    assert isinstance(sources["encoder/blocks_1/attn/qkv/kernel"].shape[-1], int)


def test_the_published_decoder_is_the_default():
    for function in (
        load.load,
        load.from_tensors,
        published.params_from_reference,
        layouts.reference,
    ):
        assert inspect.signature(function).parameters["decoder_width"].default == 512


def test_errors_say_what_was_asked_for_and_where_it_lies(tmp_path, monkeypatch):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"broken")
    monkeypatch.setitem(load.ASSETS, "shapes", path)
    for init, where in ((str(path), f"init='{path}': "), ("shapes", f"init='shapes' ({path}): ")):
        with pytest.raises(load.WeightsError) as refused:
            load.load(init, backbone="deit_tiny", num_classes=3)
        assert str(refused.value).startswith(where)


def test_a_published_file_that_only_torch_reads_is_replaced_by_the_hubs(
    small, tmp_path, monkeypatch
):
    legacy, hub = tmp_path / "legacy.pth", tmp_path / "hub.safetensors"
    legacy.write_bytes(b"of an old torch")
    save_file(timm_state(small), hub)
    read = files.read

    def read_new(path):
        if path == legacy:
            raise torch_file.LegacyFormatError("too old: convert it")
        return read(path)

    monkeypatch.setattr(files, "read", read_new)
    monkeypatch.setattr(load.download, "fetch", lambda address: legacy)
    monkeypatch.setattr(load.download, "from_hub", lambda name: hub)
    out = load.load("vit_base", backbone=SMALL, num_classes=20)
    equal(out["params"]["encoder"], encoder_of(small))
    assert out["origin"]["path"] == str(hub)
    assert any("taken from hf:timm/vit_base" in note for note in out["notes"])
    with pytest.raises(load.WeightsError, match=rf"init='{legacy}': too old: convert it"):
        load.load(str(legacy), backbone=SMALL, num_classes=20)
