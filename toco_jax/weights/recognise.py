"""Recognises how weights of a vision transformer were trained, by the names and shapes of tensors.

Some recipes write files that look alike. All possible recipes are named then; only the SHA-256 of a
published file tells them apart, see `files.KNOWN_FILES`.
"""

import re
from collections.abc import Mapping

import numpy as np

from toco_jax.models.backbones import Backbone
from toco_jax.runtime.errors import some_of

Tensors = Mapping[str, np.ndarray]

_HEADS = ("head.bias", "classifier.bias")
_NUM_IMAGENET_21K = 21843
NOT_PUBLISHED = "not the published initialisation"
_LAYER_SCALE = re.compile(
    r".*(\.gamma_[12]|\.ls[12]\.gamma|\.layer_scale[12]\.lambda1|/layer_scale[12])"
)
_CLASS_TOKEN = re.compile(r"(.*[./])?cls(_token)?")
# The two layers of an MLP; if it is gated, the first has twice as many numbers as the last, or is
# in two parts.
_FIRST_OF_MLP = re.compile(r"(.*mlp[./])(fc1|w12|weights_in)([./](?:weight|kernel))")
_LAST_OF_MLP = {"fc1": "fc2", "w12": "w3", "weights_in": "weights_out"}
_GATE = re.compile(r".*mlp\.(w1|fc1_g|gate_proj)\.weight")
_LAST_WEIGHTS = re.compile(r".*mlp[./](fc2|w3|weights_out|down_proj)[./](weight|kernel)")
_REGISTERS = re.compile(r"(.*[./])?(reg_token|register_tokens|storage_tokens)")
_PLAIN_DINOV2 = "such as hf:timm/vit_small_patch14_dinov2.lvd142m"

# Parts that the network lacks: a pattern of names, the model that has them, and why it cannot be
# loaded and what to take instead. The first pattern that matches decides.
_FOREIGN = (
    (
        r"(^|\.)(dist_token|head_dist\.|distillation_token|distillation_classifier)",
        "a distilled DeiT",
        "which has a second class token: take the undistilled DeiT, such as init=deit_base",
    ),
    (
        r"(^|\.)(storage_tokens|rope_embed\.periods)",
        "a relative of DINOv3",
        "which has rotary positions, but not its other parts: take DINOv2, " + _PLAIN_DINOV2,
    ),
    (
        r"\.mlp\.fc1_g\.",
        "EVA-02",
        "which has rotary positions: take DINOv2, " + _PLAIN_DINOV2,
    ),
    (
        r"\.attn\.(q_bias|relative_position_bias_table)$|(^|\.)rel_pos_bias\.",
        "BEiT or EVA",
        "which adds relative positions or biases to its attention: take DeiT, such as "
        "init=deit_base",
    ),
    (
        r"\.attn\.rel_pos_[hw]$",
        "the encoder of SAM or of a detector",
        "which adds relative positions to its attention: take DeiT, such as init=deit_base",
    ),
    (
        r"(^|\.)(norm_pre|ln_pre|pre_layrnorm)\.",
        "the image encoder of CLIP",
        "which normalises its tokens before the first block: take DeiT, such as init=deit_base",
    ),
    (
        r"(^|\.)fc_norm\.",
        "a ViT that pools over its patches, as a fine-tuned MAE or BEiT",
        "whose last norm comes after pooling: take one with a class token, such as init=deit_base",
    ),
)
# Networks whose files have no class token of a known layout: a pattern of names, and the network.
_OTHERS = (
    (r"(^|\.)(visual|vision_model\.embeddings)\.class_embedding$", "CLIP"),
    (r"(^|\.)(vision_model\.head\.probe|attn_pool\.latent)$", "SigLIP"),
    (r"(^|\.)layers\.0\.blocks\.0\.attn\.relative_position_bias_table$", "Swin Transformer"),
    (r"^image_encoder\.", "SAM"),
    (r"^pretrained\.blocks\.0\.", "Depth Anything"),
    (r"(^|\.)base_encoder\.", "MoCo with both its encoders"),
    (r"(^|\.)layer1\.0\.conv1\.weight$", "ResNet"),
    (r"(^|\.)stages\.0\.", "ConvNeXt or another network in stages"),
    (r"^blocks\.0\.attn\.qkv\.weight$", "a ViT without class token, such as SigLIP or I-JEPA"),
)


