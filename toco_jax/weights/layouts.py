"""Converts tensors of every known layout of weight files to our parameters and back.

A layout is a dictionary that maps the path of each parameter (`encoder/blocks_0/attn/qkv/kernel`)
to its `Source`: the names, shapes and axis order of the stored tensors.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from toco_jax.models.vit import Backbone
from toco_jax.runtime.errors import WeightsError, some_of

Shape = tuple[int, ...]
PROJECTION = (2048, 256, 1024)  # hidden width, bottleneck and features of the projection head
TEACHER = "teacher/"  # prefix of the paths of the teacher's head


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


def _linear(ours: str, theirs: Iterable[str], inputs: int, outputs: int) -> dict[str, Source]:
    """Sources of a linear layer that joins the outputs of the torch layers `theirs`."""
    weights = tuple(f"{name}.weight" for name in theirs)
    biases = tuple(f"{name}.bias" for name in theirs)
    return {
        f"{ours}/kernel": Source(weights, (outputs, inputs), TRANSPOSED),
        f"{ours}/bias": Source(biases, (outputs,), SAME),
    }


def timm_encoder(spec: Backbone, grid: int, prefix: str = "") -> dict[str, Source]:
    """Layout of timm and DeiT and, with the prefix `encoder.`, of published ToCo checkpoints."""
    width, patch = spec.width, spec.patch
    embed = f"{prefix}patch_embed.proj"
    out = {
        "encoder/cls_token": Source((f"{prefix}cls_token",), (1, 1, width), SAME),
        "encoder/pos_embed": Source((f"{prefix}pos_embed",), (1, 1 + grid**2, width), SAME),
        "encoder/patch_embed/kernel": Source((f"{embed}.weight",), (width, 3, patch, patch), CONV),
        "encoder/patch_embed/bias": Source((f"{embed}.bias",), (width,), SAME),
    }
    for i in range(spec.depth):
        ours, theirs = f"encoder/blocks_{i}", f"{prefix}blocks.{i}"
        out |= _norm(f"{ours}/norm1", f"{theirs}.norm1.", width)
        out |= _linear(f"{ours}/attn/qkv", [f"{theirs}.attn.qkv"], width, 3 * width)
        out |= _linear(f"{ours}/attn/proj", [f"{theirs}.attn.proj"], width, width)
        out |= _norm(f"{ours}/norm2", f"{theirs}.norm2.", width)
        out |= _linear(f"{ours}/mlp/fc1", [f"{theirs}.mlp.fc1"], width, 4 * width)
        out |= _linear(f"{ours}/mlp/fc2", [f"{theirs}.mlp.fc2"], 4 * width, width)
    return out | _norm("encoder/norm", f"{prefix}norm.", width)


def transformers_encoder(spec: Backbone, grid: int, prefix: str = "") -> dict[str, Source]:
    """Layout of Hugging Face's `ViTModel` (of `ViTForImageClassification` with prefix `vit.`)."""
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
        out |= _norm(f"{ours}/norm1", f"{theirs}.layernorm_before.", width)
        out |= _linear(f"{ours}/attn/qkv", qkv, width, width)
        out |= _linear(f"{ours}/attn/proj", [f"{theirs}.attention.output.dense"], width, width)
        out |= _norm(f"{ours}/norm2", f"{theirs}.layernorm_after.", width)
        out |= _linear(f"{ours}/mlp/fc1", [f"{theirs}.intermediate.dense"], width, 4 * width)
        out |= _linear(f"{ours}/mlp/fc2", [f"{theirs}.output.dense"], 4 * width, width)
    return out | _norm("encoder/norm", f"{prefix}layernorm.", width)


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


def _projection(ours: str, theirs: str, width: int) -> dict[str, Source]:
    hidden, bottleneck, features = PROJECTION
    last = Source((f"{theirs}.last_layer.weight_v",), (features, bottleneck), TRANSPOSED)
    out = _linear(f"{ours}mlp_0", [f"{theirs}.mlp.0"], width, hidden)
    out |= _linear(f"{ours}mlp_2", [f"{theirs}.mlp.2"], hidden, hidden)
    out |= _linear(f"{ours}mlp_4", [f"{theirs}.mlp.4"], hidden, bottleneck)
    return out | {f"{ours}last_layer": last}


