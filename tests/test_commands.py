"""Every command: a user's mistake is one sentence, a defect a traceback, and no output is lost."""

import errno
import importlib
import os
import pathlib
import pwd
import subprocess
import sys

import pytest

from toco_jax.cli import commands
from toco_jax.runtime.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[1]
VOC = "--config=configs/voc.py"


def ran(*arguments, **options):
    """A finished `python -m toco_jax.<...>`."""
    options = {"capture_output": True, "text": True, "cwd": REPOSITORY} | options
    return subprocess.run([sys.executable, "-m", *arguments], check=False, **options)


def one_sentence(finished, *parts):
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    for part in parts:
        assert part in finished.stderr


def test_only_errors_meant_for_users_are_reported():
    with (
        pytest.raises(SystemExit, match="error: the value is wrong"),
        commands.reported(debug=False),
    ):
        raise UserError("the value is wrong")
    for error in (ValueError("a defect"), RuntimeError("a defect"), KeyError("a defect")):
        with pytest.raises(type(error), match="a defect"), commands.reported(debug=False):
            raise error
    with pytest.raises(UserError), commands.reported(debug=True):
        raise UserError("the value is wrong")
    with pytest.raises(SystemExit) as stopped, commands.reported(debug=False):
        raise KeyboardInterrupt
    assert stopped.value.code == 130


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_no_defect(number, tmp_path):
    error = OSError(number, os.strerror(number), "runs/x/results.json")
    with pytest.raises(SystemExit) as stopped, commands.reported(debug=False):
        raise error
    said = f"error: the system refuses runs/x/results.json ({os.strerror(number)}): make room"
    assert stopped.value.code.startswith(said)
    with pytest.raises(OSError), commands.reported(debug=True):
        raise error
    with pytest.raises(FileNotFoundError), commands.reported(debug=False):
        (tmp_path / "nothing").read_text()


# Module of each command, the function that does its work, and words that reach it.
COMMANDS = {
    "predict": ("predict", ["x.jpg", "--checkpoint=c", "--out=o"]),
    "evaluate": ("score", ["--checkpoint=c"]),
    "export": ("export_run", ["run", "model"]),
    "convert": ("inspect", ["--inspect", "file"]),
    "pretrain_shapes": ("pretrain", ["--out=encoder.npz"]),
    "data.prepare": ("voc", ["voc", "--root=r", "--sbd=s"]),
    "benchmark.__main__": ("measure.hardware", ["step"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_mistakes_from_defects(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    function, words = COMMANDS[name]
    module = importlib.import_module(f"toco_jax.{name}")
    error = UserError("the value is wrong")

    def fails(*_args, **_options):
        raise error

    fails.__name__ = function
    if name == "benchmark.__main__":
        from toco_jax.benchmark import step

        monkeypatch.setattr(step, "run", fails)
    else:
        monkeypatch.setattr(module, function, fails)
    with pytest.raises(SystemExit, match="error: the value is wrong"):
        module.main(words)
    with pytest.raises(UserError):
        module.main([*words, "--debug"])
    error = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        module.main(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_left_over_words_are_refused(name, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    _, words = COMMANDS[name]
    module = importlib.import_module(f"toco_jax.{name}")
    stray = ["stray=4"] if name not in ("predict", "convert") else ["--stray=4"]
    with pytest.raises(SystemExit) as stopped:
        module.main([*words, *stray])
    assert stopped.value.code == 2
    assert f"'{stray[0]}' is no option, and nothing uses it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("predict", ["photo.jpg", "threshold=0.1", "--checkpoint=c", "--out=o"]),
        ("convert", ["runs/x", "backbone=deit_tiny"]),
        ("export", ["runs/x", "size=32"]),
    ],
)
def test_an_option_without_dashes_is_no_path(name, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"toco_jax.{name}")
    with pytest.raises(SystemExit) as stopped:
        module.main(words)
    assert stopped.value.code == 2
    assert f"'{words[1]}' is no option: write --{words[1]}" in capsys.readouterr().err


def test_a_file_may_be_called_like_an_option(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parser = commands.make_parser("p", "")
    parser.add_argument("path", nargs="+")
    parser.add_argument("--size")
    (tmp_path / "size=32").touch()
    words = ["size=32", "other=3", "a"]
    assert commands.parse(parser, words).path == words


def test_the_remedy_for_a_left_over_word():
    options = ["--size", "--out"]
    assert commands.left_over("size=4", options) == "'size=4' is no option: write --size=4"
    assert "did you mean --size?" in commands.left_over("--sise=4", options)
    assert commands.left_over("photo", options).endswith("--help lists the options")


@pytest.mark.parametrize("module", ["main", "data.check", "data.show"])
@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("config.total_steps=4", "is no option: write --config.total_steps=4"),
        ("stray", "is no option, and nothing uses it"),
    ],
)
def test_left_over_words_of_configured_commands(module, word, remedy):
    # A word comes first: what follows it counts all the same.
    one_sentence(ran(f"toco_jax.{module}", word, VOC), f"'{word}'", remedy)


def test_debug_shows_the_traceback_of_a_missing_configuration():
    finished = ran("toco_jax.main", "--config=nowhere.py", "--debug")
    assert finished.returncode == 1
    assert "Traceback" in finished.stderr and "no Python file 'nowhere.py'" in finished.stderr


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there(platform, tmp_path):
    environment = os.environ | {"JAX_PLATFORMS": platform}
    command = ["toco_jax.main", "--config=configs/shapes.py", f"--workdir={tmp_path}/run"]
    one_sentence(ran(*command, env=environment), f"JAX_PLATFORMS={platform}", "JAX_PLATFORMS=cpu")
    assert not (tmp_path / "run").exists()


def test_without_a_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

    def unknown(_user):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    commands.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    commands.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_output_goes_on_without_a_reader():
    code = (
        "import os, sys; from toco_jax.cli import commands; commands.keep_streams()\n"
        "print('first', flush=True); sys.stdin.read()\n"
        "[print('later' * 100, flush=True) for _ in range(100)]\n"
        "print('letters: \\udc80 \\u732b', file=sys.stderr)\n"
        "sys.exit(7)"
    )
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == "letters: \\udc80 \\u732b\n"
        assert process.wait() == 7


@pytest.mark.parametrize(
    ("module", "option", "message"),
    [
        ("data.show", "--out=sheet", "--out=sheet has no ending of a picture: use one such as"),
        ("data.show", "--out=README.md/sheet.png", "cannot write to the folder README.md"),
        ("data.check", "--report=README.md/x.json", "cannot write to the folder README.md"),
    ],
)
def test_outputs_are_looked_at_before_the_work(module, option, message):
    # The data set is not there, which would be the next mistake.
    config = "--config=configs/folder.py"
    one_sentence(ran(f"toco_jax.{module}", config, "--config.data.root=nowhere", option), message)
