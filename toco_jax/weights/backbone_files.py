"""Recognises the layout of ImageNet backbones and turns them into a plain ViT."""

import math
import re
from collections.abc import Mapping

import numpy as np

from toco_jax.models.backbones import BACKBONES, Backbone
from toco_jax.runtime.errors import WeightsError, some_of
from toco_jax.weights import dinov3, encoder_layouts, layouts, recognise

Tensors = Mapping[str, np.ndarray]

# Heads of the pre-training by layout; the network does not use them.
_DROPPED = {
    "toco": ("encoder.head.weight", "encoder.head.bias"),
    "timm": (
        *("head.weight", "head.bias", "pre_logits.fc.weight", "pre_logits.fc.bias"),
        *("mask_token",),
    ),
    "transformers": (
        *("classifier.weight", "classifier.bias", "pooler.dense.weight", "pooler.dense.bias"),
        *("embeddings.mask_token",),
    ),
    "original": ("head/kernel", "head/bias", "pre_logits/kernel", "pre_logits/bias"),
    "toco_jax": (),
}
# The decoder of MAE, of its authors and of Hugging Face, which only the pre-training uses.
_MAE_DECODER = re.compile(r"(decoder\.)?decoder_\w+(\..*)?|decoder\.mask_token")
LAYOUT_NAMES = {
    "toco": "ToCo network (PyTorch layout)",
    "timm": "ViT backbone (timm layout)",
    "transformers": "ViT backbone (Hugging Face transformers layout)",
    "original": "ViT backbone (original JAX layout)",
    "toco_jax": "toco_jax encoder",
}
# A layer scale of timm's or of Hugging Face's DINOv2, by its block and whether it is 1 or 2.
_SCALE = re.compile(
    r"(?P<block>blocks\.\d+|(?:\w+\.)?encoder\.layer\.\d+)"
    r"\.(?:ls(?P<timm>[12])\.gamma|layer_scale(?P<transformers>[12])\.lambda1)"
)
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
    for layout, name in _CLASS_TOKENS.items():
        if _prefixed(tensors, layout, name) in tensors:
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


def stored_grid(tensors: Tensors, layout: str, spec: Backbone) -> int:
    """Returns the side of the positional grid of a file; 0 for rotary positions.

    Raises:
        WeightsError: the positions are missing, or are no square grid.
    """
    return 0 if spec.rotary else grid_of(positions_of(tensors, layout), _POSITIONS[layout])


def encoder_sources(tensors: Tensors, layout: str, spec: Backbone) -> dict[str, layouts.Source]:
    """Returns the layout of the encoder with the positional grid of the file."""
    if spec.rotary and layout == "transformers":
        return encoder_layouts.dinov3_encoder(spec, _prefix(tensors))
    grid = stored_grid(tensors, layout, spec)
    if layout == "timm":
        return encoder_layouts.timm_encoder(spec, grid)
    if layout == "transformers":
        layers = encoder_layouts.VIT_LAYERS
        if any(re.search(r"encoder\.layer\.\d+\.norm1\.", name) for name in tensors):
            layers = encoder_layouts.DINOV2_LAYERS
        if spec.gated:
            layers = encoder_layouts.DINOV2_GATED_LAYERS
        return encoder_layouts.transformers_encoder(spec, grid, _prefix(tensors), layers)
    if layout == "original":
        return encoder_layouts.original_encoder(spec, grid)
    return layouts.own(encoder_layouts.timm_encoder(spec, grid))


