"""What the files of DINOv3 have that those of other ViTs have not: no positions, no bias of keys.

Its authors and timm store the same encoder under names of their own. `joined` gives both the names
of `encoder_layouts.timm_encoder`.
"""

import re
from collections.abc import Mapping

import numpy as np

from toco_jax.models.backbones import Backbone
from toco_jax.models.rotary import BASE
from toco_jax.runtime.errors import WeightsError

Tensors = Mapping[str, np.ndarray]

PERIODS = "rope_embed.periods"  # the authors' buffer, which says how positions are rotated
# The final norm of the class token of local crops, which only the pre-training uses.
LOCAL_NORM = re.compile(r"local_cls_norm\.(weight|bias)")
# The two layers that a gate joins, by their names in the authors' files and in timm's.
_GATES = (("w1", "w2"), ("fc1_g", "fc1_x"))


def check_periods(tensors: Tensors, backbone: str, spec: Backbone) -> None:
    """Raises `WeightsError` if a file says that positions are rotated otherwise than here."""
    if PERIODS not in tensors:
        return
    periods = np.asarray(tensors[PERIODS], np.float32).reshape(-1)
    if 4 * len(periods) * spec.heads != spec.width:
        raise WeightsError(
            f"{PERIODS} has {len(periods)} entries, for heads of {4 * len(periods)} channels, and "
            f"those of the backbone {backbone} have {spec.width // spec.heads}: set backbone=NAME "
            "of one with other heads"
        )
    expected = BASE ** (np.arange(len(periods)) / len(periods))
    if not np.allclose(periods, expected, rtol=0.01):  # stored as bfloat16, they are rounded
        raise WeightsError(
            f"{PERIODS} goes from {periods[0]:g} to {periods[-1]:g}, and DINOv3's from 1 to "
            f"{expected[-1]:g}: these weights rotate positions in another way, which is not known"
        )


def joined(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns tensors of the authors or of timm under the names of `timm_encoder`.

    Raises:
        WeightsError: keys have a bias.
    """
    out = {name: value for name, value in tensors.items() if name != PERIODS}
    if "storage_tokens" in out:
        out["reg_token"] = out.pop("storage_tokens")
    for name in tensors:
        if match := re.fullmatch(r"(blocks\.\d+)\.attn\.qkv\.weight", name):
            _join_block(out, match[1])
    return out


def _join_block(out: dict[str, np.ndarray], block: str) -> None:
    attention, mlp = f"{block}.attn", f"{block}.mlp"
    bias = _bias(out, attention)
    if bias is not None:
        out[f"{attention}.qv_bias"] = bias
    for gate, value in _GATES:
        for leaf in ("weight", "bias"):
            names = [f"{mlp}.{part}.{leaf}" for part in (gate, value)]
            if all(name in out for name in names):
                out[f"{mlp}.fc1.{leaf}"] = np.concatenate([out.pop(name) for name in names])


def _bias(out: dict[str, np.ndarray], attention: str) -> np.ndarray | None:
    """Takes the bias of queries and values `[2 D]` out of a block's tensors; 0 if it has none."""
    width = out[f"{attention}.qkv.weight"].shape[-1]
    names = (f"{attention}.q_bias", f"{attention}.v_bias")
    if all(name in out for name in names):
        return np.concatenate([out.pop(name) for name in names])
    mask = out.pop(f"{attention}.qkv.bias_mask", None)
    bias = out.get(f"{attention}.qkv.bias")
    if bias is None:
        return np.zeros(2 * width, np.float32)
    if bias.shape != (3 * width,) or (mask is not None and mask.shape != bias.shape):
        return None  # which `layouts.assemble` refuses by name
    query, key, value = np.split(out.pop(f"{attention}.qkv.bias"), 3)
    factors = np.ones(3 * width, np.float32) if mask is None else np.asarray(mask, np.float32)
    ours = np.concatenate([factors[:width], factors[2 * width :]])
    if np.any(np.asarray(key, np.float32) * factors[width : 2 * width] != 0) or np.any(ours != 1):
        raise WeightsError(
            f"{attention}.qkv.bias has a bias of keys, or its mask is not that of DINOv3: these "
            "are weights of another network, which is not known"
        )
    return np.concatenate([query, value])


def without_wrapper(tensors: Tensors, prefix: str) -> dict[str, np.ndarray]:
    """Returns tensors of transformers under the names that it saves, biases that are absent as 0.

    Its models call their blocks `model.layer.0`, its files `layer.0`.
    """
    wrapped = f"{prefix}model.layer."
    out = {
        f"{prefix}layer.{name.removeprefix(wrapped)}" if name.startswith(wrapped) else name: value
        for name, value in tensors.items()
    }
    for name, value in list(out.items()):
        if match := re.fullmatch(r"(.*layer\.\d+\.attention\.[qv]_proj)\.weight", name):
            out.setdefault(f"{match[1]}.bias", np.zeros(value.shape[0], np.float32))
    return out
