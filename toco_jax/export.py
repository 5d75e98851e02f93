"""Exports a trained network as one serialised function; see `toco export --help`."""

import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export

from toco_jax.cli import commands
from toco_jax.data.classes import palette
from toco_jax.inference.native import SEG_SCALES
from toco_jax.method import cams
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import check_file, write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError):
    """An option has a value that cannot work; the message names it and the remedy."""


def export_run(
    run: pathlib.Path, out: pathlib.Path, *, size: int | None = None, multiscale: bool = False
) -> list[str]:
    """Writes a run's network as a serialised function, and a JSON file that describes it.

    Args:
        run: a run's folder or one checkpoint in it.
        out: the file to write; the JSON file has the same name with the ending `.json`.
        size: side of the input images in pixels; the run's `crop_size` by default.
        multiscale: whether to average several scales and mirror images, see `make_predictor`.

    Returns:
        Lines that say what was written.

    Raises:
        ExportError: `size` is not a positive multiple of the patch side, or see `check_outputs`.
        CheckpointError: there is no run.
        OutputError: the folder of `out` cannot be written to.
    """
    from toco_jax.run import runs

    sidecar = check_outputs(out)
    notes: list[str] = []
    # The program runs on every platform, so nothing in it may depend on the devices present.
    loaded = runs.load(run, portable=True, report=notes.append)
    size = loaded.config.crop_size if size is None else size
    scales = tuple(loaded.config.cam_scales) if multiscale else None
    predict = make_predictor(loaded.model, loaded.params, cam_scales=scales)
    patch, names = loaded.model.backbone.patch, loaded.class_names
    if size < patch or size % patch:
        raise ExportError(f"--size={size} must be a positive multiple of the patch side {patch}")
    data = serialize(predict, size=size)
    write_atomically(out, data)
    about = {
        "classes": ["background", *names],
        "names_known": loaded.names_known,
        **describe_arrays(size, len(names)),
        "backbone": loaded.config.backbone,
        "multiscale": multiscale,
        "platforms": list(PLATFORMS),
    }
    write_atomically(sidecar, json.dumps(about, indent=1) + "\n")
    return [
        *notes,
        f"{out}: {len(data):,} bytes for {', '.join(PLATFORMS)}",
        f"{sidecar}: the classes",
    ]


def check_outputs(out: pathlib.Path) -> pathlib.Path:
    """Checks that the function's file and its JSON file can be written; returns the latter's path.

    Raises:
        OutputError: the folder of `out` cannot be written to.
        ExportError: `out` ends in `.json`, or a JSON file of another kind is where ours would go.
    """
    check_file(out, "--out")
    sidecar = out.with_suffix(".json")
    if out == sidecar:
        raise ExportError(f"{out} is the name of the description; use one like model.stablehlo")
    if sidecar.exists() and '"palette"' not in sidecar.read_text(errors="replace"):
        raise ExportError(f"{sidecar} exists and is not of this command: use another --out")
    return sidecar


def describe_arrays(size: int, num_classes: int) -> dict[str, Any]:
    """Returns shapes, types and ranges of the function's input and outputs, and the palette."""
    return {
        "palette": palette(num_classes + 1).tolist(),
        "input": {"dtype": "uint8", "shape": ["b", size, size, 3], "channels": "RGB"},
        "outputs": {
            "segmentation": {"shape": ["b", size, size, num_classes + 1], "range": [0, 1]},
            "cam": {"shape": ["b", size, size, num_classes], "range": [0, 1]},
            "class_scores": {"shape": ["b", num_classes], "range": [0, 1]},
        },
    }


def make_predictor(
    model: ToCo, params: dict, *, cam_scales: tuple[float, ...] | None = None
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Makes the function to export.

    Args:
        model: the network.
        params: its parameters, which become constants of the function.
        cam_scales: None for one pass at scale 1. Otherwise the CAM combines these scales and
            mirror images, and the segmentation scales 1, 1.25 and 1.5 and mirror images (paper,
            section 4.1).

    Returns:
        A function of uint8 images `[B, S, S, 3]` that returns float32 arrays: `segmentation
        [B, S, S, C + 1]`, softmax probabilities; `cam [B, S, S, C]` in [0, 1]; and `class_scores
        [B, C]`, the sigmoid of the class logits.
    """

    def apply(images: jax.Array) -> dict[str, jax.Array]:
        return model.apply({"params": params}, images)

    def cam_fn(images: jax.Array) -> tuple[jax.Array, jax.Array]:
        return model.apply({"params": params}, images, method="cams")

    def predict(images: jax.Array) -> dict[str, jax.Array]:
        size = images.shape[1:3]
        images = normalize(images)
        if cam_scales is None:
            out = apply(images)
            seg_logits, cls_logits = resize(out["seg_logits"], size), out["cls_logits"]
            cam = cams.normalize_cam(jax.nn.relu(resize(out["cam"], size)))
        else:
            seg_logits, cls_logits = _multi_scale_logits(apply, images)
            # The compiler merges these encoder passes with the equal ones above.
            cam, _ = cams.multi_scale_cams(cam_fn, images, scales=cam_scales)
        return {
            "segmentation": jax.nn.softmax(seg_logits, axis=-1),
            "cam": cam,
            "class_scores": jax.nn.sigmoid(cls_logits),
        }

    return predict


def _multi_scale_logits(apply: Callable, images: jax.Array) -> tuple[jax.Array, Any]:
    """Returns segmentation logits `[B, H, W, C + 1]` and class logits `[B, C]` of images.

    The segmentation logits of an image and of its mirror image are summed at each scale; the result
    is the maximum over scales. The class logits are those of the images at scale 1.

    Args:
        apply: images to the network's outputs.
        images: normalised, `[B, H, W, 3]`.
    """
    size = images.shape[1:3]
    seg_logits, cls_logits = [], None
    for scale in SEG_SCALES:
        scaled = resize(images, (int(scale * size[0]), int(scale * size[1])))
        out = apply(jnp.concatenate([scaled, jnp.flip(scaled, axis=2)]))
        straight, mirrored = jnp.split(out["seg_logits"], 2)
        seg_logits.append(resize(straight + jnp.flip(mirrored, axis=2), size))
        if scale == 1:
            cls_logits, _ = jnp.split(out["cls_logits"], 2)
    return functools.reduce(jnp.maximum, seg_logits), cls_logits


def serialize(predict: Callable, *, size: int) -> bytes:
    """Serialises `predict` by `jax.export` for uint8 images `[b, size, size, 3]` of any b."""
    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    exported = jax_export.export(jax.jit(predict), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


if __name__ == "__main__":
    commands.start("export")