def usual(
    tensors: Tensors, layout: str, *, layer_scale: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors as `encoder_sources` expects them, and notes on the changes.

    Parts that libraries call differently get one name. Where the class token has no position, as in
    DeiT III, the position becomes 0.

    Args:
        tensors: the tensors of a file.
        layout: their layout.
        layer_scale: whether the backbone scales its residual branches. If not, scales are
            multiplied into each branch's last layer, which computes the same.

    Raises:
        WeightsError: it has parts that the network lacks, such as a second class token.
    """
    if found := recognise.foreign(tensors):
        what, why = found
        raise WeightsError(f"these are weights of {what}, {why}")
    is_rotary = "rotary" in recognise.parts_of(tensors)
    if is_rotary and layout == "transformers":
        tensors = dinov3.without_wrapper(tensors, _prefix(tensors))
    if layout == "timm":
        tensors = _under_usual_names(dinov3.joined(tensors) if is_rotary else tensors)
        positions = tensors.get("pos_embed")
        if positions is not None and _is_square(positions):
            padded = np.pad(np.asarray(positions, np.float32), ((0, 0), (1, 0), (0, 0)))
            tensors["pos_embed"] = padded
    tensors = dict(tensors)
    scales = [match for match in map(_SCALE.fullmatch, tensors) if match]
    if layer_scale or not scales:
        return tensors, []
    for match in scales:
        _fold_scale(tensors, match)
    return tensors, ["their layer scales were multiplied into the weights"]


def _under_usual_names(tensors: Tensors) -> dict[str, np.ndarray]:
    renamed: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        usual_name = _usual_name(name)
        if usual_name in renamed or (usual_name != name and usual_name in tensors):
            raise WeightsError(f"{name} and {usual_name} are the same part: the file has it twice")
        renamed[usual_name] = value
    return renamed


def _usual_name(name: str) -> str:
    if name == "register_tokens":
        return "reg_token"
    name = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", name)
    name = re.sub(r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1.", name)
    return re.sub(r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2.", name)


def _is_square(positions: np.ndarray) -> bool:
    return positions.ndim == 3 and math.isqrt(positions.shape[1]) ** 2 == positions.shape[1]


def _fold_scale(tensors: dict[str, np.ndarray], match: re.Match) -> None:
    name, block = match[0], match["block"]
    scale = np.asarray(tensors.pop(name), np.float32)
    attention = "attn.proj" if block.startswith("blocks.") else "attention.output.dense"
    mlp = "mlp.fc2" if f"{block}.mlp.fc2.weight" in tensors else "mlp.weights_out"
    branch = attention if "1" in match.group("timm", "transformers") else mlp
    for leaf in ("weight", "bias"):
        target = f"{block}.{branch}.{leaf}"
        value = tensors.get(target)
        if value is None or scale.shape != value.shape[:1]:
            shape = None if value is None else value.shape
            raise WeightsError(f"{name} is {scale.shape}, but {target} is {shape}")
        factor = scale.reshape(-1, *[1] * (value.ndim - 1))  # [outputs, 1 ...]
        tensors[target] = np.asarray(value, np.float32) * factor


def sizes_of(tensors: Tensors, layout: str) -> dict[str, int]:
    """Returns the `width`, `depth` and `patch` of an encoder in any layout.

    What `recognise.parts_of` finds follows.

    Raises:
        WeightsError: a tensor whose shape is needed is missing or does not have four axes.
    """
    patterns = {
        "toco": (r"encoder\.blocks\.(\d+)\.", "encoder.patch_embed.proj.weight"),
        "timm": (r"blocks\.(\d+)\.", "patch_embed.proj.weight"),
        "transformers": (
            r"(?:\w+\.)*layer\.(\d+)\.",
            "embeddings.patch_embeddings.projection.weight",
        ),
        "original": (r"Transformer/encoderblock_(\d+)/", "embedding/kernel"),
        "toco_jax": (r"encoder/blocks_(\d+)/", "encoder/patch_embed/kernel"),
    }
    block, embedding = patterns[layout]
    name = _prefixed(tensors, layout, embedding)
    if name not in tensors:
        name = name.replace(".projection.", ".")  # in DINOv3 of transformers
    if name not in tensors or tensors[name].ndim != 4:
        raise WeightsError(f"{name} is missing or has no four axes")
    shape = tensors[name].shape
    is_torch = layout in ("toco", "timm", "transformers")
    matches = [re.match(block, name) for name in tensors]
    return {
        "width": shape[0] if is_torch else shape[3],
        "depth": len({match[1] for match in matches if match}),
        "patch": shape[2] if is_torch else shape[0],
    } | recognise.parts_of(tensors)


def backbones_of(sizes: Mapping[str, int]) -> list[str]:
    """Returns the names of the backbones of these sizes."""
    sizes = {"registers": 0, "layer_scale": 0, "gated": 0, "rotary": 0, "mlp_ratio": 4, **sizes}
    return [
        name
        for name, spec in BACKBONES.items()
        if all(getattr(spec, key) == value for key, value in sizes.items())
    ]


def spelt(sizes: Mapping[str, int]) -> str:
    """Returns what `backbone=` takes for sizes of no named backbone, with heads=N left open."""
    given = [f"{key}={value}" for key, value in sizes.items()]
    return ",".join([*given[:3], "heads=N", *given[3:]])


def dropped(tensors: Tensors, layout: str) -> list[str]:
    """Returns the names of tensors that the network does not use: heads of the pre-training."""
    names = _DROPPED[layout]
    prefixed = [_prefixed(tensors, layout, name) for name in names]
    decoder = []
    if layout in ("timm", "transformers"):
        decoder = [name for name in tensors if _MAE_DECODER.fullmatch(name)]
        names = (*names, *filter(dinov3.LOCAL_NORM.fullmatch, tensors))
    return [name for name in dict.fromkeys([*names, *prefixed, *decoder]) if name in tensors]


def dropped_note(tensors: Tensors, layout: str) -> list[str]:
    """Returns a note on the tensors of `dropped`, or none."""
    names = dropped(tensors, layout)
    found = [f"{n} {tensors[n].shape}" for n in names if not _MAE_DECODER.fullmatch(n)]
    if len(found) < len(names):
        found.append(f"the {len(names) - len(found)} tensors of MAE's decoder")
    return [f"dropped, as meant: {', '.join(found)}"] if found else []


def _prefix(tensors: Tensors) -> str:
    """Returns what precedes the names of Hugging Face's encoders inside a larger model."""
    ending = "embeddings.cls_token"
    prefixes = [name.removesuffix(ending) for name in tensors if name.endswith(ending)]
    return min((prefix for prefix in prefixes if re.fullmatch(r"(\w+\.)?", prefix)), default="")


def _prefixed(tensors: Tensors, layout: str, name: str) -> str:
    return _prefix(tensors) + name if layout == "transformers" else name
