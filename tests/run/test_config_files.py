"""Configurations by name, and keys that words set."""

import pathlib
import subprocess
import sys

import pytest

from toco_jax.cli import commands
from toco_jax.config import ConfigError, flat_values
from toco_jax.run import config_files
from toco_jax.run.config_files import assign, find_file, load_config

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.py", "no Python file 'nowhere.py'"),
        ("nowhere.py:a", "no Python file 'nowhere.py'"),
        ("elsewhere/voc.py", "no Python file 'elsewhere/voc.py'"),
        ("README.md", "no Python file 'README.md'"),
        ("", "no configuration ''"),
        (
            "shape",
            "no configuration 'shape': did you mean shapes? Use coco, folder, second_stage, ",
        ),
        ("voc:vit_huge", "voc:vit_huge: unknown variant 'vit_huge': use one of deit_tiny, "),
        ("configs/shapes.py:a", "shapes.py has no variants; use configs/shapes.py"),
    ],
)
def test_a_configuration_that_is_not_there(name, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError) as refused:
        load_config(name)
    assert message in str(refused.value)


def test_a_file_precedes_a_packaged_configuration(monkeypatch, tmp_path):
    packaged = REPOSITORY / "configs" / "voc.py"
    monkeypatch.chdir(tmp_path)
    assert find_file("voc") == find_file("configs/voc.py") == packaged
    assert load_config("configs/voc.py:vit_base").backbone == "vit_base"
    own = tmp_path / "configs" / "voc.py"
    own.parent.mkdir()
    own.write_text("def get_config():\n    return {}\n")
    assert find_file("voc") == packaged and find_file("configs/voc.py").resolve() == own
    own.write_text("")
    with pytest.raises(ConfigError, match=r"configs/voc\.py has no get_config\(\)"):
        load_config("configs/voc.py")


USES_DEFAULTS = "from toco_jax.config import defaults\ndef get_config():\n  c = defaults()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "own.py, line 1: SyntaxError"),
        ("\nimport nothing_like_it", "own.py, line 2: ModuleNotFoundError: No module"),
        ("get_config = 3", "own.py: TypeError: 3 is not"),
        ("def get_config():\n  return {}", "own.py must return a ConfigDict, and returns a dict"),
        (f"{USES_DEFAULTS}  c.learning_rat = 1", 'own.py, line 4: AttributeError: .*learning_rat"'),
        (f"{USES_DEFAULTS}  c.seed = 'x'", "own.py, line 4: TypeError: .*field 'seed'"),
        (f"{USES_DEFAULTS}  c.unlock()\n  c.more = 1\n  return c", "unknown key 'more'"),
        (f"{USES_DEFAULTS}  c.unlock()\n  del c.seed\n  return c", "lacks 'seed'"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(str(tmp_path / "own.py"))
    assert "\n" not in str(refused.value)


def test_an_installation_has_the_configurations_inside_the_package(monkeypatch, tmp_path):
    package = tmp_path / "toco_jax"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "own.py").touch()
    monkeypatch.setattr(config_files, "_PACKAGE", package)
    assert find_file("own") == package / "configs" / "own.py"


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("total_steps=4", 4),
        ("learning_rate=1e-3", 1e-3),
        ("weight_decay=1", 1.0),
        ("as_published=True", True),
        ("as_published=false", False),
        ("data.root=a=b c", "a=b c"),
        ("data.root=", ""),
        ("cam_scales=(1.0, 0.5)", (1.0, 0.5)),
        ("cam_scales=[1.0, 0.5]", (1.0, 0.5)),
        ("cam_scales=0.5", (0.5,)),
        ("loss_weights.ctc=((0, 0.0), (9, 0.1))", ((0, 0.0), (9, 0.1))),
    ],
)
def test_values_keep_the_type_of_their_key(assignment, value):
    config = load_config("voc")
    assign(config, assignment)
    group, name = config_files.place_of(config, assignment.partition("=")[0])
    assert group[name] == value and type(group[name]) is type(value)


def test_keys_of_earlier_versions_go_on_working():
    earlier = ("accumulate=2", "low_memory=on", "shard_optimizer=True", "data.num_threads=3")
    assert load_config("voc", [*earlier, "attention=xla"]).machine.to_dict() == {
        "attention": "xla",
        "low_memory": "on",
        "accumulate": 2,
        "shard_optimizer": True,
        "num_threads": 3,
    }


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps=3", "no key 'steps'; use one of total_steps"),
        ("data.rot=here", "no key 'data.rot'; use one of data.root"),
        ("root=here", "no key 'root'; use one of data.root"),
        ("seed.more=1", "no key 'seed.more'"),
        ("zzz=1", "no key 'zzz'; `toco config voc` lists all keys"),
        ("data=x", "data is a group: set a key of it, such as data.blur_sigma"),
        ("seed", "seed has no value: write seed=value"),
        ("seed=4.5", "seed=4.5: the value must be of type int, such as seed=0"),
        ("learning_rate=fast", "learning_rate=fast: the value must be of type float"),
        ("as_published=2", "as_published=2: the value must be of type bool"),
        ("cam_scales=(1", "cam_scales=(1: the value must be of type tuple"),
        ("cam_scales=" + "-" * 10**5 + "1", "the value must be of type tuple"),
        ("seed=" + "9" * 5000, "the value must be of type int"),
        ("cam_scales=('1',)", "cam_scales=('1',) must be of type tuple of float"),
        ("learning_rate=nan", "learning_rate=nan must be finite"),
    ],
)
def test_keys_and_values_that_do_not_fit(assignment, message):
    with pytest.raises(ConfigError) as refused:
        load_config("voc", [assignment])
    assert message in str(refused.value)


@pytest.mark.parametrize("verb", ["check", "show", "config"])
def test_a_value_that_cannot_work_is_refused_by_every_command(verb):
    with pytest.raises(
        SystemExit, match=r"error: data\.scale_range=\(1\.0,\) must be an ascending"
    ):
        commands.run(verb, ["voc", "data.scale_range=1.0"])


def test_the_configuration_is_printed_resolved(capsys):
    commands.run("config", ["voc:vit_base", "total_steps=4000", "--platform=gpu"])
    lines = capsys.readouterr().out.splitlines()
    assert {"backbone = 'vit_base'", "total_steps = 4000", "compute_dtype = 'bfloat16'"} < {*lines}
    assert "loss_weights.seg = ((0, 0.0), (2001, 0.1))" in lines
    keys = flat_values(load_config("voc").to_dict())
    assert [line.partition(" = ")[0] for line in lines] == [*keys]
    with pytest.raises(SystemExit, match="warmup_steps=1500 must be below total_steps=4"):
        commands.run("config", ["voc", "total_steps=4"])


def test_a_command_ends_with_the_sentence():
    command = [sys.executable, "-m", "toco_jax.data.check", "--config=configs/voc.py"]
    ran = subprocess.run(
        [*command, "--config.data.rot=here"], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("error: the configuration has no key 'data.rot'")
    assert ran.stderr.count("\n") == 1