def foreign(tensors: Tensors) -> tuple[str, str] | None:
    """Recognises weights that the network cannot use.

    Returns:
        What they are, and why they cannot be used and what to take instead; None for others.
    """
    if "rotary" in parts_of(tensors):
        return None
    for pattern, what, why in _FOREIGN:
        names = sorted(name for name in tensors if re.search(pattern, name))
        if names:
            return f"{what} ({some_of(names, 2)})", why
    has_class_token = any(re.search(r"(^|embeddings\.)cls_token$", name) for name in tensors)
    if has_class_token and _positions(tensors) is None:
        what = (
            "a ViT with registers, but not DINOv3," if "registers" in parts_of(tensors) else "a ViT"
        )
        why = "which the network does not have: take DINOv2, " + _PLAIN_DINOV2
        return f"{what} with rotary or relative positions (it has no table of positions)", why
    return None


def parts_of(tensors: Tensors) -> dict[str, int]:
    """Returns the `registers`, `layer_scale`, `gated`, `rotary` of a `Backbone` that the file has.

    `mlp_ratio` follows if it is not 4. Only DINOv3 is known to have rotary positions: it has no
    table of positions, but registers and layer scales.
    """
    parts: dict[str, int] = {}
    for name, value in tensors.items():
        if _REGISTERS.fullmatch(name) and value.ndim == 3:
            parts["registers"] = value.shape[1]
    if any(map(_LAYER_SCALE.fullmatch, tensors)):
        parts["layer_scale"] = 1
    for name, value in tensors.items():
        first = _FIRST_OF_MLP.fullmatch(name)
        last = first and tensors.get(f"{first[1]}{_LAST_OF_MLP[first[2]]}{first[3]}")
        if _GATE.fullmatch(name) or (last is not None and value.size == 2 * last.size):
            parts["gated"] = 1
    if {"registers", "layer_scale"} <= parts.keys() and _positions(tensors) is None:
        parts["rotary"] = 1
    ratio = _mlp_ratio(tensors, gated="gated" in parts)
    return parts if ratio in (0, 4) else parts | {"mlp_ratio": ratio}


def _mlp_ratio(tensors: Tensors, *, gated: bool) -> int:
    """Returns the `mlp_ratio` of a `Backbone` with the file's layers; 0 if there is none."""
    widths = [x.shape[-1] for name, x in tensors.items() if _CLASS_TOKEN.fullmatch(name) and x.ndim]
    inner = [x.size for name, x in tensors.items() if _LAST_WEIGHTS.fullmatch(name)]
    if not widths or not inner or not widths[0]:
        return 0
    hidden = inner[0] // widths[0]
    ratio = round(hidden * (1.5 if gated else 1) / widths[0])
    spec = Backbone(widths[0], 1, 1, gated=gated, mlp_ratio=ratio)
    return ratio if spec.hidden == (2 if gated else 1) * hidden else 0


def other_network(tensors: Tensors) -> str | None:
    """Returns the name of the network if it is a known one that is not a ViT of a known layout."""
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in tensors):
            return what
    return None


def pretraining(tensors: Tensors, layout: str) -> str | None:
    """Returns what a backbone was trained on, and that it is `NOT_PUBLISHED` if that is certain.

    Args:
        tensors: the tensors of a ViT, with or without layer scales.
        layout: `timm`, `transformers` or `original`; for any other, None is returned.
    """
    heads = {"timm": "head.bias", "transformers": "classifier.bias", "original": "head/bias"}
    if layout not in heads:
        return None
    head = tensors.get(heads[layout])
    parts = parts_of(tensors)
    if "layer_scale" in parts:
        registers = " with registers" if "registers" in parts else ""
        return f"{_with_layer_scale(tensors, head, registers)}, {NOT_PUBLISHED}"
    if "registers" in parts:
        return f"a ViT with registers, {NOT_PUBLISHED}"
    if head is None:
        return f"{_without_classes(tensors)}, {NOT_PUBLISHED}"
    if head.shape[0] == 1000:
        return (
            "trained on the 1000 classes of ImageNet-1k: DeiT, the original ViT or augreg, whose "
            "files look alike"
        )
    recipe = ""
    if layout != "transformers" and not any("pre_logits" in name for name in tensors):
        recipe = " (augreg, as they lack the original's pre_logits layer)"
    only = "ImageNet-21k only" if head.shape[0] > 20_000 else "another set than ImageNet-1k"
    return f"trained on {head.shape[0]} classes: {only}{recipe}, {NOT_PUBLISHED}"


