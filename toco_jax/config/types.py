"""Checks that a configuration has exactly the known keys, each with a value of its type."""

import math
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.config.keys import LOSS_TERMS, ConfigError, defaults, flat_values

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
# Steps, sizes and counts become int32 on the devices.
_INTEGERS = (-(2**31), 2**31 - 1)
# JAX takes 32 bits of a seed; a split's seed is only hashed.
_INTEGERS_OF = {"seed": (0, 2**32 - 1), "data.split_seed": (-(2**63), 2**63 - 1)}


def check_types(config: ConfigDict) -> None:
    """Checks the names and the types of all keys, and that their numbers are finite.

    An int may stand for a float, and a list for a tuple. A bool is no number.

    Raises:
        ConfigError: the message is one sentence on the first such key.
    """
    usual, given = flat_values(defaults().to_dict()), flat_values(config.to_dict())
    terms = {key for key in usual.keys() ^ given.keys() if key.startswith("loss_weights.")}
    if terms:
        differing = sorted(key.removeprefix("loss_weights.") for key in terms)
        raise ConfigError(
            f"loss_weights must name exactly {', '.join(LOSS_TERMS)}; differs in {differing}"
        )
    if unknown := sorted(given.keys() - usual.keys()):
        raise ConfigError(
            f"the configuration has an unknown key {unknown[0]!r}: remove it; `toco config voc` "
            "lists all keys"
        )
    if missing := sorted(usual.keys() - given.keys()):
        raise ConfigError(
            f"the configuration lacks {missing[0]!r}: begin with toco_jax.config.defaults(), which "
            "has every key"
        )
    check_known(config)


def check_known(config: ConfigDict) -> None:
    """Checks the types of the keys that are known, and leaves others alone, as `check_types` does.

    A configuration of an earlier version may have other keys.

    Raises:
        ConfigError: the message is one sentence on the first key of a wrong type.
    """
    given = flat_values(config.to_dict())
    for key, like in flat_values(defaults().to_dict()).items():
        value = given.get(key)
        if not _fits(value, like):
            raise ConfigError(
                f"{key}={_shown(value)} must be of type {_type_of(like)}, such as {key}={like!r}"
            )
        _check_numbers(key, value, given=value)


def _fits(value: Any, like: Any) -> bool:
    """Returns whether a value has the type of another; tuples may have another length unless they
    mix types, as pairs do.
    """
    if not isinstance(like, tuple):
        kinds = (int, float) if isinstance(like, float) else type(like)
        return isinstance(value, kinds) and isinstance(value, bool) == isinstance(like, bool)
    if not isinstance(value, tuple):
        return False
    if len({type(item) for item in like}) == 1:
        return all(_fits(item, like[0]) for item in value)
    return len(value) == len(like) and all(map(_fits, value, like))


def _check_numbers(key: str, value: Any, *, given: Any) -> None:
    """Checks the numbers in a value, or in the items of a tuple, and that text is a path's."""
    if isinstance(value, tuple):
        for item in value:
            _check_numbers(key, item, given=given)
    elif isinstance(value, float):
        if not math.isfinite(value) or abs(value) > _LARGEST_FLOAT:
            raise ConfigError(f"{key}={_shown(given)} must be finite in float32, so below 3e38")
    elif isinstance(value, int):
        low, high = _INTEGERS_OF.get(key, _INTEGERS)
        if not low <= value <= high:
            raise ConfigError(f"{key}={_shown(given)} must lie between {low} and {high}")
    elif "\0" in value:
        raise ConfigError(f"{key}={_shown(given)} must not hold a null character: remove it")


def _type_of(like: Any) -> str:
    """Returns the name of a value's type, of a tuple with the types of its items."""
    if not isinstance(like, tuple):
        return type(like).__name__
    kinds = [_type_of(item) for item in like]
    return f"tuple of {kinds[0]}" if len({*kinds}) == 1 else f"({', '.join(kinds)})"


def _shown(value: Any) -> str:
    """Returns the start of a value in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
