"""Layouts of encoders in the files of other libraries.

A layout is a dictionary that maps the path of each parameter (`encoder/blocks_0/attn/qkv/kernel`)
to its `Source`: the names, shapes and axis order of the stored tensors.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from toco_jax.models.backbones import Backbone

Shape = tuple[int, ...]


class AxisOrder(NamedTuple):
    """Two inverse functions: one from the stored axis order to ours, and one from ours to it."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_stored: Callable[[np.ndarray], np.ndarray]


class Source(NamedTuple):
    """The stored tensors that one parameter joins along its last axis; all have the same shape."""

    names: tuple[str, ...]
    shape: Shape
    order: AxisOrder


SAME = AxisOrder(lambda x: x, lambda x: x)
TRANSPOSED = AxisOrder(lambda x: x.T, lambda x: x.T)
CONV = AxisOrder(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
POINTWISE = AxisOrder(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


def _reshaped(ours: Shape, stored: Shape) -> AxisOrder:
    return AxisOrder(lambda x: x.reshape(ours), lambda x: x.reshape(stored))


def _norm(ours: str, theirs: str, width: int, leaves=("weight", "bias")) -> dict[str, Source]:
    return {
        f"{ours}/scale": Source((f"{theirs}{leaves[0]}",), (width,), SAME),
        f"{ours}/bias": Source((f"{theirs}{leaves[1]}",), (width,), SAME),
    }


def linear(ours: str, theirs: Iterable[str], inputs: int, outputs: int) -> dict[str, Source]:
    """Sources of a linear layer that joins the outputs of the torch layers `theirs`."""
    weights = tuple(f"{name}.weight" for name in theirs)
    biases = tuple(f"{name}.bias" for name in theirs)
    return {
        f"{ours}/kernel": Source(weights, (outputs, inputs), TRANSPOSED),
        f"{ours}/bias": Source(biases, (outputs,), SAME),
    }


def timm_encoder(spec: Backbone, grid: int, prefix: str = "") -> dict[str, Source]:
    """Layout of timm and DeiT and, with the prefix `encoder.`, of published ToCo checkpoints.

    That of DINOv3, which names its parts in other ways, is for the tensors of `dinov3.joined`.
    """
    width, patch = spec.width, spec.patch
    embed = f"{prefix}patch_embed.proj"
    out = {
        "encoder/cls_token": Source((f"{prefix}cls_token",), (1, 1, width), SAME),
        "encoder/pos_embed": Source((f"{prefix}pos_embed",), (1, 1 + grid**2, width), SAME),
        "encoder/patch_embed/kernel": Source((f"{embed}.weight",), (width, 3, patch, patch), CONV),
        "encoder/patch_embed/bias": Source((f"{embed}.bias",), (width,), SAME),
    }
    if spec.rotary:
        del out["encoder/pos_embed"]
    for i in range(spec.depth):
        ours, theirs = f"encoder/blocks_{i}", f"{prefix}blocks.{i}"
        out |= _norm(f"{ours}/norm1", f"{theirs}.norm1.", width)
        out |= linear(f"{ours}/attn/qkv", [f"{theirs}.attn.qkv"], width, 3 * width)
        if spec.rotary:  # keys have no bias
            bias = Source((f"{theirs}.attn.qv_bias",), (2 * width,), SAME)
            out[f"{ours}/attn/qkv/bias"] = bias
        out |= linear(f"{ours}/attn/proj", [f"{theirs}.attn.proj"], width, width)
        out |= _norm(f"{ours}/norm2", f"{theirs}.norm2.", width)
        out |= linear(f"{ours}/mlp/fc1", [f"{theirs}.mlp.fc1"], width, spec.hidden)
        out |= linear(f"{ours}/mlp/fc2", [f"{theirs}.mlp.fc2"], _inner(spec), width)
        out |= _layer_scales(ours, (f"{theirs}.ls1.gamma", f"{theirs}.ls2.gamma"), spec)
    out |= _registers(f"{prefix}reg_token", spec)
    return out | _norm("encoder/norm", f"{prefix}norm.", width)


def _inner(spec: Backbone) -> int:
    """Returns the number of inputs of the last layer of a block."""
    return spec.hidden // 2 if spec.gated else spec.hidden


def _layer_scales(ours: str, theirs: tuple[str, str], spec: Backbone) -> dict[str, Source]:
    if not spec.layer_scale:
        return {}
    return {
        f"{ours}/layer_scale{i}": Source((name,), (spec.width,), SAME)
        for i, name in enumerate(theirs, start=1)
    }


def _registers(theirs: str, spec: Backbone) -> dict[str, Source]:
    shape = (1, spec.registers, spec.width)
    return {"encoder/register_tokens": Source((theirs,), shape, SAME)} if spec.registers else {}


# Names of a block's layers in Hugging Face's models: the two norms, and the layers of the MLP.
VIT_LAYERS = ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense")
DINOV2_LAYERS = ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
DINOV2_GATED_LAYERS = ("norm1", "norm2", "mlp.weights_in", "mlp.weights_out")


def transformers_encoder(
    spec: Backbone, grid: int, prefix: str = "", layers: tuple[str, str, str, str] = VIT_LAYERS
) -> dict[str, Source]:
    """Layout of Hugging Face's encoders.

    Args:
        spec: the backbone.
        grid: side of the positional grid in patches.
        prefix: comes before each name: none for `ViTModel`, `vit.` for `ViTForImageClassification`.
        layers: `VIT_LAYERS`, `DINOV2_LAYERS` or `DINOV2_GATED_LAYERS`.
    """
    norm1, norm2, fc1, fc2 = layers
    width, patch = spec.width, spec.patch
    embed = f"{prefix}embeddings"
    weight = f"{embed}.patch_embeddings.projection.weight"
    bias = f"{embed}.patch_embeddings.projection.bias"
    positions = f"{embed}.position_embeddings"
    out = {
        "encoder/cls_token": Source((f"{embed}.cls_token",), (1, 1, width), SAME),
        "encoder/pos_embed": Source((positions,), (1, 1 + grid**2, width), SAME),
        "encoder/patch_embed/kernel": Source((weight,), (width, 3, patch, patch), CONV),
        "encoder/patch_embed/bias": Source((bias,), (width,), SAME),
    }
    for i in range(spec.depth):
        ours, theirs = f"encoder/blocks_{i}", f"{prefix}encoder.layer.{i}"
        qkv = [f"{theirs}.attention.attention.{part}" for part in ("query", "key", "value")]
        out |= _norm(f"{ours}/norm1", f"{theirs}.{norm1}.", width)
        out |= linear(f"{ours}/attn/qkv", qkv, width, width)
        out |= linear(f"{ours}/attn/proj", [f"{theirs}.attention.output.dense"], width, width)
        out |= _norm(f"{ours}/norm2", f"{theirs}.{norm2}.", width)
        out |= linear(f"{ours}/mlp/fc1", [f"{theirs}.{fc1}"], width, spec.hidden)
        out |= linear(f"{ours}/mlp/fc2", [f"{theirs}.{fc2}"], _inner(spec), width)
        scales = (f"{theirs}.layer_scale1.lambda1", f"{theirs}.layer_scale2.lambda1")
        out |= _layer_scales(ours, scales, spec)
    out |= _registers(f"{embed}.register_tokens", spec)
    return out | _norm("encoder/norm", f"{prefix}layernorm.", width)


def dinov3_encoder(spec: Backbone, prefix: str = "") -> dict[str, Source]:
    """Layout of Hugging Face's DINOv3; arguments as of `transformers_encoder`."""
    width, patch = spec.width, spec.patch
    embed = f"{prefix}embeddings"
    weight, bias = (f"{embed}.patch_embeddings.{leaf}" for leaf in ("weight", "bias"))
    out = {
        "encoder/cls_token": Source((f"{embed}.cls_token",), (1, 1, width), SAME),
        "encoder/patch_embed/kernel": Source((weight,), (width, 3, patch, patch), CONV),
        "encoder/patch_embed/bias": Source((bias,), (width,), SAME),
    }
    first = ("gate_proj", "up_proj") if spec.gated else ("up_proj",)
    for i in range(spec.depth):
        ours, theirs = f"encoder/blocks_{i}", f"{prefix}layer.{i}"
        qkv = [f"{theirs}.attention.{part}_proj" for part in ("q", "k", "v")]
        out |= _norm(f"{ours}/norm1", f"{theirs}.norm1.", width)
        out |= linear(f"{ours}/attn/qkv", qkv, width, width)
        biases = (f"{qkv[0]}.bias", f"{qkv[2]}.bias")
        out[f"{ours}/attn/qkv/bias"] = Source(biases, (width,), SAME)
        out |= linear(f"{ours}/attn/proj", [f"{theirs}.attention.o_proj"], width, width)
        out |= _norm(f"{ours}/norm2", f"{theirs}.norm2.", width)
        names = [f"{theirs}.mlp.{name}" for name in first]
        out |= linear(f"{ours}/mlp/fc1", names, width, spec.hidden // len(first))
        out |= linear(f"{ours}/mlp/fc2", [f"{theirs}.mlp.down_proj"], _inner(spec), width)
        scales = (f"{theirs}.layer_scale1.lambda1", f"{theirs}.layer_scale2.lambda1")
        out |= _layer_scales(ours, scales, spec)
    out |= _registers(f"{embed}.register_tokens", spec)
    return out | _norm("encoder/norm", f"{prefix}norm.", width)


def original_encoder(spec: Backbone, grid: int) -> dict[str, Source]:
    """Layout of the JAX files with which the Vision Transformer was released."""
    width, patch, heads = spec.width, spec.patch, spec.heads
    split = (heads, width // heads)
    positions = "Transformer/posembed_input/pos_embedding"
    out = {
        "encoder/cls_token": Source(("cls",), (1, 1, width), SAME),
        "encoder/pos_embed": Source((positions,), (1, 1 + grid**2, width), SAME),
        "encoder/patch_embed/kernel": Source(("embedding/kernel",), (patch, patch, 3, width), SAME),
        "encoder/patch_embed/bias": Source(("embedding/bias",), (width,), SAME),
    }
    for i in range(spec.depth):
        ours, theirs = f"encoder/blocks_{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        kernels = tuple(f"{attention}/{part}/kernel" for part in ("query", "key", "value"))
        biases = tuple(f"{attention}/{part}/bias" for part in ("query", "key", "value"))
        dense = f"{theirs}/MlpBlock_3/Dense"
        out |= _norm(f"{ours}/norm1", f"{theirs}/LayerNorm_0/", width, ("scale", "bias"))
        out |= _norm(f"{ours}/norm2", f"{theirs}/LayerNorm_2/", width, ("scale", "bias"))
        to_heads = _reshaped((width, width), (width, *split))
        from_heads = _reshaped((width, width), (*split, width))
        out |= {
            f"{ours}/attn/qkv/kernel": Source(kernels, (width, *split), to_heads),
            f"{ours}/attn/qkv/bias": Source(biases, split, _reshaped((width,), split)),
            f"{ours}/attn/proj/kernel": Source(
                (f"{attention}/out/kernel",), (*split, width), from_heads
            ),
            f"{ours}/attn/proj/bias": Source((f"{attention}/out/bias",), (width,), SAME),
            f"{ours}/mlp/fc1/kernel": Source((f"{dense}_0/kernel",), (width, 4 * width), SAME),
            f"{ours}/mlp/fc1/bias": Source((f"{dense}_0/bias",), (4 * width,), SAME),
            f"{ours}/mlp/fc2/kernel": Source((f"{dense}_1/kernel",), (4 * width, width), SAME),
            f"{ours}/mlp/fc2/bias": Source((f"{dense}_1/bias",), (width,), SAME),
        }
    return out | _norm("encoder/norm", "Transformer/encoder_norm/", width, ("scale", "bias"))