def has_imagenet_colours(tensors: Tensors, layout: str) -> bool | None:
    """Whether weights of this kind were trained on colours normalised as ImageNet's.

    DINOv2, DINOv3, DeiT III and MAE were. The original ViT and whatever was trained on all of
    ImageNet-21k in JAX were not. None if the tensors do not tell the kind.
    """
    if layout == "original":
        return False
    if "layer_scale" in parts_of(tensors):
        return True
    positions = _positions(tensors)
    head = next((tensors[name] for name in _HEADS if name in tensors), None)
    if any(name.startswith("pre_logits") for name in tensors):
        return False
    if head is not None:
        return False if head.shape[:1] == (_NUM_IMAGENET_21K,) else None
    if any(re.match(r"(decoder\.)?decoder_pred\.", name) for name in tensors):
        return True
    return True if positions is not None and _is_sine_cosine(positions) else None


def _positions(tensors: Tensors) -> np.ndarray | None:
    """Returns the positional embedding of any layout, or None."""
    endings = ("pos_embed", "position_embeddings", "pos_embedding")
    return next((value for name, value in tensors.items() if name.endswith(endings)), None)


def _with_layer_scale(tensors: Tensors, head: np.ndarray | None, registers: str) -> str:
    positions, patch = _positions(tensors), _patch(tensors)
    if positions is None:
        return "DINOv3, or EUPE, whose files look alike"
    has_mask = any(re.search(r"(^|\.)mask_token$", name) for name in tensors)
    if has_mask or (patch == 14 and head is None):
        exact = positions is not None and positions.shape[1] in (37**2, 37**2 + 1)
        made = "" if exact and patch == 14 else ", or an encoder made from it"
        return f"DINOv2{registers}{made}"
    if registers:
        return "a ViT with registers and layer scales"
    if head is None:
        return "a ViT with layer scales and without classes: DINOv2 or DeiT III"
    # Only DeiT III has no position for the class token.
    if positions is not None and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        return "DeiT III"
    return "DeiT III, or another ViT with layer scales"


def _patch(tensors: Tensors) -> int:
    """Returns the side of a patch in the layouts of timm and transformers, or 0."""
    endings = ("patch_embed.proj.weight", "patch_embeddings.projection.weight")
    return next((value.shape[-1] for name, value in tensors.items() if name.endswith(endings)), 0)


def _without_classes(tensors: Tensors) -> str:
    if any(re.match(r"(decoder\.)?decoder_pred\.", name) for name in tensors):
        return "MAE with its decoder"
    positions = _positions(tensors)
    if positions is not None and _is_sine_cosine(positions):
        return "no classes and sine-cosine positions: MAE or MoCo v3, whose files look alike"
    return (
        "no classes: self-supervision (DINO, iBOT, MSN) or ImageNet-21k without its head, whose "
        "files look alike"
    )


def _is_sine_cosine(positions: np.ndarray) -> bool:
    """Whether positions `[1, 1 + grid ** 2, D]` are fixed sines and cosines, and 0 for the class
    token.
    """
    width = positions.shape[-1]
    if positions.ndim != 3 or positions.shape[1] < 2 or width % 4 or positions[:, 0].any():
        return False
    squares = np.square(np.asarray(positions[0, 1:, : width // 2], np.float64))
    sine, cosine = np.split(squares, 2, axis=-1)  # [grid ** 2, D / 4]
    return bool(np.allclose(sine + cosine, 1, atol=0.02))
