"""The configuration that a command line names: a file, its variant, and keys that it sets."""

import difflib
import importlib.util
import inspect
import itertools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from toco_jax.cli import commands
from toco_jax.config import ConfigError, renamed
from toco_jax.runtime.errors import UserError

# The start of an option that sets a key of the configuration, and the key.
_KEY = re.compile(r"(--?(?:no)?config\.)([^\[=]+)")


def define_config() -> None:
    """Defines `--config=FILE[:variant]`, with `--config.key=value` for each of its keys, and
    `--debug`.
    """
    config_flags.DEFINE_config_file("config", None, "Configuration file, FILE[:variant].")
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def load_config(path: str) -> ConfigDict:
    """The configuration of `FILE[:variant]`.

    Raises:
        ConfigError: no such file or variant.
    """
    name, _, variant = path.partition(":")
    if not name.endswith(".py") or not pathlib.Path(name).is_file():
        raise ConfigError(f"--config={path}: no Python file {name!r}; use one like configs/voc.py")
    spec = importlib.util.spec_from_file_location("toco_jax_config", name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if variant and not inspect.signature(module.get_config).parameters:
        raise ConfigError(f"--config={path}: {name} has no variants; use --config={name}")
    try:
        return module.get_config(variant) if variant else module.get_config()
    except UserError as error:
        raise ConfigError(f"--config={path}: {error}") from error


def place_of(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    """The part of the configuration that holds a dotted key, and the key's last name.

    Raises:
        ConfigError: no such key; the message names those that look like it.
    """
    *parents, name = renamed(key).split(".")
    place = config
    for parent in parents:
        place = place.get(parent) if isinstance(place, ConfigDict) else None
    if not isinstance(place, ConfigDict) or name not in place:
        keys = list(_keys(config))
        alike = difflib.get_close_matches(key, keys, cutoff=0.5) or sorted(config)
        raise ConfigError(f"the configuration has no key {key!r}; use one of {', '.join(alike)}")
    return place, name


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`absl.app.run`, but a user's mistake is one sentence and exit code 1: a configuration or a
    key that is not there, a word that belongs to no option, or what `main` raises.
    """
    commands.keep_streams()
    # Assigned, because `config_flags` reads the keys from `sys.argv`.
    sys.argv = [_with_present_key(argument) for argument in sys.argv]
    # Otherwise all that follows a word that is no option would be words, too.
    flags.FLAGS.set_gnu_getopt(True)

    def reported(argv: Sequence[str]) -> None:
        with commands.reported(debug=flags.FLAGS.debug):
            refuse_words(argv[1:])
            main(argv)

    app.run(reported, flags_parser=_parse)


def refuse_words(words: Sequence[str]) -> None:
    """Refuses what is left of a command line once its options are taken out.

    Raises:
        UserError: there is such a word.
    """
    if words:
        config = flags.FLAGS["config"].value
        keys = [f"config.{key}" for key in _keys(config)] if config else []
        raise UserError(commands.left_over(words[0], [*flags.FLAGS, *keys]))


def check(arguments: Sequence[str]) -> None:
    """Looks for the configuration and the keys that the arguments of a command name.

    Raises:
        ConfigError: no such file, variant or key.
    """
    config, keys = None, []
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.partition("=")
        if name in ("-config", "--config"):
            config = load_config(value if equals else following)
        elif found := _KEY.match(name):
            keys.append(found[2])
    for key in keys if config else ():
        place_of(config, key)


def _parse(argv: Sequence[str]) -> list[str]:
    with commands.reported(debug="--debug" in argv):
        check(argv[1:])
    return app.parse_flags_with_usage(argv)


def _with_present_key(argument: str) -> str:
    """The argument, a `--config.KEY` of an earlier version by its present name."""
    found = _KEY.match(argument)
    return f"{found[1]}{renamed(found[2])}{argument[found.end() :]}" if found else argument


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        yield prefix + name
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{name}.")
