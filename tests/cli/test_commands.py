"""Every command: a user's mistake is one sentence, a defect a traceback, and no output is lost."""

import ast
import errno
import os
import pathlib
import pwd
import re
import subprocess
import sys

import pytest

from toco_jax.cli import commands, parser, process, verbs
from toco_jax.cli.verbs import VERBS, analyze, benchmark, prepare
from toco_jax.runtime.errors import UserError

REPOSITORY = pathlib.Path(__file__).parents[2]
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


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nMore"),
        MemoryError("Unable to allocate 3 TiB"),
        MemoryError(),
    ],
)
def test_a_lack_of_memory_is_no_defect(error):
    with (
        pytest.raises(SystemExit, match="error: the memory is not enough") as stopped,
        commands.reported(debug=False),
    ):
        raise error
    said = stopped.value.code
    assert " ".join(str(error).split()) in said and "\n" not in said and "batch_size" in said
    with pytest.raises(type(error)), commands.reported(debug=True):
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_no_defect(number, tmp_path):
    error = OSError(number, os.strerror(number), "runs/x/results.json")
    with pytest.raises(SystemExit) as stopped, commands.reported(debug=False):
        raise error
    said = f"error: the system refuses runs/x/results.json ({os.strerror(number)}): make room"
    assert stopped.value.code.startswith(said)
    with (
        pytest.raises(SystemExit, match="refuses a file of the results"),
        commands.reported(debug=False),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError), commands.reported(debug=True):
        raise error
    with pytest.raises(FileNotFoundError), commands.reported(debug=False):
        (tmp_path / "nothing").read_text()


# Verb, the module that does its work and the function there, and words that reach it.
COMMANDS = {
    "train": ("training.loop.train", ["shapes"]),
    "ablate": ("training.ablation.ablate", ["shapes"]),
    "predict": ("predict.predict", ["c", "x.jpg", "--out=o"]),
    "report": ("report.run_page.write", ["run"]),
    "analyze": ("inference.analysis.figures.similarity", ["similarity", "c", "x.jpg", "--out=o"]),
    "evaluate": ("evaluate.score", ["c"]),
    "export": ("export.export_run", ["run", "model"]),
    "push": ("convert.hub.push", ["run", "me/net"]),
    "convert": ("weights.inspection.inspect", ["--inspect", "file"]),
    "check": ("data.check.print_check", ["voc"]),
    "show": ("data.show.write_sheet", ["voc"]),
    "prepare": ("data.prepare.voc", ["voc", "--root=r", "--sbd=s"]),
    "benchmark": ("benchmark.step.run", ["step"]),
    "config": ("config.validate", ["voc"]),
    "pretrain": ("pretrain_shapes.pretrain", ["--out=encoder.npz"]),
}


def test_every_verb_has_a_module():
    assert VERBS.keys() == COMMANDS.keys()
    folder = pathlib.Path(verbs.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__"} == VERBS.keys()


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_tells_mistakes_from_defects(verb, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    function, words = COMMANDS[verb]
    error = UserError("the value is wrong")

    def fails(*_args, **_options):
        raise error

    monkeypatch.setattr(f"toco_jax.{function}", fails)
    with pytest.raises(SystemExit, match="error: the value is wrong"):
        commands.run(verb, words)
    with pytest.raises(UserError):
        commands.run(verb, [*words, "--debug"])
    error = ValueError("a defect")
    with pytest.raises(ValueError, match="a defect"):
        commands.run(verb, words)


def refused(capsys, verb, *words):
    """The one sentence with which a verb refuses words."""
    with pytest.raises(SystemExit) as stopped:
        commands.run(verb, words)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize("verb", COMMANDS)
def test_unknown_options_are_refused(verb, capsys):
    _, words = COMMANDS[verb]
    assert "'--stray=4' is no option" in refused(capsys, verb, *words, "--stray=4")
    assert "did you mean --debug?" in refused(capsys, verb, *words, "--debgu")


@pytest.mark.parametrize(
    "verb", sorted(COMMANDS.keys() - {"predict", "report", "analyze", "convert", "benchmark"})
)
def test_left_over_words_are_refused(verb, capsys):
    _, words = COMMANDS[verb]
    assert "'stray' is no option, and nothing uses it" in refused(capsys, verb, *words, "stray")


@pytest.mark.parametrize("verb", ["train", "ablate", "check", "show", "config"])
def test_a_missing_configuration_is_named(verb, capsys):
    assert "required: CONFIG" in refused(capsys, verb, "total_steps=4")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("predict", ["photo.jpg", "threshold=0.1", "--checkpoint=c", "--out=o"]),
        ("convert", ["runs/x", "backbone=deit_tiny"]),
        ("export", ["runs/x", "size=32"]),
        ("train", ["shapes", "out=runs/x"]),
    ],
)
def test_an_option_without_dashes_is_no_path(verb, words, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, verb, *words)
    assert f"'{words[1]}' is no option: write --{words[1]}" in said


