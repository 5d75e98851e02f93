"""Grids of an ablation: named variants of a configuration, from a JSON file or built in."""

import dataclasses
import pathlib
import re
from typing import Any

from toco_jax.config.methods import TERMS
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import UserError, clipped, shown

_EXAMPLE = '[{"name": "no_ptc", "set": ["loss_weights.ptc=((0, 0.0),)"]}]'
# A folder's name on any system, which no cell of a Markdown table needs to escape.
_NAME = re.compile(r"\w(?:[\w+.=, -]*[\w+])?")
_LONGEST_NAME = 80
_LARGEST_FILE = 2**20  # bytes


class GridError(UserError):
    """A grid of variants cannot be used; the message names the file, the value and the remedy."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of an ablation.

    Attributes:
        name: its name in the table and of its folder.
        words: `key=value` words that make the configuration this variant.
    """

    name: str
    words: tuple[str, ...]


def _of_terms(*terms: str) -> tuple[str, ...]:
    """Returns the words that leave some terms as they are and switch the others of ToCo off."""
    # `sup` is no part of ToCo, and stays what the configuration has it; so do other methods' terms.
    off = [term for term in TERMS["toco"] if term not in (*terms, "sup")]
    return tuple(f"loss_weights.{term}=((0, 0.0),)" for term in off)


# The poster's ablation: each part of the method added to what there was before. A term that is on
# keeps its weights of the configuration.
POSTER = (
    Variant("cls", _of_terms("cls")),
    Variant("cls+aux", _of_terms("cls", "cls_aux")),
    Variant("cls+aux+ptc", _of_terms("cls", "cls_aux", "ptc")),
    Variant("cls+aux+ctc", _of_terms("cls", "cls_aux", "ctc")),
    Variant("cls+aux+ptc+ctc", _of_terms("cls", "cls_aux", "ptc", "ctc")),
    Variant("all", ()),
)
_BUILT_IN = {"poster": POSTER}


def read(grid: str) -> tuple[Variant, ...]:
    """Returns the variants of a grid, in its order.

    Args:
        grid: `poster`, or a JSON file: a list of `{"name": ..., "set": ["key=value", ...]}`, where
            a variant without `set` is the configuration as it is.

    Raises:
        GridError: there is no such grid, or it is something else. Keys and values are not looked
            at.
    """
    if grid in _BUILT_IN:
        return _BUILT_IN[grid]
    path = pathlib.Path(grid)
    if not path.is_file():
        raise GridError(f"no grid {grid!r}: use poster, or a JSON file such as {_EXAMPLE}")
    if path.stat().st_size > _LARGEST_FILE:
        raise GridError(f"{grid} is larger than 1 MiB: give a grid, a JSON file such as {_EXAMPLE}")
    try:
        entries = json_text.parse(path.read_bytes())
    except ValueError as error:
        raise GridError(
            f"{grid} is no JSON ({clipped(error, 300)}): write it as in {_EXAMPLE}"
        ) from error
    if not isinstance(entries, list) or not entries:
        raise GridError(f"{grid} must be a list of variants: write it as in {_EXAMPLE}")
    variants = tuple(_variant(entry, f"{grid}, entry {i}") for i, entry in enumerate(entries, 1))
    names: set[str] = set()
    for variant in variants:
        # Some disks do not tell capital letters from small ones.
        if variant.name.casefold() in names:
            raise GridError(f"{grid} has two variants called {variant.name!r}: rename one of them")
        names.add(variant.name.casefold())
    return variants


def _variant(entry: Any, where: str) -> Variant:
    if not isinstance(entry, dict) or "name" not in entry:
        raise GridError(f"{where} is no variant with a name: write the grid as in {_EXAMPLE}")
    if unknown := sorted(entry.keys() - {"name", "set"}):
        raise GridError(
            f"{where} has {shown(unknown[0])}, and a variant has name and set only: write the "
            f"grid as in {_EXAMPLE}"
        )
    name, words = entry["name"], entry.get("set", [])
    is_name = isinstance(name, str) and _NAME.fullmatch(name) and len(name) <= _LONGEST_NAME
    if not is_name or name.startswith("ablation."):
        raise GridError(
            f"{where}: name={shown(name)} cannot be the name of a folder: use up to "
            f"{_LONGEST_NAME} letters, digits and _+-=,. such as no_ptc"
        )
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise GridError(
            f"{where}: set={shown(words)} must be a list of key=value words: write the grid as in "
            f"{_EXAMPLE}"
        )
    return Variant(name, tuple(words))
