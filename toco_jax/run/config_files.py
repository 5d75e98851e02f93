"""Configurations by name (`voc`, `voc:vit_base`, a file), with keys that `key=value` words set."""

import ast
import contextlib
import difflib
import importlib.util
import inspect
import pathlib
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType

from ml_collections import ConfigDict

from toco_jax.config import ConfigError, check_types, flat_values, renamed, use_method
from toco_jax.runtime.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def load_config(name: str, assignments: Iterable[str] = ()) -> ConfigDict:
    """Loads the configuration `FILE[:variant]` and sets keys of it.

    Args:
        name: a Python file, or one of the configurations that come with the package: `voc`,
            `configs/voc.py`. What follows a colon is the variant.
        assignments: `key=value` words, see `assign`.

    Raises:
        ConfigError: there is no such file, variant or key, the file fails or returns something
            else, or a value does not fit its key.
    """
    file_name, _, variant = name.partition(":")
    path = find_file(file_name)
    with _failing_in(path):
        module = _imported(path)
        takes_variant = bool(inspect.signature(module.get_config).parameters)
    if variant and not takes_variant:
        raise ConfigError(f"{name}: {path} has no variants; use {file_name}")
    with _failing_in(path):
        try:
            config = module.get_config(variant) if variant else module.get_config()
        except UserError as error:
            raise ConfigError(f"{name}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(
            f"get_config() of {path} must return a ConfigDict, and returns a "
            f"{type(config).__name__}: write it as in configs/voc.py"
        )
    # The method first, because it sets other keys.
    for assignment in sorted(assignments, key=lambda word: not word.startswith("method=")):
        assign(config, assignment)
    check_types(config)
    return config


@contextlib.contextmanager
def _failing_in(path: pathlib.Path) -> Iterator[None]:
    """Within, what the code of a configuration raises is a `ConfigError` that names its line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        number = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}, line {number}" if number else str(path)
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{where}: {type(error).__name__}: {reason}; correct it, or use --debug to see the "
            "traceback"
        ) from error


def find_file(name: str) -> pathlib.Path:
    """Finds the file of a configuration; a file on disk precedes a packaged one of the same name.

    Raises:
        ConfigError: there is no such file.
    """
    path = pathlib.Path(name)
    if path.suffix == ".py" and path.is_file():
        return path
    packaged = {file.stem: file for file in _packaged_folder().glob("*.py")}
    plain = path.stem if path.parent == pathlib.Path("configs") and path.suffix == ".py" else name
    if plain in packaged:
        return packaged[plain]
    if path.suffix == ".py" or path.is_file():
        raise ConfigError(
            f"no Python file {name!r} to read a configuration from: use one like configs/voc.py"
        )
    alike = difflib.get_close_matches(name, packaged, n=1)
    hint = f"did you mean {alike[0]}? " if alike else ""
    raise ConfigError(
        f"no configuration {name!r}: {hint}Use {', '.join(sorted(packaged))}, or a Python file"
    )


def _packaged_folder() -> pathlib.Path:
    """`configs`, which an installation keeps inside the package and a checkout beside it."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def _imported(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("toco_jax_config", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"{path} has no get_config(): write one as in configs/voc.py")
    return module


def assign(config: ConfigDict, assignment: str) -> None:
    """Sets a key of a configuration from text.

    Args:
        config: the configuration, changed in place.
        assignment: `key=value` with a dotted key. The value is read as the type that the key has:
            text as it is; numbers, tuples and True or False in Python's notation.

    Raises:
        ConfigError: there is no such key, or the value is of another type.
    """
    key, equals, text = assignment.partition("=")
    group, name = place_of(config, key)
    if isinstance(group[name], ConfigDict):
        raise ConfigError(f"{key} is a group: set a key of it, such as {key}.{min(group[name])}")
    if not equals:
        raise ConfigError(f"{key} has no value: write {key}=value")
    if key == "method":
        use_method(config, text)
        return
    try:
        group[name] = _read(text, like=group[name])
    # The last two for text that nests too deep.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        kind = type(group[name]).__name__
        raise ConfigError(
            f"{assignment[:100]}: the value must be of type {kind}, such as {key}={group[name]}"
        ) from error


def _read(text: str, *, like: object) -> object:
    """Reads text as a value of the type of `like`; raises ValueError where it is none."""
    match like:
        case bool():
            if text.lower() not in _BOOLEANS:
                raise ValueError(text)
            return _BOOLEANS[text.lower()]
        case str():
            return text
        case int() | float():
            return type(like)(text)
    value = ast.literal_eval(text)
    if isinstance(like, tuple) and not isinstance(value, tuple):
        return tuple(value) if isinstance(value, list) else (value,)
    return value


def place_of(config: ConfigDict, key: str) -> tuple[ConfigDict, str]:
    """Returns the group that holds a dotted key, and the last part of the key.

    Args:
        config: the configuration.
        key: the dotted key, perhaps by the name that an earlier version gave it.

    Raises:
        ConfigError: there is no such key; the message names the nearest ones.
    """
    *parents, name = renamed(key).split(".")
    group = config
    for parent in parents:
        group = group.get(parent) if isinstance(group, ConfigDict) else None
    if not isinstance(group, ConfigDict) or name not in group:
        alike = difflib.get_close_matches(key, flat_values(config.to_dict()), cutoff=0.5)
        hint = f"use one of {', '.join(alike)}" if alike else "`toco config voc` lists all keys"
        raise ConfigError(f"the configuration has no key {key!r}; {hint}")
    return group, name
