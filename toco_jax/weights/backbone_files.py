"""Recognises the layout of ImageNet backbones and turns them into a plain ViT."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from toco_jax.models.vit import BACKBONES, Backbone
from toco_jax.runtime.errors import WeightsError, some_of
from toco_jax.weights import layouts, recognise

Tensors = Mapping[str, np.ndarray]

# Heads of the pre-training by layout; the network does not use them.
DROPPED = {
    "toco": ("encoder.head.weight", "encoder.head.bias"),
    "timm": (
        *("head.weight", "head.bias", "pre_logits.fc.weight", "pre_logits.fc.bias"),
        *("mask_token",),
    ),
    "transformers": (
        "classifier.weight",
        "classifier.bias",
        "pooler.dense.weight",
        "pooler.dense.bias",
        "vit.pooler.dense.weight",
        "vit.pooler.dense.bias",
        "embeddings.mask_token",
        "vit.embeddings.mask_token",
    ),
    "original": ("head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias"),
    "toco_jax": (),
}
LAYOUT_NAMES = {
    "toco": "ToCo network (PyTorch layout)",
    "timm": "ViT backbone (timm layout)",
    "transformers": "ViT backbone (Hugging Face transformers layout)",
    "original": "ViT backbone (original JAX layout)",
    "toco_jax": "toco_jax encoder",
}
_CLASS_TOKENS = {
    "toco": "encoder.cls_token",
    "timm": "cls_token",
    "transformers": "embeddings.cls_token",
    "original": "cls",
    "toco_jax": "encoder/cls_token",
}
_POSITIONS = {
    "toco": "encoder.pos_embed",
    "timm": "pos_embed",
    "transformers": "embeddings.position_embeddings",
    "original": "Transformer/posembed_input/pos_embedding",
    "toco_jax": "encoder/pos_embed",
}


def without_module(tensors: Tensors) -> dict[str, np.ndarray]:
    """Removes the `module.` that torch's data parallelism puts before every name."""
    if tensors and all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return dict(tensors)


def layout_of(tensors: Tensors) -> str:
    """Returns the layout: `toco`, `timm`, `transformers`, `original` or `toco_jax`.

    Raises:
        WeightsError: the names belong to none of these layouts.
    """
    plain = {name.removeprefix("vit.").removeprefix("deit.") for name in tensors}
    for layout, name in _CLASS_TOKENS.items():
        if name in plain:
            return layout
    some = some_of(sorted(tensors), 5) or "none"
    known = recognise.other_network(tensors)
    raise WeightsError(
        (f"these look like weights of {known}: they " if known else "these tensors ")
        + "are neither a ToCo network nor a ViT backbone in the layout of timm, DeiT, "
        f"Hugging Face transformers or the original JAX files; the first names are {some}"
    )


def positions_of(tensors: Tensors, layout: str) -> np.ndarray:
    """Returns the positional embedding `[1, 1 + grid ** 2, D]`; `WeightsError` if it is missing."""
    name = _prefixed(tensors, layout, _POSITIONS[layout])
    if name not in tensors:
        raise WeightsError(f"{name} is missing")
    return tensors[name]


def grid_of(positions: np.ndarray, name: str = "the positional embedding") -> int:
    """Returns the side, in patches, of the grid of positions `[1, 1 + grid ** 2, D]`.

    Raises:
        WeightsError: the number of entries without the class token's is not a square.
    """
    entries = positions.shape[1] - 1 if positions.ndim == 3 else -1
    grid = math.isqrt(max(entries, 0))
    if entries < 1 or grid**2 != entries:
        raise WeightsError(
            f"{name} is {positions.shape}: expected [1, 1 + grid * grid, width], such as "
            "(1, 197, 768) for a 14 x 14 grid"
        )
    return grid


def encoder_sources(tensors: Tensors, layout: str, spec: Backbone) -> dict[str, layouts.Source]:
    """Returns the layout of the encoder with the positional grid of the file."""
    grid = grid_of(positions_of(tensors, layout), _POSITIONS[layout])
    if layout == "timm":
        return layouts.timm_encoder(spec, grid)
    if layout == "transformers":
        return layouts.transformers_encoder(spec, grid, _prefix(tensors))
    if layout == "original":
        return layouts.original_encoder(spec, grid)
    return layouts.own(layouts.timm_encoder(spec, grid))


