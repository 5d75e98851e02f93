"""A tiny configuration, and sub-commands run with its tables read back."""

import json

import jax
import pytest

from toco_jax.cli import commands


@pytest.fixture(scope="module")
def tiny_file(tiny_config, tmp_path_factory):
    """A configuration file of a run that compiles in seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({tiny_config().to_dict()!r})\n"
    )
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a sub-command; its tables, as written to JSON."""

    def command(*arguments):
        path = tmp_path / "benchmark.json"
        commands.run("benchmark", [*map(str, arguments), "--repeats", "1", "--json", str(path)])
        content = json.loads(path.read_text())
        assert content["command"] == arguments[0]
        assert content["hardware"]["platform"] == "cpu" and content["hardware"]["devices"] == 4
        assert content["hardware"]["jax"] == jax.__version__
        printed = " ".join(capsys.readouterr().out.split())
        assert "hardware" in printed and content["hardware"]["device"] in printed
        return content["tables"]

    return command


@pytest.fixture
def run_tiny(run, tiny_file):
    """Runs a sub-command on the tiny training step."""

    def command(name, *arguments):
        sizes = ["backbone=width=16,depth=1,heads=2,patch=8", "aux_layer=-1", "crop_size=32"]
        return run(name, tiny_file, *sizes, *arguments)

    return command


# A phase without CAMs, which compiles in a few seconds.
