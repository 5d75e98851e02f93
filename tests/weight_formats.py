"""Writes an encoder, given by its timm names, in the layouts of the other libraries."""

import re

import numpy as np

HF_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
JAX_LAYERS = {
    "norm1": "LayerNorm_0",
    "norm2": "LayerNorm_2",
    "attn.proj": "MultiHeadDotProductAttention_1/out",
    "mlp.fc1": "MlpBlock_3/Dense_0",
    "mlp.fc2": "MlpBlock_3/Dense_1",
}
PARTS = ("query", "key", "value")


def timm_state(state_dict):
    """The encoder of a ToCo state dict under timm's names, the 1000-class head included."""
    return {
        key.removeprefix("encoder."): value
        for key, value in state_dict.items()
        if key.startswith("encoder.")
    }


def transformers_state(timm, prefix="vit."):
    """As `ViTForImageClassification` (prefix `vit.`) or `ViTModel` (none) saves it."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    out = {}
    for key, value in timm.items():
        if key in names:
            out[prefix + names[key]] = value
        elif key.startswith("head."):
            out[key.replace("head", "classifier")] = value
        else:
            block, layer, leaf = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", key).groups()
            stem = f"{prefix}encoder.layer.{block}"
            if layer == "attn.qkv":
                for part, share in zip(PARTS, np.split(value, 3), strict=True):
                    out[f"{stem}.attention.attention.{part}.{leaf}"] = share
            else:
                out[f"{stem}.{HF_LAYERS[layer]}.{leaf}"] = value
    return out


def original_state(timm, heads):
    """As the JAX files of the Vision Transformer have it."""
    width = timm["cls_token"].shape[-1]
    size = width // heads
    out = {
        "cls": timm["cls_token"],
        "Transformer/posembed_input/pos_embedding": timm["pos_embed"],
        "embedding/kernel": np.einsum("oihw->hwio", timm["patch_embed.proj.weight"]),
        "embedding/bias": timm["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": timm["norm.weight"],
        "Transformer/encoder_norm/bias": timm["norm.bias"],
        "head/kernel": np.einsum("oi->io", timm["head.weight"]),
        "head/bias": timm["head.bias"],
    }
    for key, value in timm.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", key)
        if match is None:
            continue
        block, layer, leaf = match.groups()
        stem = f"Transformer/encoderblock_{block}"
        if layer == "attn.qkv":
            for part, share in zip(PARTS, np.split(value, 3), strict=True):
                name = f"{stem}/MultiHeadDotProductAttention_1/{part}"
                if leaf == "weight":
                    out[f"{name}/kernel"] = np.einsum("hdi->ihd", share.reshape(heads, size, width))
                else:
                    out[f"{name}/bias"] = share.reshape(heads, size)
        elif layer in ("norm1", "norm2"):
            name = {"weight": "scale", "bias": "bias"}[leaf]
            out[f"{stem}/{JAX_LAYERS[layer]}/{name}"] = value
        elif leaf == "bias":
            out[f"{stem}/{JAX_LAYERS[layer]}/bias"] = value
        elif layer == "attn.proj":
            share = np.einsum("ohd->hdo", value.reshape(width, heads, size))
            out[f"{stem}/{JAX_LAYERS[layer]}/kernel"] = share
        else:
            out[f"{stem}/{JAX_LAYERS[layer]}/kernel"] = np.einsum("oi->io", value)
    return out
