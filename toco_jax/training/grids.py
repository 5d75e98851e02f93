"""Grids of an ablation: named variants of a configuration, from a JSON file or built in."""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from toco_jax.config.methods import ADDED, TERMS
from toco_jax.models.backbones import backbone_from_name
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
    # `ADDED` are no part of ToCo, and stay what the configuration has them; so do terms of others.
    off = [term for term in TERMS["toco"] if term not in (*terms, *ADDED)]
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
# Sizes of local crops as shares of the crop, at 448 pixels 64, 96 (as published), 128 and 160.
_CROP_SIZES = (1 / 7, 3 / 14, 2 / 7, 5 / 14)
_CROP_COUNTS = (2, 4, 8, 16)


def _values(key: str, *values: float) -> Callable[[ConfigDict], tuple[Variant, ...]]:
    """Returns the grid of values of a key, with the configuration's own among them."""

    def variants(config: ConfigDict) -> tuple[Variant, ...]:
        chosen = sorted({*values, config[key]})
        return tuple(Variant(f"{key} {value}", (f"{key}={value}",)) for value in chosen)

    return variants


def _aux_layers(config: ConfigDict) -> tuple[Variant, ...]:
    """The auxiliary classifier after the 5th to the 2nd block from the end, as in the paper."""
    depth = backbone_from_name(config.backbone).depth
    own = config.aux_layer if config.aux_layer < 0 else config.aux_layer - depth
    layers = sorted({own, *range(max(-5, -depth), -1)})
    return tuple(Variant(f"aux_layer {layer}", (f"aux_layer={layer}",)) for layer in layers)


def _crops(config: ConfigDict) -> tuple[Variant, ...]:
    """Other numbers of local crops, and other sizes."""
    patch = backbone_from_name(config.backbone).patch
    count, size = config.num_local_crops, config.local_crop_size
    sizes = [max(round(share * config.crop_size / patch), 1) * patch for share in _CROP_SIZES]
    pairs = {(n, size) for n in _CROP_COUNTS} | {(count, s) for s in sizes} | {(count, size)}
    return tuple(
        Variant(f"{n} crops of {s}", (f"num_local_crops={n}", f"local_crop_size={s}"))
        for n, s in sorted(pairs)
    )


def _methods(config: ConfigDict) -> tuple[Variant, ...]:
    """Every method, ToCo with an image head or propagated CAMs, and the network on masks alone."""
    methods = [Variant(name, (f"method={name}",)) for name in ("toco", "toco_plus", "afa")]
    head = Variant("toco, image head", ("method=toco", "loss_weights.cls_img=((0, 1.0),)"))
    spread = Variant("toco, propagated", ("method=toco", "propagate_cams=True"))
    off = [f"loss_weights.{term}=((0, 0.0),)" for term in TERMS["toco"] if term != "sup"]
    ceiling = Variant("true masks", ("method=toco", *off, "loss_weights.sup=((0, 1.0),)"))
    return (*methods, head, spread, ceiling)


BUILT_IN: dict[str, Callable[[ConfigDict], tuple[Variant, ...]]] = {
    "poster": lambda config: POSTER,
    "methods": _methods,
    "aux_layer": _aux_layers,
    "temperature": _values("temperature", 0.1, 0.25, 0.5, 1.0),
    "crops": _crops,
    "ema_momentum": _values("ema_momentum", 0.0, 0.5, 0.9, 0.99, 0.999),
}


def read(grid: str, config: ConfigDict) -> tuple[Variant, ...]:
    """Returns the variants of a grid, in its order.

    Args:
        grid: one of `BUILT_IN`, or a JSON file: a list of `{"name": ..., "set": ["key=value",
            ...]}`, where a variant without `set` is the configuration as it is.
        config: the configuration that the variants change. Its own values are among those of a
            built-in grid.

    Raises:
        GridError: there is no such grid, or it is something else. Keys and values are not looked
            at.
    """
    if grid in BUILT_IN:
        return BUILT_IN[grid](config)
    path = pathlib.Path(grid)
    if not path.is_file():
        known = ", ".join(BUILT_IN)
        raise GridError(f"no grid {grid!r}: use one of {known}, or a JSON file such as {_EXAMPLE}")
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