def plain_vit(tensors: Tensors, layout: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors of a plain ViT that computes the same, and notes on the changes.

    DINOv2 and DeiT III scale each residual branch; the scales are multiplied into the branch's last
    layer. DeiT III adds no position to the class token; its position becomes 0.

    Raises:
        WeightsError: it has parts that the network lacks, such as a second class token.
    """
    if found := recognise.foreign(tensors):
        what, why = found
        raise WeightsError(f"these are weights of {what}, {why}")
    tensors = dict(tensors)
    scales = [match for match in map(recognise.LAYER_SCALE.fullmatch, tensors) if match]
    if layout != "timm" or not scales:
        return tensors, []
    for match in scales:
        _fold_scale(tensors, match[0], match)
    positions = tensors.get("pos_embed")
    if positions is not None and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]:
        tensors["pos_embed"] = np.pad(np.asarray(positions, np.float32), ((0, 0), (1, 0), (0, 0)))
    return tensors, ["their layer scales were multiplied into the weights"]


def _fold_scale(tensors: dict[str, np.ndarray], name: str, match: re.Match) -> None:
    scale = np.asarray(tensors.pop(name), np.float32)
    branch = "attn.proj" if "1" in match.group(2, 3) else "mlp.fc2"
    for leaf in ("weight", "bias"):
        target = f"blocks.{match[1]}.{branch}.{leaf}"
        value = tensors.get(target)
        if value is None or scale.shape != value.shape[:1]:
            shape = None if value is None else value.shape
            raise WeightsError(f"{name} is {scale.shape}, but {target} is {shape}")
        factor = scale.reshape(-1, *[1] * (value.ndim - 1))  # [outputs, 1 ...]
        tensors[target] = np.asarray(value, np.float32) * factor


def sizes_of(tensors: Tensors, layout: str) -> dict[str, int]:
    """Returns the `width`, `depth` and `patch` of an encoder in any layout.

    Raises:
        WeightsError: a tensor whose shape is needed is missing or does not have four axes.
    """
    patterns = {
        "toco": (r"encoder\.blocks\.(\d+)\.", "encoder.patch_embed.proj.weight"),
        "timm": (r"blocks\.(\d+)\.", "patch_embed.proj.weight"),
        "transformers": (
            r"(?:vit\.)?encoder\.layer\.(\d+)\.",
            "embeddings.patch_embeddings.projection.weight",
        ),
        "original": (r"Transformer/encoderblock_(\d+)/", "embedding/kernel"),
        "toco_jax": (r"encoder/blocks_(\d+)/", "encoder/patch_embed/kernel"),
    }
    block, embedding = patterns[layout]
    name = _prefixed(tensors, layout, embedding)
    if name not in tensors or tensors[name].ndim != 4:
        raise WeightsError(f"{name} is missing or has no four axes")
    shape = tensors[name].shape
    is_torch = layout in ("toco", "timm", "transformers")
    matches = [re.match(block, name) for name in tensors]
    return {
        "width": shape[0] if is_torch else shape[3],
        "depth": len({match[1] for match in matches if match}),
        "patch": shape[2] if is_torch else shape[0],
    }


def backbone_of(sizes: Mapping[str, int]) -> str | None:
    """Returns the name of the backbone of these sizes, of two equal ones the first, or None."""
    for name, spec in BACKBONES.items():
        if all(getattr(spec, key) == value for key, value in sizes.items()):
            return name
    return None


def dropped_note(tensors: Tensors, names: Iterable[str]) -> list[str]:
    """Returns a note on those of `names` that the file has, or none; they are dropped."""
    found = [f"{name} {tensors[name].shape}" for name in names if name in tensors]
    return [f"dropped, as meant: {', '.join(found)}"] if found else []


def _prefix(tensors: Tensors) -> str:
    return "vit." if "vit.embeddings.cls_token" in tensors else ""


def _prefixed(tensors: Tensors, layout: str, name: str) -> str:
    return _prefix(tensors) + name if layout == "transformers" else name
