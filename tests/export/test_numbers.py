"""Exported networks give the model's numbers where nothing of ours can be imported."""

import functools
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
from reference_weights import reference_state_dict

from toco_jax.cli import commands
from toco_jax.export import onnx_model, stablehlo
from toco_jax.method.cams import multi_scale_cams
from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize
from toco_jax.weights import published

SIZE = 24
# All that an encoder may have, and more positions than patches, which antialiasing tells apart.
RICH = "width=8,depth=2,heads=2,patch=14,registers=3,layer_scale=1,gated=1"
ROTARY = "width=16,depth=2,heads=2,patch=14,registers=2,layer_scale=1,rotary=1,mlp_ratio=6"
RUN_ALONE = """
import sys
sys.modules["toco_jax"] = None
import json
import numpy as np
from jax import export
with open(sys.argv[1], "rb") as file:
    function = export.deserialize(bytearray(file.read()))
assert function.platforms == ("cpu", "cuda", "tpu")
for name in sys.argv[2:]:
    images = np.load(f"{name}.npy")
    np.savez(f"{name}.npz", **function.call(images))
assert not [name for name in sys.modules if name.startswith("toco_jax.")]
"""


def images(batch, height=SIZE, width=SIZE):
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(network):
    """Segmentation, CAM, scores and mask from the model itself, pass by pass."""
    _, model, params = network

    @jax.jit
    def apply(x):
        return model.apply({"params": params}, x)

    @functools.cache
    def values(batch, multiscale):
        x = normalize(jnp.asarray(images(batch)))
        out = apply(x)
        seg = resize(out["seg_logits"], (SIZE, SIZE))
        cam = np.maximum(np.asarray(resize(out["cam"], (SIZE, SIZE))), 0)
        cam = cam - cam.min((1, 2), keepdims=True)
        cam = cam / (cam.max((1, 2), keepdims=True) + 1e-5)
        if multiscale:
            passes = []
            for side in (SIZE, SIZE * 5 // 4, SIZE * 3 // 2):
                scaled = resize(x, (side, side))
                straight = apply(scaled)["seg_logits"]
                mirrored = apply(scaled[:, :, ::-1])["seg_logits"][:, :, ::-1]
                passes.append(resize(straight + mirrored, (SIZE, SIZE)))
            seg = jnp.maximum(jnp.maximum(passes[0], passes[1]), passes[2])
            cam, _ = multi_scale_cams(
                lambda y: (apply(y)["cam"], apply(y)["aux_cam"]), x, scales=(1.0, 0.5, 1.5)
            )
        return {
            "segmentation": jax.nn.softmax(seg, axis=-1),
            "cam": cam,
            "class_scores": 1 / (1 + np.exp(-np.asarray(out["cls_logits"]))),
            "mask": np.asarray(seg).argmax(-1),
        }

    return values


def check_equal(found, values):
    assert sorted(found) == sorted(values)
    for field, value in values.items():
        assert found[field].dtype == (np.uint8 if field == "mask" else np.float32)
        assert np.ptp(found[field]) > 0.01
        np.testing.assert_allclose(found[field], value, rtol=0, atol=1e-5, err_msg=field)


def run_onnx(data, batch):
    """The outputs of an ONNX file, or of its content, by name."""
    session = onnxruntime.InferenceSession(data)
    (source,) = session.get_inputs()
    assert source.name == "images"
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": batch}), strict=True))


@pytest.mark.parametrize("multiscale", [False, True])
def test_stablehlo_gives_the_same_with_nothing_of_ours(network, expected, tmp_path, multiscale):
    out = tmp_path / "model.stablehlo"
    arguments = [str(network[0]), str(out), f"--size={SIZE}"]
    commands.run("export", [*arguments, "--multiscale"] if multiscale else arguments)
    # The batch is symbolic, which one mode is enough to show: each size costs a compilation.
    batches = {"three": 3} if multiscale else {"one": 1, "three": 3}
    for name, batch in batches.items():
        np.save(tmp_path / f"{name}.npy", images(batch))
    command = [sys.executable, "-c", RUN_ALONE, str(out), *batches]
    subprocess.run(command, cwd=tmp_path, check=True)
    for name, batch in batches.items():
        check_equal(dict(np.load(tmp_path / f"{name}.npz")), expected(batch, multiscale))
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"][:2] == ["background", "aeroplane"]
    assert len(about["classes"]) == len(about["palette"]) == 21
    assert about["palette"][1] == [128, 0, 0]
    assert about["multiscale"] is multiscale


def test_onnx_gives_the_same(network, expected, tmp_path):
    out = tmp_path / "model.onnx"
    commands.run("export", [str(network[0]), str(out), "--size=native"])
    for batch in (1, 3):
        check_equal(run_onnx(str(out), images(batch)), expected(batch, False))
    about = json.loads((tmp_path / "model.json").read_text())
    pixels = ["b", "height", "width"]
    assert about["input"]["shape"] == [*pixels, 3]
    assert about["outputs"]["mask"] == {"dtype": "uint8", "shape": pixels, "range": [0, 20]}
    stored = onnxruntime.InferenceSession(str(out)).get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in stored.items()} == about


