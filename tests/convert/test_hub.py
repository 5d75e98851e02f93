"""A network goes to a stand-in for the hub and comes back the same, with a card and no paths."""

import json
import pathlib
import shutil

import huggingface_hub
import jax
import numpy as np
import pytest
import yaml
from tiny_run import make_run

from toco_jax.cli import commands
from toco_jax.convert import card
from toco_jax.convert import hub as sharing
from toco_jax.evaluation import evaluator
from toco_jax.inference import segmenter
from toco_jax.inference.analysis import encoder
from toco_jax.models.network import normalize
from toco_jax.run import hub, runs
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import OutputError
from toco_jax.weights import load


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    """A run of the 20 classes with the scores of one protocol."""
    folder = tmp_path_factory.mktemp("secret") / "run"
    make_run(folder, voc_config, folder.parent / "devkit")
    config = json.loads((folder / "config.json").read_text())
    config |= {"init": "/home/someone/secret/deit.pth", "local_crop_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    row = {"predictor": "seg", "description": "native | 1.25", "miou": 61.26}
    (folder / "evaluation.json").write_text(json.dumps({"rows": [row]}))
    return folder


class Hub:
    """Repositories in a folder, with the two functions of `huggingface_hub` that are used."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.private: dict[str, bool] = {}

    def HfApi(self, library_name):
        return self

    def create_repo(self, name, *, private, exist_ok):
        self.private[name] = private
        return f"https://hub/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id / "1a2b")

    def snapshot_download(self, name, *, revision, allow_patterns, library_name):
        assert set(allow_patterns) == {"model.safetensors", "config.json", "classes.json"}
        if not (self.folder / name).exists():
            raise OSError(f"404 Client Error: no {name} at {revision}")
        return str(self.folder / name / "1a2b")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", found.HfApi)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", found.snapshot_download)
    monkeypatch.setenv("TOCO_CACHE", str(tmp_path / "cache"))
    return found


def test_what_is_pushed_comes_back(run, fake, capsys):
    commands.run("push", [str(run), "me/net", "--private"])
    assert "https://hub/me/net: uploaded; use it as hf:me/net" in capsys.readouterr().out
    assert fake.private == {"me/net": True}
    files = {path.name for path in (fake.folder / "me/net/1a2b").iterdir()}
    assert files == {"model.safetensors", "config.json", "classes.json", "README.md"}

    made = hub.fetch("hf:me/net")
    assert hub.fetch("hf:me/net@main") == made
    ours, theirs = (runs.load(folder, report=lambda _: None) for folder in (run, made))
    for name in ("params", "teacher_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(theirs, name), getattr(ours, name))
    assert theirs.class_names == ours.class_names
    differing = {key for key in ours.recorded if ours.recorded[key] != theirs.recorded[key]}
    assert differing == {"init", "data"}
    assert theirs.recorded.init == "deit.pth"


class Taken(Exception):
    """What a call that stops after loading raises."""


ENTRIES = {
    "Segmenter": segmenter.Segmenter,
    "evaluate": evaluator.evaluate,
    "analyze": encoder.PhotoEncoder,
    "export": lambda name: commands.run("export", [name, "x.stablehlo"]),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_its_name_stands_for_a_run(run, fake, tmp_path, monkeypatch, entry):
    """From Python as on the command line: all load runs in one place."""
    sharing.push(run, "me/net")
    monkeypatch.chdir(tmp_path)
    found, load = [], runs.load

    def stop(*args, **kwargs):
        found.append(load(*args, **kwargs))
        raise Taken

    monkeypatch.setattr(runs, "load", stop)
    with pytest.raises(Taken):
        ENTRIES[entry]("hf:me/net")
    assert found[0].folder == hub.fetch("hf:me/net")


def test_what_a_dry_run_wrote_is_read_like_a_run(run, tmp_path):
    sharing.push(run, "me/net", dry_run=tmp_path / "out")
    ours, theirs = (runs.load(folder, report=lambda _: None) for folder in (run, tmp_path / "out"))
    jax.tree.map(np.testing.assert_array_equal, theirs.params, ours.params)
    assert (theirs.step, theirs.class_names) == (0, ours.class_names)


def test_a_compact_network_is_smaller_and_segments_alike(run, tmp_path):
    sizes = {}
    for name, options in (("whole", {}), ("compact", {"compact": True})):
        sharing.push(run, "me/net", dry_run=tmp_path / name, **options)
        sizes[name] = (tmp_path / name / "model.safetensors").stat().st_size
    # Most of so small a network is in the projection heads.
    assert sizes["compact"] < sizes["whole"] / 4
    ours, theirs = (
        runs.load(folder, report=lambda _: None) for folder in (run, tmp_path / "compact")
    )
    assert theirs.class_names == ours.class_names
    photo = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    outputs = [
        model.model.apply({"params": model.params}, normalize(photo)) for model in (ours, theirs)
    ]
    for name in ("cls_logits", "seg_logits", "aux_cam"):
        ours, theirs = (np.asarray(out[name]) for out in outputs)
        assert 0 < np.abs(theirs - ours).max() < 0.05 * np.abs(ours).max(), name


def test_a_compact_file_starts_a_training(run, tmp_path, voc_config):
    file = tmp_path / "small.safetensors"
    commands.run("convert", [str(run), "--out", str(file), "--compact"])
    given = runs.load(run, report=lambda _: None)
    sizes = {key: given.config[key] for key in ("backbone", "num_classes", "decoder_width")}
    weights = load.load(str(file), **sizes)
    assert weights["layout"].startswith("ToCo network")
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=0.02),
        weights["params"]["decoder"],
        given.params["decoder"],
    )
    # The projection heads begin anew, both alike, and a line says so.
    assert any("begins with new ones" in note for note in weights["notes"])
    jax.tree.map(
        np.testing.assert_array_equal, weights["params"]["proj_head"], weights["teacher_params"]
    )


def test_no_path_of_this_machine_is_shared(run, tmp_path):
    lines = sharing.push(run, "me/net", dry_run=tmp_path / "out", licence="mit")
    assert str(tmp_path / "out") in lines[-1]
    for path in (tmp_path / "out").iterdir():
        assert b"secret" not in path.read_bytes(), path
    with pytest.raises(OutputError, match="exists already"):
        sharing.push(run, "me/net", dry_run=tmp_path / "out")


def test_card(run, tmp_path):
    sharing.push(run, "me/net", dry_run=tmp_path / "out", licence="mit")
    text = (tmp_path / "out" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "mit"
    assert yaml.safe_load(front)["library_name"] == "toco_jax"
    assert "| seg | native \\| 1\\.25 | 61.3 |" in body
    assert "0 background, 1 aeroplane" in body and "toco predict hf:me/net" in body
    assert "initial weights: not known here" in body


def test_names_cannot_write_into_the_card(run, voc_config):
    config = voc_config()
    text = card.text(run, config, ["<script>", "[a](b)"], "me/net", None)
    assert "<script>" not in text and "[a](b)" not in text
    assert "license" not in text.split("---")[1]
    assert "Apache-2.0 (DeiT" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:me", r"'hf:me' is not of the form hf:owner/name"),
        ("hf:../x", "is not of the form"),
        ("hf:no/body", r"cannot download hf:no/body \(404 .*hf auth login"),
        ("hf:empty/one", r"has no model.safetensors and no config.json.*init=hf:empty/one"),
    ],
)
def test_what_is_no_shared_network_is_named(fake, name, message):
    (fake.folder / "empty" / "one" / "1a2b").mkdir(parents=True)
    with pytest.raises(hub.HubError, match=message):
        hub.fetch(name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crop_size", 7, r"hf:me/net is damaged, its config.json says crop_size=7"),
        ("num_classes", 3, r"classes.json|damaged"),
        ("backbone", "deit_base", "not those of deit_base with 20 classes"),
    ],
)
def test_a_damaged_repository_is_named(run, fake, key, value, message):
    sharing.push(run, "me/net")
    path = fake.folder / "me/net/1a2b/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=message):
        hub.fetch("hf:me/net")
    assert not any((fake.folder.parent / "cache" / "runs").glob("*"))


@pytest.mark.parametrize("name", ["net", "a/b/c", "a/..", "a b/c", ""])
def test_names_of_repositories(run, name):
    with pytest.raises(hub.HubError, match="not of the form owner/name"):
        sharing.push(run, name)