def test_a_target_is_given_once(capsys):
    for verb in ("export", "convert"):
        assert "'b' is no option" in refused(capsys, verb, "r", "b", "--out=a")
    assert "required: --out" in refused(capsys, "export", "r")


def test_predictions_have_a_folder_of_their_own():
    assert commands.read("predict", ["r", "a.jpg"]).out == pathlib.Path("predictions")


@pytest.mark.parametrize("option", ["--limit", "--batch_size", "--threads", "--crf_classes"])
def test_numbers_that_count_are_not_negative(option, capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.read("evaluate", ["run", f"{option}=-1"])
    assert stopped.value.code == 2
    said = f"error: argument {option}: -1 must be a whole number of at least 0"
    assert capsys.readouterr().err.startswith(said)


def test_a_file_may_be_called_like_an_option(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "every=32").touch()
    words = ["every=32", "other=3", "a"]
    assert commands.read("predict", ["r", *words, "--out=o"]).path == words


def test_the_remedy_for_an_unknown_word():
    options = ["--size", "--out"]
    assert parser.unknown_option("size=4", options) == "'size=4' is no option: write --size=4"
    assert "did you mean --size?" in parser.unknown_option("--sise=4", options)
    assert parser.unknown_option("photo", options).endswith("--help lists the options")
    found = parser.unknown_option("--total_steps=4", options, takes_keys=True)
    assert "a key of the configuration is written total_steps=value" in found


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["trian", "shapes"], "no command 'trian': did you mean train?"),
        (["--stray"], "no command '--stray': `toco --help` lists all"),
        (["prepare", "cooc"], "toco prepare has no command 'cooc': did you mean coco?"),
    ],
)
def test_an_unknown_command(words, remedy):
    finished = ran("toco_jax", *words)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert remedy in finished.stderr and finished.stderr.count("\n") == 1


def test_a_command_without_words_lists_them():
    finished = ran("toco_jax")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == ran("toco_jax", "--help").stdout


# Runs the door of `toco` with the rest of the command line, then says what was imported and which
# CPU time it took, in seconds.
HELP = """
import resource, sys
from toco_jax import __main__
try:
    __main__.main()
finally:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    heavy = {"jax", "numpy", "absl", "ml_collections"} & sys.modules.keys()
    verbs = {name.rpartition(".")[2] for name in sys.modules if "cli.verbs." in name}
    print([usage.ru_utime + usage.ru_stime, sorted(heavy), sorted(verbs)], file=sys.stderr)
"""


def help_of(*words):
    """The help, the CPU seconds that it took, and the verbs whose modules it imported."""
    command = [sys.executable, "-c", HELP, *words, "--help"]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, heavy, imported = ast.literal_eval(finished.stderr)
    assert not heavy
    return finished.stdout, seconds, imported


def test_help_is_quick_and_lists_every_verb():
    screen, seconds, imported = help_of()
    assert seconds < 0.5 and imported == []
    lines = {line.split()[0]: line for line in screen.splitlines() if line.startswith("  ")}
    assert lines.keys() == VERBS.keys()
    assert all(lines[verb].endswith(line) for verb, line in VERBS.items())
    assert max(map(len, screen.splitlines())) <= 100 and screen.count("\n") < 24


PARTED = {"prepare": prepare.PARTS, "benchmark": benchmark.PARTS, "analyze": analyze.PARTS}
HELPS = [[verb] for verb in VERBS] + [[verb, part] for verb in PARTED for part in PARTED[verb]]


