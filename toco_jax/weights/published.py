"""Converts whole networks from and to the state dict of the published PyTorch code."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import traverse_util

from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.heads import init_projection
from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import backbone_files, checks, layouts

Tensors = Mapping[str, np.ndarray]

# Gains of the weight-normalised layers. They are fixed at 1, so they are checked and not stored.
GAINS = ("proj_head.last_layer.weight_g", "proj_head_t.last_layer.weight_g")
# Heads of other methods' networks, for which the published layout has no place.
OTHER_HEADS = ("aff_head",)


def params_from_reference(
    state_dict: Tensors, *, backbone: str, num_classes: int, decoder_width: int = 512
) -> tuple[dict, dict]:
    """Converts a state dict of the published PyTorch network to `(params, teacher_params)`.

    Args:
        state_dict: arrays of any floating-point type by torch name, with or without `module.` in
            front; those of the teacher's head start with `proj_head_t.`. Without projection heads,
            as in compact files, both are one that has learnt nothing.
        backbone: name or sizes of the backbone of these weights.
        num_classes: C, the foreground classes.
        decoder_width: hidden channels of the decoder; 512 as published.

    Returns:
        The parameters of `ToCo` and those of the teacher's head, nested, float32, channels last.
        The positional grid keeps the size that is stored.

    Raises:
        WeightsError: a key is missing, or is neither used nor meant to be dropped; a shape does not
            fit; or a weight-normalised layer has a gain other than 1.
    """
    tensors = backbone_files.without_module(state_dict)
    spec = backbone_from_name(backbone)
    checks.check_rotary(tensors, backbone, spec)
    grid = backbone_files.stored_grid(tensors, "toco", spec)
    image_head = "img_head.weight" in tensors
    sources = layouts.reference(spec, grid, num_classes, decoder_width, image_head=image_head)
    for name in GAINS:
        if name in tensors and not np.all(np.asarray(tensors[name]) == 1):
            raise WeightsError(
                f"{name} is not 1 everywhere: the gain of this layer is fixed at 1 in the method, "
                "so these weights come from something else"
            )
    lacks_heads = bool(begun_anew(tensors))
    if lacks_heads:
        heads = ("proj_head/", layouts.TEACHER)
        sources = {path: source for path, source in sources.items() if not path.startswith(heads)}
    paths = layouts.assemble(
        tensors,
        sources,
        dropped=(*backbone_files.dropped(tensors, "toco"), *GAINS),
        needs=f"{backbone} with {num_classes} classes",
    )
    params, teacher_params = nested(paths)
    if lacks_heads:
        params["proj_head"] = init_projection(spec.width)
        teacher_params = jax.tree.map(np.array, params["proj_head"])
    return params, teacher_params


def params_to_reference(params: Mapping, teacher_params: Mapping, *, backbone: str) -> dict:
    """Converts `(params, teacher_params)` to a float32 state dict of the published network.

    The number of classes, the positional grid and the decoder's width are those of the arrays. The
    1000-class head, which the network has but never uses, is filled with zeros.

    Raises:
        WeightsError: a parameter is missing, unknown or does not fit `backbone`.
    """
    spec = backbone_from_name(backbone)
    paths = paths_of(params, teacher_params)
    grid = backbone_files.stored_grid(paths, "toco_jax", spec)
    num_classes = paths["classifier/kernel"].shape[-1]
    decoder_width = paths["decoder/conv6/kernel"].shape[-1]
    image_head = "img_head/kernel" in paths
    sources = layouts.reference(spec, grid, num_classes, decoder_width, image_head=image_head)
    out = layouts.disassemble(paths, sources)
    out |= {name: np.ones((layouts.PROJECTION[2], 1), np.float32) for name in GAINS}
    return out | {
        "encoder.head.weight": np.zeros((1000, spec.width), np.float32),
        "encoder.head.bias": np.zeros((1000,), np.float32),
    }


def paths_of(params: Mapping, teacher_params: Mapping) -> dict[str, np.ndarray]:
    """Returns nested parameters by path, without the `OTHER_HEADS`; the inverse of `nested`."""
    tree = {name: part for name, part in params.items() if name not in OTHER_HEADS}
    flat = traverse_util.flatten_dict({**tree, "teacher": teacher_params}, sep="/")
    return {path: np.asarray(value) for path, value in flat.items()}


def left_out(params: Mapping) -> list[str]:
    """Returns a line about each head in `params` for which the published layout has no place."""
    return [f"left out: {name} of another method" for name in OTHER_HEADS if name in params]


def begun_anew(state_dict: Tensors) -> list[str]:
    """Returns a line that says so if a state dict of the network has no projection heads."""
    if any("proj_head" in name for name in state_dict):
        return []
    return ["without projection heads, as compact files are: a training begins with new ones"]


def nested(paths: Tensors) -> tuple[dict, dict]:
    """Returns parameters by path as nested ones of the network and of the teacher's head."""
    tree = traverse_util.unflatten_dict(dict(paths), sep="/")
    teacher = tree.pop(layouts.TEACHER.rstrip("/"), {})
    return tree, teacher
