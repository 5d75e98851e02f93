"""The folder of a run that came from somebody else: each file of it is read or refused in short."""

import json
import os

import pytest

from toco_jax.config import defaults
from toco_jax.models.backbones import backbone_from_name
from toco_jax.run import stored, workdir
from toco_jax.run.stored import CheckpointError, DamagedCheckpointError
from toco_jax.runtime.errors import UserError

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (DEEP, "nested too deeply"),
        ('{"a":' * 900 + "1" + "}" * 900, "not the configuration"),
        ('{"backbone": "x", "num_classes": ' + "9" * 5000 + "}", "cannot be read"),
        ({"num_classes": 10**9}, "num_classes=1000000000 exceeds"),
        ({"num_classes": "a" * 10**6}, r"num_classes='a+\.\.\. must be of type int"),
        ({"backbone": ["deit_tiny"]}, "backbone=.* must be of type str"),
        ({"data": 5}, "data=5 must be a group"),
        ({"crop_size": {"a": 1}}, "damaged"),
        ({"machine": {"accumulate": True}}, r"machine\.accumulate=True must be"),
    ],
)
def test_configurations(tmp_path, content, match):
    if not isinstance(content, str):
        content = json.dumps({"backbone": "deit_tiny", "num_classes": 20} | content)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        workdir.load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value) and len(str(caught.value)) < 500


def test_a_configuration_deep_enough_for_python_s_limit(tmp_path):
    nested = '{"a":' * 900 + "1" + "}" * 900
    content = '{"backbone": "deit_tiny", "num_classes": 20, "old": ' + nested + "}"
    (tmp_path / "config.json").write_text(content)
    try:
        workdir.load_config(tmp_path)
    except CheckpointError as error:
        assert "config.json" in str(error)


@pytest.mark.parametrize(
    "backbone", ["width=8,depth=99999,heads=2,patch=8", "width=8,depth=9" + "9" * 5000]
)
def test_backbones_beyond_reason(backbone):
    with pytest.raises(UserError, match=r"backbone 'width=8,depth=99999") as caught:
        backbone_from_name(backbone)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "classes", [DEEP, "3", '["a", 1]', '["a", "\\u001b[2J"]', json.dumps(["a", "b" * 1000])]
)
def test_names_of_classes(tmp_path, classes):
    (tmp_path / "classes.json").write_text(classes)
    config = defaults()
    with config.unlocked():
        config.num_classes = 2
    with pytest.raises(CheckpointError, match=r"classes\.json must be a JSON list"):
        workdir.class_names(tmp_path, config)


@pytest.mark.parametrize("start", [DEEP, "3", "{}"])
def test_the_note_on_the_start(tmp_path, start):
    (tmp_path / "init.json").write_text(start)
    with pytest.raises(CheckpointError, match=r"init\.json (does not say|cannot be read)"):
        workdir.note_start(tmp_path, {"init": "x", "sha256": "0"}, goes_on=True)


@pytest.mark.parametrize(
    "checksums",
    [
        DEEP,
        "3",
        '{"a": 3}',
        '{"a": []}',
        '{"/dev/zero": [1, 2]}',
        '{"../outside": [1, 2]}',
        '{"a\\u0000b": [1, 2]}',
        '{"pipe": [0, 0]}',
        '{"a": [1000000000000, 0]}',
    ],
)
def test_checksums(tmp_path, checksums):
    folder = tmp_path / "checkpoints" / "5"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder.parent / "outside").write_bytes(b"1")
    os.mkfifo(folder / "pipe")
    (folder / "checksums.json").write_text(checksums)
    with pytest.raises(DamagedCheckpointError, match="5 is damaged: ") as caught:
        stored.read(folder)
    assert len(str(caught.value)) < 500


def test_the_values_beside_a_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints" / "5"
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "metadata").write_text(DEEP)
    with pytest.raises(DamagedCheckpointError, match="nested too deeply"):
        stored.read(folder)
