"""Refuses weights of another backbone than the one that is to be filled."""

import pathlib
from collections.abc import Mapping

import numpy as np

from toco_jax.models.backbones import BACKBONES, Backbone, backbone_from_name
from toco_jax.runtime.errors import WeightsError, clipped, shown
from toco_jax.weights import files, recognise

Tensors = Mapping[str, np.ndarray]


def check_heads(folder: pathlib.Path, backbone: str) -> None:
    """Raises `WeightsError` if the `config.json` beside a file gives another number of heads."""
    heads = files.model_config(folder).get("num_attention_heads")
    expected = backbone_from_name(backbone).heads
    if isinstance(heads, int) and heads != expected:
        raise WeightsError(
            f"{folder / 'config.json'} says {heads} attention heads, {backbone!r} has {expected}: "
            "set backbone=NAME of one with as many"
        )


def check_name(init: str, backbone: str) -> None:
    """Raises `WeightsError` if `init` and `backbone` name different networks."""
    if {init, backbone} <= BACKBONES.keys() and BACKBONES[init] != BACKBONES[backbone]:
        raise WeightsError(
            f"init={init!r} are weights of another network than backbone={backbone!r}: set "
            f"init={backbone} or backbone={init}"
        )


def check_backbone(stated: str | None, backbone: str) -> None:
    """Raises `WeightsError` if a source names another backbone.

    The number of heads does not show in the shapes of the tensors.
    """
    if stated is not None and backbone_from_name(stated) != backbone_from_name(backbone):
        raise WeightsError(
            f"these weights are of the backbone {shown(stated)}, not {backbone!r}: set "
            f"backbone={clipped(stated)}"
        )


_REMEDY = "set backbone to the one that `toco convert --inspect FILE` names"


def check_rotary(tensors: Tensors, backbone: str, spec: Backbone) -> None:
    """Raises `WeightsError` if one of file and backbone has rotary positions."""
    if spec.rotary != bool(recognise.parts_of(tensors).get("rotary")):
        has, lacks = "rotary positions", "a table of positions"
        theirs, ours = (lacks, has) if spec.rotary else (has, lacks)
        raise WeightsError(
            f"these weights have {theirs}, the backbone {backbone} has {ours}: {_REMEDY}"
        )


def check_parts(tensors: Tensors, backbone: str, spec: Backbone) -> None:
    """Raises `WeightsError` if the parts of the file are not those of the backbone.

    A backbone without layer scales takes files that have them, see `usual`.
    """
    parts = recognise.parts_of(tensors)
    registers = parts.get("registers", 0)
    if registers != spec.registers:
        raise WeightsError(
            f"these weights have {registers} register tokens, the backbone {backbone} has "
            f"{spec.registers}: {_REMEDY}"
        )
    if spec.gated != bool(parts.get("gated")):
        theirs, ours = ("no gated", "has them") if spec.gated else ("gated", "has none")
        raise WeightsError(
            f"these weights have {theirs} layers (SwiGLU), the backbone {backbone} {ours}: "
            f"{_REMEDY}"
        )
    if spec.layer_scale and not parts.get("layer_scale"):
        raise WeightsError(
            f"these weights have no layer scales, the backbone {backbone} has them: {_REMEDY}"
        )