@pytest.mark.parametrize("words", HELPS, ids=" ".join)
def test_help_of_a_verb_says_every_option_in_a_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        commands.run(words[0], [*words[1:], "--help"])
    assert stopped.value.code == 0
    screen = capsys.readouterr().out
    assert f"toco {words[0]}" in screen
    for line in screen.partition("\noptions:\n")[2].partition("\n\n")[0].splitlines():
        option, _, text = line.strip().partition("  ")
        assert option.startswith("-") and text
        takes_value = option.split()[0] != "-h," and " " in option
        assert takes_value == ("default" in text), line


@pytest.mark.parametrize("words", [["train"], ["benchmark", "step"]], ids=" ".join)
def test_help_of_a_verb_is_quick(words):
    _, seconds, imported = help_of(*words)
    assert seconds < 0.5 and imported == words[:1]


@pytest.mark.parametrize(
    ("verb", "earlier", "now"),
    [
        (
            "train",
            ["--config=voc.py", "--workdir=w", "--config.data.root=a=b", "--config.seed", "4"],
            ["voc.py", "--out", "w", "data.root=a=b", "seed=4"],
        ),
        (
            "train",
            ["--config", "x.py", "--distributed", "--num_processes=2", "--process_id=0"],
            ["x.py", "--num-processes", "2", "--process-id=0", "--distributed"],
        ),
        (
            "evaluate",
            ["--checkpoint=r", "--num_threads=3", "--protocol=448"],
            ["--threads=3", "r", "--protocol", "448"],
        ),
        (
            "predict",
            ["a.jpg", "--checkpoint", "r", "--out=o", "b.jpg"],
            ["r", "a.jpg", "b.jpg", "--out=o"],
        ),
        ("check", ["--config=c", "--report=r.json"], ["c", "--json=r.json"]),
        ("export", ["r", "m.stablehlo", "--size=8"], ["r", "--size=8", "--out", "m.stablehlo"]),
        ("convert", ["a.pth", "runs/r"], ["--out=runs/r", "a.pth"]),
        (
            "prepare",
            ["coco", "--root", "r", "--workers", "0"],
            ["coco", "--root", "r", "--threads=0"],
        ),
        (
            "prepare",
            ["tfds", "--source=voc", "--root=r", "--out=o", "--no-masks", "--val-fraction=0.2"],
            ["tfds", "--source=voc", "--root=r", "--out=o", "--no_masks", "--val_fraction", "0.2"],
        ),
        (
            "benchmark",
            ["step", "--config=c", "--backbone=b", "--size", "48", "--set", "seed=4"],
            ["step", "c", "backbone=b", "crop_size=48", "seed=4"],
        ),
        (
            "benchmark",
            ["par", "--size=48", "--no-together"],
            ["par", "--size", "48", "--no-together"],
        ),
    ],
)
def test_earlier_spellings_mean_the_same(verb, earlier, now):
    assert commands.read(verb, earlier) == commands.read(verb, now)


def test_words_come_in_any_order():
    options = commands.read("train", ["seed=4", "--out=o", "shapes", "data.root=r"])
    assert (options.config, options.keys) == ("shapes", ["seed=4", "data.root=r"])
    assert commands.read("benchmark", ["step", "seed=4"]).config == "voc"
    words = ["shapes", "a=1", "--seeds", "0", "1", "a=2", "b=3", "--out", "c=4", "d=5"]
    options = commands.read("ablate", words)
    assert (options.config, options.seeds, str(options.out)) == ("shapes", [0, 1], "c=4")
    assert options.keys == ["a=1", "a=2", "b=3", "d=5"]


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
    process.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    process.keep_programs()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_output_goes_on_without_a_reader():
    code = (
        "import os, sys; from toco_jax.cli import process; process.keep_streams()\n"
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
    ("verb", "option", "message"),
    [
        ("show", "--out=sheet", "--out=sheet has no ending of a picture: use one such as"),
        ("show", "--out=README.md/sheet.png", "cannot write to the folder README.md"),
        ("check", "--json=README.md/x.json", "cannot write to the folder README.md"),
    ],
)
def test_outputs_are_looked_at_before_the_work(verb, option, message, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    # The data set is not there, which would be the next mistake.
    words = ["--config=configs/folder.py", "--config.data.root=nowhere", option]
    with pytest.raises(SystemExit, match=f"^error: .*{re.escape(message)}") as stopped:
        commands.run(verb, words)
    assert "\n" not in stopped.value.code
