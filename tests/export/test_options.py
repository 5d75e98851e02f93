"""What `toco export` writes beside a network, and what it refuses."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.export import ExportError, onnx_graph, onnx_model, stablehlo, x_anylabeling


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the compilation: what is written beside the function is made before."""
    monkeypatch.setattr(stablehlo, "serialize", lambda _, *, size: b"")


def refused(*words):
    with pytest.raises(SystemExit) as caught:
        commands.run("export", [str(word) for word in words])
    return str(caught.value)


def test_names_and_size_are_the_runs(network, tmp_path, quick, capsys):
    run = shutil.copytree(network[0], tmp_path / "run")
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
    run = shutil.copytree(network[0], tmp_path / "run")
    (run / "classes.json").unlink(missing_ok=True)
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = "folder"
    (run / "config.json").write_text(json.dumps(config))
    commands.run("export", [str(run), str(tmp_path / "model.stablehlo")])
    assert "classes.json is missing" in capsys.readouterr().out
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["classes"][1] == "class 1" and not about["names_known"]


@pytest.mark.parametrize(
    "name", ["run/config.stablehlo", "model.json", "run/config.onnx", "x.yaml", "other.onnx"]
)
def test_files_of_others_are_not_overwritten(network, tmp_path, quick, name):
    before = (network[0] / "config.json").read_text()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(before)
    (tmp_path / "other.yaml").write_text("mine: 1\n")
    tool = ["--format=x_anylabeling"] if "run" not in name and "json" not in name else []
    message = refused(network[0], tmp_path / name, *tool)
    assert "use another --out" in message or "use one like" in message
    assert (tmp_path / "run" / "config.json").read_text() == before
    assert (tmp_path / "other.yaml").read_text() == "mine: 1\n"


def test_files_of_ours_are_unless_they_describe_another(network, tmp_path, quick):
    for _ in range(2):
        commands.run("export", [str(network[0]), str(tmp_path / "model.stablehlo")])
    message = refused(network[0], tmp_path / "model.onnx")
    assert "model.json describes" in message and "model.stablehlo, which is there" in message
    assert not (tmp_path / "model.onnx").exists()


def test_x_anylabeling(network, tmp_path, capsys):
    run = shutil.copytree(network[0], tmp_path / "run")
    config = json.loads((run / "config.json").read_text()) | {"compute_dtype": "bfloat16"}
    (run / "config.json").write_text(json.dumps(config))
    (tmp_path / "tool.yaml").write_text(f"{x_anylabeling.MARK}\n")  # of an earlier export
    words = [str(run), "--out", str(tmp_path / "tool.onnx"), "--size=24", "--multiscale"]
    commands.run("export", [*words, "--format=x_anylabeling"])
    assert "in bfloat16, and the ONNX file in float32" in capsys.readouterr().out
    config = yaml.safe_load((tmp_path / "tool.yaml").read_text())
    assert config["type"] == "dfine_seg" and config["classes"] == list(VOC_CLASSES)
    assert config["name"] == "toco-run" and config["model_path"] == "tool.onnx"
    image = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), np.uint8)
    blob = image.transpose(0, 3, 1, 2).astype(np.float32) / 255
    tool, ours = tmp_path / "tool.onnx", tmp_path / "ours.onnx"
    ours.write_bytes(onnx_model.to_onnx(*network[1:], size=(24, 24), cam_scales=(1.0, 0.5, 1.5)))
    # By places, as the tool reads them.
    labels, boxes, scores, masks = session(tool).run(None, {"images": blob})
    expected, mask = session(ours).run(["class_scores", "mask"], {"images": image})
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert labels.tolist() == [list(range(20))] and masks.shape == (1, 20, 24, 24)
    assert boxes.tolist() == [[[0, 0, 24, 24]] * 20]
    assert (masks[0] == (mask == np.arange(1, 21)[:, None, None])).all() and 0 < masks.mean() < 1
    # CAMs, which the tool does not see, are not computed.
    nodes, all_nodes = (onnx.load(path).graph.node for path in (tool, ours))
    read = {name for node in nodes for name in node.input} | {"labels", "boxes", "scores", "masks"}
    assert len(nodes) < len(all_nodes) and all(read.intersection(node.output) for node in nodes)


def session(path):
    return onnxruntime.InferenceSession(str(path))


def test_a_program_bug_is_not_a_users_mistake(network, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ValueError("bug")

    monkeypatch.setattr(stablehlo, "serialize", broken)
    with pytest.raises(ValueError, match="bug"):
        commands.run("export", [str(network[0]), str(tmp_path / "x")])


def test_errors(network, tmp_path, capsys):
    run, out = network[0], tmp_path / "x"
    assert "--size=30 must be a positive multiple of the patch" in refused(run, out, "--size=30")
    assert "--size=4 is less than a patch of 4 pixels at scale 0.5" in refused(
        run, out, "--size=4", "--multiscale"
    )
    assert "not a run" in refused(tmp_path, out)
    assert "cannot write to the folder /proc" in refused(run, "/proc/x.stablehlo")
    assert "--size=native needs --format=onnx" in refused(run, out, "--size=native")
    tool = "--format=x_anylabeling"
    assert "--size=native needs --format=onnx" in refused(run, out, "--size=native", tool)
    assert "--weights=float16 needs --format=onnx" in refused(run, out, "--weights=float16")
    refused(run, out, "--size=large")
    assert "'large' must be a number of pixels, or native" in capsys.readouterr().err


def test_without_the_package_the_extra_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    message = refused(network[0], tmp_path / "x.onnx")
    assert "pip install 'toco_jax[onnx]'" in message


def test_what_an_onnx_file_cannot_hold_is_refused(network, monkeypatch):
    _, model, params = network
    beyond = params | {"encoder": params["encoder"] | {"cls_token": np.full((1, 1, 8), 1e6)}}
    with pytest.raises(ExportError, match=r"1e\+06, which float16 cannot hold: use --weights"):
        onnx_model.to_onnx(model, beyond, size=(24, 24), half=True)
    rotary = params | {"encoder": params["encoder"] | {"rotary": np.ones(8)}}
    with pytest.raises(ExportError, match="cannot write the weights encoder/rotary: use --format"):
        onnx_model.to_onnx(model, rotary, size=(24, 24))
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 10_000)
    with pytest.raises(ExportError, match=r"exceed the 2 GiB .*: use --weights=float16"):
        x_anylabeling.to_onnx(model, params, size=(24, 24))