def reference(
    spec: Backbone, grid: int, num_classes: int, decoder_width: int = 512
) -> dict[str, Source]:
    """Layout of the whole network in published PyTorch checkpoints.

    The paths of the teacher's head start with `teacher/`.
    """
    width, hidden = spec.width, decoder_width
    out = timm_encoder(spec, grid, "encoder.")
    for name in ("classifier", "aux_classifier"):
        shape = (num_classes, width, 1, 1)
        out[f"{name}/kernel"] = Source((f"{name}.weight",), shape, POINTWISE)
    for name, shape in (
        ("conv6", (hidden, width, 3, 3)),
        ("conv7", (hidden, hidden, 3, 3)),
        ("conv8", (num_classes + 1, hidden, 1, 1)),
    ):
        out[f"decoder/{name}/kernel"] = Source((f"decoder.{name}.weight",), shape, CONV)
    out |= _projection("proj_head/", "proj_head", width)
    return out | _projection(TEACHER, "proj_head_t", width)


def own(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Layout of our own files: each path of `sources` names a tensor that has our shape."""
    shapes = {}
    for path, source in sources.items():
        zero = np.broadcast_to(np.float32(0), source.shape)
        shape = source.order.to_ours(zero).shape
        shapes[path] = Source((path,), (*shape[:-1], shape[-1] * len(source.names)), SAME)
    return shapes


def assemble(
    tensors: Mapping[str, np.ndarray],
    sources: Mapping[str, Source],
    *,
    dropped: Iterable[str] = (),
    needs: str,
) -> dict[str, np.ndarray]:
    """Returns the parameters by path, float32 and in our axis order.

    Every tensor must be used or named in `dropped`, and every parameter must be filled.

    Args:
        tensors: the stored floating-point arrays by name.
        sources: the layout; `tensors` must have every name in it, with its shape.
        dropped: names that `tensors` may have and that are not used.
        needs: the network with these shapes, for messages: "deit_tiny with 20 classes".

    Raises:
        WeightsError: a name is missing, or is neither used nor dropped; a shape or type does not
            fit; or a parameter holds NaN or infinite numbers.
    """
    used = {name: path for path, source in sources.items() for name in source.names}
    problems = []
    missing = [f"{name} (for {path})" for name, path in used.items() if name not in tensors]
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {some_of(missing, 4, longest=400)}")
    unknown = sorted(set(tensors) - set(used) - set(dropped))
    if unknown:
        problems.append(
            f"{len(unknown)} tensors belong to no parameter: {some_of(unknown, 4, longest=400)}"
        )
    misfits = []
    for path, source in sources.items():
        for name in source.names:
            value = tensors.get(name)
            if value is not None and value.shape != source.shape:
                misfits.append(f"{name} is {value.shape}, {path} needs {source.shape}")
            elif value is not None and not is_float(value.dtype):
                misfits.append(f"{name} holds {value.dtype}, {path} needs floating-point numbers")
    if misfits:
        problems.append(f"{len(misfits)} tensors do not fit: {some_of(misfits, 4, longest=400)}")
    if problems:
        raise WeightsError(
            f"these weights are not those of {needs}: {'; '.join(problems)}. Check the backbone "
            "and the number of classes with `toco convert --inspect FILE`"
        )
    params = {path: _joined(tensors, source) for path, source in sources.items()}
    _refuse_not_finite(params, sources)
    return params


def _refuse_not_finite(params: Mapping[str, np.ndarray], sources: Mapping[str, Source]) -> None:
    """Raises `WeightsError` with the stored names of parameters that hold NaN or infinities."""
    broken = [
        f"{' and '.join(sources[path].names)} ({np.count_nonzero(~np.isfinite(value))} values)"
        for path, value in params.items()
        if not np.isfinite(value).all()
    ]
    if broken:
        raise WeightsError(
            f"{len(broken)} tensors hold NaN or infinite numbers: "
            f"{some_of(broken, 4, longest=400)}. The file is damaged, or its training went wrong: "
            "take another one"
        )


def is_float(dtype: np.dtype) -> bool:
    """Whether `dtype` is a floating-point type, bfloat16 included."""
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _joined(tensors: Mapping[str, np.ndarray], source: Source) -> np.ndarray:
    # These are copies, because a view keeps the file mapped and changes with it.
    parts = [
        np.array(source.order.to_ours(tensors[name]), np.float32, order="C")
        for name in source.names
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def disassemble(
    params: Mapping[str, np.ndarray], sources: Mapping[str, Source]
) -> dict[str, np.ndarray]:
    """Returns the stored tensors by name, for layouts that store each parameter in one tensor.

    Raises:
        WeightsError: a path is missing or unknown, or a shape does not fit.
    """
    checked = assemble(params, own(sources), needs="the layout to be written")
    return {
        source.names[0]: np.ascontiguousarray(source.order.to_stored(checked[path]))
        for path, source in sources.items()
    }
