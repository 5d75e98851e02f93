"""Converts tensors of every known layout of weight files to our parameters and back."""

from collections.abc import Iterable, Mapping

import numpy as np

from toco_jax.models.backbones import Backbone
from toco_jax.runtime.errors import WeightsError, some_of
from toco_jax.weights.encoder_layouts import (
    CONV,
    POINTWISE,
    SAME,
    TRANSPOSED,
    Source,
    linear,
    timm_encoder,
)

PROJECTION = (2048, 256, 1024)  # hidden width, bottleneck and features of the projection head
TEACHER = "teacher/"  # prefix of the paths of the teacher's head


def _projection(ours: str, theirs: str, width: int) -> dict[str, Source]:
    hidden, bottleneck, features = PROJECTION
    last = Source((f"{theirs}.last_layer.weight_v",), (features, bottleneck), TRANSPOSED)
    out = linear(f"{ours}mlp_0", [f"{theirs}.mlp.0"], width, hidden)
    out |= linear(f"{ours}mlp_2", [f"{theirs}.mlp.2"], hidden, hidden)
    out |= linear(f"{ours}mlp_4", [f"{theirs}.mlp.4"], hidden, bottleneck)
    return out | {f"{ours}last_layer": last}


def reference(
    spec: Backbone,
    grid: int,
    num_classes: int,
    decoder_width: int = 512,
    *,
    image_head: bool = False,
) -> dict[str, Source]:
    """Layout of the whole network in published PyTorch checkpoints.

    The paths of the teacher's head start with `teacher/`. The published network has no image head;
    ours and its encoder are stored beside the rest.
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
    if image_head:
        frozen = timm_encoder(spec, grid, "img_encoder.")
        out |= {f"img_{path}": source for path, source in frozen.items()}
        out |= linear("img_head", ["img_head"], width, num_classes)
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
