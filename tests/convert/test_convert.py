"""Published checkpoints to runs, runs to PyTorch, to the bit; and what a file is."""

import hashlib
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from reference_weights import reference_state_dict
from safetensors.numpy import load_file, save_file
from weight_formats import original_state, timm_state, transformers_state

from toco_jax import convert
from toco_jax.cli import commands
from toco_jax.config import use_method
from toco_jax.run import saved
from toco_jax.training.step import init_state
from toco_jax.weights import inspection, load, published

torch = pytest.importorskip("torch")

SMALL = "width=8,depth=4,heads=2,patch=4"


def save_released(state, path, prefix=""):
    torch.save({prefix + name: torch.from_numpy(value) for name, value in state.items()}, path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network as a published checkpoint, as a run, and as a .safetensors file."""
    folder = tmp_path_factory.mktemp("small")
    state = reference_state_dict(8, 4, patch=4)
    save_released(state, folder / "released.pth", "module.")
    commands.run(
        "convert", [str(folder / "released.pth"), str(folder / "run"), f"--backbone={SMALL}"]
    )
    commands.run("convert", [str(folder / "run"), str(folder / "out.safetensors")])
    return folder, state


def same_tensors(left, right):
    assert set(left) == set(right)
    for name, value in right.items():
        assert left[name].dtype == value.dtype == np.float32
        np.testing.assert_array_equal(left[name], value, err_msg=name)


def test_heads_of_other_methods_are_left_out(small, tmp_path):
    config, network = saved.load_run(small[0] / "run")
    use_method(config, "afa")
    head = {"kernel": np.ones((4, 1), np.float32), "bias": np.zeros(1, np.float32)}
    params, teacher = network["params"], network["extra"]["proj_head"]
    saved.save_run(
        tmp_path / "afa", config, init_state(config, params | {"aff_head": head}, teacher)
    )
    shutil.copy(small[0] / "run" / convert.DROPPED_FILE, tmp_path / "afa")
    notes = convert.convert(str(tmp_path / "afa"), tmp_path / "afa.safetensors")
    assert any(note == "left out: aff_head of another method" for note in notes)
    same_tensors(load_file(tmp_path / "afa.safetensors"), load_file(small[0] / "out.safetensors"))
    out = load.load(str(tmp_path / "afa"), backbone=SMALL, num_classes=20)
    assert "left out: aff_head of another method" in out["notes"]
    assert jax.tree.structure(out["params"]) == jax.tree.structure(params)


class Skeleton(torch.nn.Module):
    """A PyTorch network with the given parameters, by dotted name."""

    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            module.register_parameter(leaf, torch.nn.Parameter(torch.full(shape, torch.nan)))


def test_round_trip_is_exact(small):
    folder, state = small
    same_tensors(load_file(folder / "out.safetensors"), state)


def test_pytorch_loads_what_we_write(small):
    from safetensors.torch import load_file as load_torch_file

    folder, state = small
    network = Skeleton({name: value.shape for name, value in state.items()})
    network.load_state_dict(load_torch_file(folder / "out.safetensors"))
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])


def test_what_we_write_is_a_source(small, tmp_path):
    folder, state = small
    source = folder / "out.safetensors"
    commands.run("convert", [str(source), str(tmp_path / "again.safetensors")])
    same_tensors(load_file(tmp_path / "again.safetensors"), state)
    commands.run("convert", [str(source), str(tmp_path / "run")])
    config, run = saved.load_run(tmp_path / "run")
    assert config.backbone == SMALL
    params, teacher = published.params_from_reference(state, backbone=SMALL, num_classes=20)
    np.testing.assert_array_equal(
        run["params"]["encoder"]["blocks_1"]["attn"]["qkv"]["kernel"],
        params["encoder"]["blocks_1"]["attn"]["qkv"]["kernel"],
    )
    np.testing.assert_array_equal(run["extra"]["proj_head"]["last_layer"], teacher["last_layer"])
    assert run["step"] == 0


@pytest.mark.parametrize("name", ["released.pth", "run", "out.safetensors"])
def test_training_starts_from_each(small, name):
    folder, state = small
    out = load.load(str(folder / name), backbone=SMALL, num_classes=20)
    params, teacher = published.params_from_reference(state, backbone=SMALL, num_classes=20)
    for ours, expected in ((out["params"], params), (out["teacher_params"], teacher)):
        flat, tree = zip(*(jax.tree.flatten(t) for t in (ours, expected)), strict=True)
        assert tree[0] == tree[1]
        for left, right in zip(*flat, strict=True):
            np.testing.assert_array_equal(left, right)
    assert out["grid"] == 14
    with pytest.raises(ValueError, match="21"):
        load.load(str(folder / name), backbone=SMALL, num_classes=21)
    if name != "released.pth":
        with pytest.raises(ValueError, match=r"set backbone=width=8"):
            load.load(
                str(folder / name), backbone=SMALL.replace("heads=2", "heads=4"), num_classes=20
            )


def test_sizes_are_read_off_the_shapes(tmp_path):
    state = reference_state_dict(192, 12, num_classes=80, grid=24)
    save_released(state, tmp_path / "released.pth")
    commands.run("convert", [str(tmp_path / "released.pth"), str(tmp_path / "out.safetensors")])
    lines = inspection.inspect(str(tmp_path / "out.safetensors"))
    text = "\n".join(lines)
    assert "backbone   deit_tiny or augreg_tiny (of the same sizes): width 192, depth 12" in text
    assert "patch 16, positions 24 x 24" in text
    assert "classes    80" in text
    same_tensors(load_file(tmp_path / "out.safetensors"), state)


def test_the_head_is_zero_where_there_was_none(small, tmp_path):
    _, state = small
    rest = {k: v for k, v in state.items() if not k.startswith("encoder.head.")}
    save_released(rest, tmp_path / "released.pth")
    target = tmp_path / "out.safetensors"
    convert.convert(str(tmp_path / "released.pth"), target, backbone=SMALL)
    out = load_file(target)
    assert set(out) == set(state)
    assert not out["encoder.head.weight"].any()


def test_names_of_classes_are_taken_along(small, tmp_path, capsys):
    names = [f"part {k}" for k in range(20)]
    run = shutil.copytree(small[0] / "run", tmp_path / "run")
    (run / "classes.json").write_text(json.dumps(names))
    (run / convert.DROPPED_FILE).write_bytes((small[0] / "run" / convert.DROPPED_FILE).read_bytes())
    commands.run("convert", [str(run / "checkpoints" / "0"), str(tmp_path / "copy")])
    commands.run("convert", [str(run), str(tmp_path / "x.safetensors")])
    commands.run("convert", [str(tmp_path / "x.safetensors"), str(tmp_path / "back")])
    for folder in ("copy", "back"):
        assert json.loads((tmp_path / folder / "classes.json").read_text()) == names
        assert (tmp_path / folder / convert.DROPPED_FILE).exists()
    assert "missing" not in capsys.readouterr().out


def test_names_of_a_published_network_are_said_to_be_assumed(small, tmp_path, capsys):
    commands.run(
        "convert", [str(small[0] / "released.pth"), str(tmp_path / "run"), f"--backbone={SMALL}"]
    )
    assert "classes are taken to be those of PASCAL VOC" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "classes.json").read_text())[0] == "aeroplane"


def test_names_that_nothing_tells_are_not_invented(tmp_path, capsys):
    save_released(reference_state_dict(8, 4, patch=4, num_classes=3), tmp_path / "three.pth")
    commands.run(
        "convert", [str(tmp_path / "three.pth"), str(tmp_path / "run"), f"--backbone={SMALL}"]
    )
    assert "classes.json is missing" in capsys.readouterr().out
    assert not (tmp_path / "run" / "classes.json").exists()
    commands.run("convert", [str(tmp_path / "run"), str(tmp_path / "x.safetensors")])
    assert "does not name its classes" in capsys.readouterr().out


def test_a_run_has_its_configuration(small):
    folder, _ = small
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["backbone"] == SMALL
    assert config["num_classes"] == 20
    assert config["decoder_width"] == 512


def test_a_converted_run_notes_its_source(small):
    folder, _ = small
    noted = json.loads((folder / "run" / "init.json").read_text())
    released = folder / "released.pth"
    assert noted["path"] == str(released) and noted["format"] == "torch zip"
    assert noted["sha256"] == hashlib.sha256(released.read_bytes()).hexdigest()


def failure(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        commands.run("convert", [str(argument) for argument in arguments])
    capsys.readouterr()
    return str(caught.value)


def test_a_full_disk_leaves_no_half_run(small, tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
        message = failure(capsys, small[0] / "run", tmp_path / "copy")
    assert message.startswith(f"error: the disk of {tmp_path} is too full for the run: it takes")
    assert list(tmp_path.iterdir()) == []
    commands.run("convert", [str(small[0] / "run"), str(tmp_path / "copy")])
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_errors(small, tmp_path, capsys):
    folder, state = small
    released = folder / "released.pth"
    target = tmp_path / "new"
    message = failure(capsys, released, target)
    assert "--backbone=width=8,depth=4,patch=4,heads=N" in message
    assert "exists already" in failure(capsys, released, tmp_path)
    assert ".safetensors file or the folder" in failure(capsys, released, tmp_path / "x.pth")
    assert "existing path" in failure(capsys, tmp_path / "none.pth", target)
    words = [released, target, f"--backbone={SMALL}", "--config=none.py"]
    assert "no Python file 'none.py'" in failure(capsys, *words)
    save_file(timm_state(state), tmp_path / "backbone")
    message = failure(capsys, tmp_path / "backbone", target)
    assert f"timm layout), not a whole network: give it to training, init={tmp_path}" in message
    save_released({k: v for k, v in state.items() if "conv7" not in k}, tmp_path / "less.pth")
    message = failure(capsys, tmp_path / "less.pth", target, f"--backbone={SMALL}")
    assert "missing: decoder.conv7.weight" in message
    for ending in (".onnx", ".PTH", ".h5"):
        assert ".safetensors file or the folder" in failure(capsys, released, f"{target}{ending}")
    message = failure(capsys, folder / "run", target, "--backbone=deit_tiny")
    assert "--backbone=deit_tiny is for files" in message
    message = failure(capsys, "--config=configs/voc.py", folder / "run", target)
    assert "--config=configs/voc.py is for files" in message
    message = failure(capsys, folder / "run", f"{target}.safetensors", "--config=configs/voc.py")
    assert "--config=configs/voc.py is for a new run" in message
    message = failure(capsys, "--inspect", released, "--backbone=deit_tiny")
    assert "--inspect takes neither --backbone nor --config nor --compact" in message
    message = failure(capsys, released, target, "--compact")
    assert "--compact is for a .safetensors file" in message
    for words in ([released], [released, target, "--inspect"]):
        assert "give SOURCE --out PATH, or --inspect SOURCE" in failure(capsys, *words)
    assert not target.exists()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (timm_state, ("timm layout", "head.weight (1000, 8)")),
        (lambda s: transformers_state(timm_state(s)), ("Hugging Face", "classifier.weight")),
        (lambda s: original_state(timm_state(s), 2), ("original JAX", "head/kernel (8, 1000)")),
        (lambda s: s, ("ToCo network", "classes    20")),
    ],
)
def test_inspect(small, tmp_path, make, expected):
    tensors = {name: np.ascontiguousarray(value) for name, value in make(small[1]).items()}
    path = tmp_path / "file"
    save_file(tensors, path)
    text = "\n".join(inspection.inspect(str(path)))
    assert "format     safetensors" in text
    assert "width 8, depth 4, patch 4, positions 14 x 14" in text
    assert f"tensors    {len(tensors)} with" in text
    assert "float32" in text
    assert "published  no known file" in text
    for part in expected:
        assert part in text


def test_inspect_tells_distilled_and_unknown(small, tmp_path):
    path = tmp_path / "file"
    save_file(timm_state(small[1]) | {"dist_token": np.ones((1, 1, 8), np.float32)}, path)
    text = "\n".join(inspection.inspect(str(path)))
    assert "distilled DeiT" in text and "width 8, depth 4, patch 4" in text
    save_file({"x": np.ones(3, np.int32)}, path)
    text = "\n".join(inspection.inspect(str(path)))
    assert "layout     unknown" in text
    assert "int32 x 1" in text


def test_inspect_tells_published_files(small, tmp_path, monkeypatch):
    path = tmp_path / "file"
    save_file(timm_state(small[1]), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(convert.files.KNOWN_FILES, digest[:8], "DeiT of the test")
    text = "\n".join(inspection.inspect(str(path)))
    assert "published  DeiT of the test" in text
    notes = load.load(str(path), backbone=SMALL, num_classes=20)["notes"]
    assert notes[1] == "these weights are: DeiT of the test"


def test_inspect_a_run(small):
    text = "\n".join(inspection.inspect(str(small[0] / "run")))
    assert "a run of toco_jax" in text
    assert f"backbone   {SMALL}: width 8, depth 4, heads 2, patch 4" in text
    digest = load.load(str(small[0] / "run"), backbone=SMALL, num_classes=20)["origin"]["sha256"]
    assert f"sha256     {digest}" in text


def test_command_without_torch(small):
    path = small[0] / "released.pth"
    code = (
        "import sys; sys.modules['torch'] = None\n"
        f"from toco_jax.cli import commands; commands.run('convert', ['--inspect', {str(path)!r}])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "format     torch zip" in run.stdout
