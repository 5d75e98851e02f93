"""Commands, options and keys that the documentation shows are those that there are."""

import contextlib
import dataclasses
import functools
import io
import pathlib
import re
import shlex

import pages
import pytest

from toco_jax.cli import commands
from toco_jax.cli.verbs import VERBS, analyze, benchmark, prepare
from toco_jax.config import defaults, flat_values, renamed
from toco_jax.models.backbones import Backbone
from toco_jax.run.config_files import load_config

REPOSITORY = pages.REPOSITORY
# Other files that show commands, and the verbs of modules that have another name.
SHOWING = ("configs/*.py", "toco_jax/cli/verbs/*.py")
MODULES = {"main": "train", "data.check": "check", "data.show": "show", "data.prepare": "prepare"}
PARTED = {"prepare": prepare.PARTS, "benchmark": benchmark.PARTS, "analyze": analyze.PARTS}
PACKAGED = {path.stem for path in REPOSITORY.glob("configs/*.py")}
KEYS = flat_values(defaults().to_dict()).keys()

BEGIN = re.compile(r"(?:pip install -e \. && )?(?:python -m toco_jax\.|toco )(?=\w)")
KEY = re.compile(r"[a-z_]+(\.[a-z_]+)*(?==)")
# Options of the command line that verbs read as words, and those of other programs.
OTHER_OPTIONS = {"--config", "--config.key", "--workdir", "--checkpoint", "--help", "--debug"}
OTHER_OPTIONS |= {"--gpus", "--build-arg", "--signal"}
# What stands before `=` in the name of a backbone, or in Python.
OTHER_WORDS = {field.name for field in dataclasses.fields(Backbone)}
OTHER_WORDS |= {"key", "out", "report", "img_suffix"}


def shown_commands():
    """The commands on lines of their own in the documentation, without brackets and remarks."""
    files = pages.PAGES + [path for pattern in SHOWING for path in REPOSITORY.glob(pattern)]
    lines = [line.strip() for path in files for line in path.read_text().splitlines()]
    shown = [BEGIN.sub("", line) for line in lines if BEGIN.match(line)]
    shown = {re.sub(r"\[.*?\]|  +\S.*|`.*", "", line).strip() for line in shown}
    found = []
    for line in sorted(line for line in shown if not line.startswith("VERB")):
        first, *others = line.split(" | ")
        found += [first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)]
    return found


@pytest.mark.parametrize("command", shown_commands())
def test_documented_commands_are_understood(command):
    first, *words = shlex.split(command, comments=True)
    options = commands.read(MODULES.get(first, first), words)
    name = pathlib.Path(str(getattr(options, "config", ""))).stem.partition(":")[0]
    if name in PACKAGED:
        variant = options.config.partition(":")[2]
        config = name if variant in ("", "NAME") else f"{name}:{variant}"
        assert load_config(config, options.keys)


@functools.cache
def options_of(verb):
    """All options in the help of a verb and of its parts."""
    screen = io.StringIO()
    for part in PARTED.get(verb, [None]):
        with contextlib.redirect_stdout(screen), pytest.raises(SystemExit):
            commands.run(verb, ["--help"] if part is None else [part, "--help"])
    return set(re.findall(r"--\w+(?:-\w+)*", screen.getvalue()))


def unknown_words(span):
    """The options and keys in a piece of code that do not exist, and a verb that does not."""
    program, *words = span.split()
    if program == "toco":
        verb = next((word for word in words if not word.startswith("-")), "VERB")
        if verb not in VERBS and verb != "VERB":
            return [f"toco {verb}"]
    elif program.startswith("launch/") or span.startswith("python -m toco_jax.main"):
        verb = "train"
    elif words and not program.startswith("--"):
        return []  # the command of another program
    else:
        verb, words = "VERB", [program, *words]
    known = OTHER_OPTIONS.union(*(options_of(name) for name in VERBS if verb in (name, "VERB")))
    unknown = []
    for word in words:
        option = word.partition("=")[0]
        key = option.removeprefix("--config.")
        if option.startswith("--config.") and option not in known:
            unknown += {renamed(key)} - KEYS
        elif option.startswith("--"):
            unknown += {option} - known
        elif KEY.match(word) and key not in OTHER_WORDS:
            unknown += {renamed(key)} - KEYS
        elif re.fullmatch(r"(data|machine|loss_weights)\.(?!yaml)\w+", word):
            unknown += {renamed(word)} - KEYS
    return unknown


@pytest.mark.parametrize("path", pages.PAGES, ids=pages.name_of)
def test_options_and_keys_in_the_text_exist(path):
    spans = pages.read(path).spans
    assert not [(span, word) for span in spans for word in unknown_words(span)]


@pytest.mark.parametrize(
    ("span", "unknown"),
    [
        ("toco trian shapes", ["toco trian"]),
        ("toco train voc --crf data.rot=DIR", ["--crf", "data.rot"]),
        ("launch/workstation.sh --config=voc --config.seeed=3", ["seeed"]),
        ("--no_such_option=3", ["--no_such_option"]),
        ("machine.memory", ["machine.memory"]),
        ("toco evaluate RUN --crf_classes=8", []),
        ("data.num_threads=8", []),
    ],
)
def test_what_does_not_exist_is_found(span, unknown):
    assert unknown_words(span) == unknown


def test_the_front_page_lists_every_verb():
    text = (REPOSITORY / "README.md").read_text()
    rows = re.findall(r"^\| \[`toco (\w+)`\]\([\w./#-]+\) \| (.*) \|$", text, re.MULTILINE)
    assert dict(rows) == VERBS and len(rows) == len(VERBS)
