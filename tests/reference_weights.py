"""The rule that made the weights of the golden files; the weights themselves are not stored."""

import math
import zlib

import numpy as np


def reference_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 values of one state-dict entry, drawn from a generator seeded by its name."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "weight_g":
        return np.ones(shape, np.float32)
    if key.startswith("proj_head_t."):
        student = reference_tensor(key.replace("proj_head_t.", "proj_head."), shape)
        return np.float32(0.9) * student + np.float32(0.3) * _rule(key, shape)
    return _rule(key, shape)


def _rule(key: str, shape: tuple[int, ...]) -> np.ndarray:
    leaf = key.rsplit(".", 1)[-1]
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if leaf in ("pos_embed", "cls_token"):
        return np.float32(0.3) * noise
    if len(shape) == 1 and leaf == "weight":
        return np.float32(1) + np.float32(0.1) * noise
    if len(shape) == 1:
        return np.float32(0.05) * noise
    return noise / np.float32(math.sqrt(math.prod(shape[1:])))


def probe(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random direction that belongs to one tensor; its inner product tells signs and layouts."""
    seed = zlib.crc32(f"{key}#probe".encode())
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def reference_shapes(
    width: int, depth: int, *, num_classes: int = 20, grid: int = 14, patch: int = 16
) -> dict[str, tuple[int, ...]]:
    """Every state-dict key of the reference network and its shape in torch layout."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.cls_token": (1, 1, width),
        "encoder.pos_embed": (1, 1 + grid * grid, width),
    }

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    shapes["encoder.patch_embed.proj.weight"] = (width, 3, patch, patch)
    shapes["encoder.patch_embed.proj.bias"] = (width,)
    for i in range(depth):
        block = f"encoder.blocks.{i}"
        norm(f"{block}.norm1")
        linear(f"{block}.attn.qkv", width, 3 * width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2")
        linear(f"{block}.mlp.fc1", width, 4 * width)
        linear(f"{block}.mlp.fc2", 4 * width, width)
    norm("encoder.norm")
    linear("encoder.head", width, 1000)
    for head in ("proj_head", "proj_head_t"):
        linear(f"{head}.mlp.0", width, 2048)
        linear(f"{head}.mlp.2", 2048, 2048)
        linear(f"{head}.mlp.4", 2048, 256)
        shapes[f"{head}.last_layer.weight_g"] = (1024, 1)
        shapes[f"{head}.last_layer.weight_v"] = (1024, 256)
    shapes["decoder.conv6.weight"] = (512, width, 3, 3)
    shapes["decoder.conv7.weight"] = (512, 512, 3, 3)
    shapes["decoder.conv8.weight"] = (num_classes + 1, 512, 1, 1)
    shapes["classifier.weight"] = (num_classes, width, 1, 1)
    shapes["aux_classifier.weight"] = (num_classes, width, 1, 1)
    return shapes


def reference_state_dict(width: int, depth: int, **sizes: int) -> dict[str, np.ndarray]:
    """The whole state dict of the reference network, in torch layout."""
    shapes = reference_shapes(width, depth, **sizes)
    return {key: reference_tensor(key, shape) for key, shape in shapes.items()}