@pytest.mark.parametrize("size", [(SIZE, SIZE), None])
def test_onnx_of_several_scales_gives_the_same(network, expected, size):
    data = onnx_model.to_onnx(*network[1:], size=size, cam_scales=(1.0, 0.5, 1.5))
    check_equal(run_onnx(data, images(3)), expected(3, True))


def random_network(backbone, **fields):
    """A network with large random weights."""
    spec = backbone_from_name(backbone)
    model = ToCo(spec, num_classes=5, aux_layer=-1, grid=5, decoder_width=8, **fields)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 56, 56, 3)))["params"]
    return model, jax.tree.map(
        lambda x: np.float32(0.3) * rng.standard_normal(x.shape, np.float32), shapes
    )


@pytest.fixture(scope="module")
def rich():
    return random_network(RICH)


@pytest.mark.parametrize("backbone", [RICH, ROTARY])
def test_onnx_of_all_that_an_encoder_may_have(backbone):
    model, params = random_network(backbone)
    # Neither square nor whole patches, and one side of the positions grows while one shrinks.
    height, width = 45, 89
    batch = images(2, height, width)
    values = jax.jit(stablehlo.make_predictor(model, params))(batch)
    for size in ((height, width), None):
        check_equal(run_onnx(onnx_model.to_onnx(model, params, size=size), batch), values)


def test_onnx_of_cams_that_attention_spreads(rich):
    model, params = rich[0].clone(propagate_cams=True), rich[1]
    batch = images(2, 28, 42)
    found = run_onnx(onnx_model.to_onnx(model, params, size=(28, 42)), batch)
    check_equal(found, jax.jit(stablehlo.make_predictor(model, params))(batch))
    plain = run_onnx(onnx_model.to_onnx(*rich, size=(28, 42)), batch)
    assert np.abs(plain["cam"] - found["cam"]).max() > 0.01


def test_onnx_of_classes_that_the_class_token_weighs():
    model, params = random_network(RICH, image_head=True)
    params["img_head"]["bias"] += 2  # or it takes all for background
    batch = images(2, 28, 42)
    values = jax.jit(stablehlo.make_predictor(model, params))(batch)
    for size in ((28, 42), None):
        check_equal(run_onnx(onnx_model.to_onnx(model, params, size=size), batch), values)


def test_images_smaller_than_a_patch_are_enlarged_as_in_predict(rich):
    data = onnx_model.to_onnx(*rich, size=None)
    small, patch = (
        run_onnx(data, np.full((1, *shape, 3), 7, np.uint8)) for shape in [(3, 16), (14, 16)]
    )
    assert small["mask"].shape == (1, 3, 16)
    np.testing.assert_allclose(small["class_scores"], patch["class_scores"], rtol=0, atol=1e-6)


def test_weights_in_float16_take_half_and_change_little(rich):
    whole, half = (onnx_model.to_onnx(*rich, size=(56, 70), half=half) for half in (False, True))
    assert len(half) < 0.75 * len(whole)  # the nodes of so small a network weigh as much
    batch = images(1, 56, 70)
    exact, found = run_onnx(whole, batch), run_onnx(half, batch)
    for name in ("segmentation", "class_scores", "cam"):
        assert 0 < np.abs(exact[name] - found[name]).max() < 0.05


def test_golden_multi_scale_segmentation(golden):
    data = golden("cam_utils")
    spec = BACKBONES["deit_tiny"]
    state = reference_state_dict(spec.width, spec.depth)
    params, _ = published.params_from_reference(state, backbone="deit_tiny", num_classes=20)
    model = ToCo(spec, num_classes=20)
    batch = jnp.moveaxis(data["b160x208/image_u8"], 1, -1)
    predict = stablehlo.make_predictor(model, params, cam_scales=(1.0,))
    found = jax.jit(predict)(batch)["segmentation"][:, ::4, ::4]
    logits = jnp.moveaxis(data["b160x208/msc_seg"], 1, -1)
    noise = float(data["f32_maxabs/b160x208/msc_seg"])
    # Softmax moves by at most half of what the logits move by.
    np.testing.assert_allclose(found, jax.nn.softmax(logits, axis=-1), rtol=0, atol=5 * noise)
