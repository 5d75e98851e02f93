"""A trained network as one serialised function, to be run with nothing of ours installed.

python -m toco_jax.export runs/x model.stablehlo [--size 448] [--multiscale]

The function takes uint8 RGB images `[b, size, size, 3]` for any b, on cpu, cuda or tpu. Beside it a
JSON of the same name holds the classes and their colours. `jax.export.deserialize` reads it back.
"""

import functools
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export as jax_export

from toco_jax.cli import commands
from toco_jax.data.classes import palette
from toco_jax.inference.native import SEG_SCALES
from toco_jax.method import cams
from toco_jax.models.network import ToCo, normalize
from toco_jax.ops.resize import resize
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import check_file, write_atomically

PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError):
    """An option that cannot work; the message names it and the remedy."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = commands.make_parser("python -m toco_jax.export", __doc__)
    parser.add_argument("run", type=pathlib.Path, help="a run's folder or one checkpoint in it")
    parser.add_argument("out", type=pathlib.Path, help="the file to write, such as model.stablehlo")
    parser.add_argument("--size", type=int, help="side of the images; the training's if unset")
    parser.add_argument(
        "--multiscale", action="store_true", help="several scales and mirror images, as published"
    )
    options = commands.parse(parser, arguments)
    with commands.reported(debug=options.debug):
        lines = export_run(
            options.run, options.out, size=options.size, multiscale=options.multiscale
        )
    say("\n".join(lines))


def export_run(
    run: pathlib.Path, out: pathlib.Path, *, size: int | None = None, multiscale: bool = False
) -> list[str]:
    """Writes the function of a run and its JSON; returns lines that say so.

    Args:
        run: a run's folder or one checkpoint in it.
        out: the file of the function; the JSON has the same name but for the ending.
        size: side of the images in pixels; the run's `crop_size` by default.
        multiscale: see `make_predictor`.

    Raises:
        ExportError: `size` is no multiple of the patch.
        CheckpointError: there is no run.
        OutputError: the folder of `out` cannot be written to.
    """
    from toco_jax.run import runs

    check_file(out, "OUT")
    notes: list[str] = []
    # One program for every platform: nothing in it may depend on the devices at hand.
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
        "palette": palette(len(names) + 1).tolist(),
        "input": {"dtype": "uint8", "shape": ["b", size, size, 3], "channels": "RGB"},
        "outputs": {
            "segmentation": {"shape": ["b", size, size, len(names) + 1], "range": [0, 1]},
            "cam": {"shape": ["b", size, size, len(names)], "range": [0, 1]},
            "class_scores": {"shape": ["b", len(names)], "range": [0, 1]},
        },
        "backbone": loaded.config.backbone,
        "multiscale": multiscale,
        "platforms": list(PLATFORMS),
    }
    sidecar = out.with_suffix(".json")
    write_atomically(sidecar, json.dumps(about, indent=1) + "\n")
    return [
        *notes,
        f"{out}: {len(data):,} bytes for {', '.join(PLATFORMS)}",
        f"{sidecar}: the classes",
    ]


def make_predictor(
    model: ToCo, params: dict, *, cam_scales: tuple[float, ...] | None = None
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The function to be exported.

    Args:
        model: the network.
        params: its parameters; they become constants of the function.
        cam_scales: None for one pass; otherwise the CAM is taken at these scales with mirror images
            and the segmentation at 1, 1.25 and 1.5 with mirror images (paper, section 4.1).

    Returns:
        uint8 images `[B, S, S, 3]` to float32 `segmentation [B, S, S, C + 1]`, softmax
        probabilities; `cam [B, S, S, C]` in [0, 1); `class_scores [B, C]`, sigmoid of the logits.
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


def _multi_scale_logits(apply: Callable, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalised images `[B, H, W, 3]` to segmentation logits `[B, H, W, C + 1]`, at each scale the
    sum of the image's and its mirror image's, then the maximum over scales; and the class logits
    `[B, C]` of the images as they are.
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
    """`predict` for uint8 images `[b, size, size, 3]`, any b, as bytes of `jax.export`."""
    (batch,) = jax_export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    exported = jax_export.export(jax.jit(predict), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


if __name__ == "__main__":
    commands.keep_streams()
    main()
