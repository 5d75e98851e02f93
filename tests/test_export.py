"""The exported function gives the model's numbers where nothing of ours can be imported."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_weights import reference_state_dict
from safetensors.numpy import save_file

from toco_jax import convert, export
from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.method.cams import multi_scale_cams
from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize
from toco_jax.weights import published

SMALL = "width=8,depth=3,heads=2,patch=4"
SIZE = 24
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


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A run of a small network, and its model and parameters."""
    folder = tmp_path_factory.mktemp("export")
    state = reference_state_dict(8, 3, patch=4, grid=6)
    params, teacher = published.params_from_reference(state, backbone=SMALL, num_classes=20)
    out = folder / "source.safetensors"
    tensors = published.params_to_reference(params, teacher, backbone=SMALL)
    metadata = {"format": "pt", "backbone": SMALL, "classes": json.dumps(VOC_CLASSES)}
    save_file(tensors, out, metadata)
    convert.convert(str(out), folder / "run")
    return folder, ToCo(backbone_from_name(SMALL), num_classes=20, grid=6), params


def images(batch):
    return np.random.default_rng(batch).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)


def expected(model, params, batch, *, multiscale):
    """Segmentation, CAM and scores from the model itself, pass by pass."""

    @jax.jit
    def apply(x):
        return model.apply({"params": params}, x)

    x = normalize(jnp.asarray(batch))
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
    }


@pytest.mark.parametrize("multiscale", [False, True])
def test_same_numbers_with_nothing_of_ours(network, tmp_path, multiscale):
    folder, model, params = network
    out = tmp_path / "model.stablehlo"
    arguments = [str(folder / "run"), str(out), f"--size={SIZE}"]
    commands.run("export", [*arguments, "--multiscale"] if multiscale else arguments)
    # The batch is symbolic, which one mode is enough to show: each size costs a compilation.
    batches = {"three": images(3)} if multiscale else {"one": images(1), "three": images(3)}
    for name, batch in batches.items():
        np.save(tmp_path / f"{name}.npy", batch)
    command = [sys.executable, "-c", RUN_ALONE, str(out), *batches]
    subprocess.run(command, cwd=tmp_path, check=True)
    for name, batch in batches.items():
        found = np.load(tmp_path / f"{name}.npz")
        for field, value in expected(model, params, batch, multiscale=multiscale).items():
            assert found[field].dtype == np.float32
            assert np.ptp(found[field]) > 0.01
            np.testing.assert_allclose(found[field], value, rtol=0, atol=1e-5, err_msg=field)
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"][:2] == ["background", "aeroplane"]
    assert len(about["classes"]) == len(about["palette"]) == 21
    assert about["palette"][1] == [128, 0, 0]
    assert about["multiscale"] is multiscale


def test_golden_multi_scale_segmentation(golden):
    data = golden("cam_utils")
    spec = BACKBONES["deit_tiny"]
    state = reference_state_dict(spec.width, spec.depth)
    params, _ = published.params_from_reference(state, backbone="deit_tiny", num_classes=20)
    model = ToCo(spec, num_classes=20)
    batch = jnp.moveaxis(data["b160x208/image_u8"], 1, -1)
    predict = export.make_predictor(model, params, cam_scales=(1.0,))
    found = jax.jit(predict)(batch)["segmentation"][:, ::4, ::4]
    logits = jnp.moveaxis(data["b160x208/msc_seg"], 1, -1)
    noise = float(data["f32_maxabs/b160x208/msc_seg"])
    # Softmax moves by at most half of what the logits move by.
    np.testing.assert_allclose(found, jax.nn.softmax(logits, axis=-1), rtol=0, atol=5 * noise)


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the compilation: what is written beside the function is made before."""
    monkeypatch.setattr(export, "serialize", lambda _, *, size: b"")


def test_names_and_size_are_the_runs(network, tmp_path, quick, capsys):
    run = shutil.copytree(network[0] / "run", tmp_path / "run")
    names = [f"part {k}" for k in range(20)]
    (run / "classes.json").write_text(json.dumps(names))
    config = json.loads((run / "config.json").read_text()) | {"crop_size": 32}
    (run / "config.json").write_text(json.dumps(config))
    commands.run("export", [str(run / "checkpoints" / "0"), str(tmp_path / "model.stablehlo")])
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"] == ["background", *names] and about["names_known"]
    assert about["input"]["shape"] == ["b", 32, 32, 3]
    assert "missing" not in capsys.readouterr().out


def test_unknown_names_are_said_to_be_unknown(network, tmp_path, quick, capsys):
    run = shutil.copytree(network[0] / "run", tmp_path / "run")
    (run / "classes.json").unlink(missing_ok=True)
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "folder"
    (run / "config.json").write_text(json.dumps(config))
    commands.run("export", [str(run), str(tmp_path / "model.stablehlo")])
    assert "classes.json is missing" in capsys.readouterr().out
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"][1] == "class 1" and not about["names_known"]


def test_files_of_others_are_not_overwritten(network, tmp_path, quick):
    for out in ("run/config.stablehlo", "model.json"):
        before = (network[0] / "run" / "config.json").read_text()
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "config.json").write_text(before)
        with pytest.raises(
            SystemExit, match=r"(config|model)\.json .* use (another --out|one like)"
        ):
            commands.run("export", [str(network[0] / "run"), str(tmp_path / out)])
        assert (tmp_path / "run" / "config.json").read_text() == before
    for _ in range(2):
        commands.run("export", [str(network[0] / "run"), str(tmp_path / "model.stablehlo")])


def test_a_program_bug_is_not_a_users_mistake(network, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("bug")

    monkeypatch.setattr(export, "serialize", broken)
    with pytest.raises(ValueError, match="bug"):
        commands.run("export", [str(network[0] / "run"), str(tmp_path / "x")])


def test_errors(network, tmp_path):
    folder = network[0]
    with pytest.raises(SystemExit, match="--size=30 must be a positive multiple of the patch"):
        commands.run("export", [str(folder / "run"), str(tmp_path / "x"), "--size=30"])
    with pytest.raises(SystemExit, match="not a run"):
        commands.run("export", [str(tmp_path), str(tmp_path / "x")])
    with pytest.raises(SystemExit, match=r"cannot write to the folder /proc .*another --out"):
        commands.run("export", [str(folder / "run"), "/proc/x.stablehlo"])
