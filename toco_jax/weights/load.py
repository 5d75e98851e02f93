"""Loads weights: ImageNet backbones, published ToCo checkpoints, our own files and runs.

Every tensor of a source is used or named as dropped, and every parameter is filled; anything else
is an error with names and shapes. Torch is not needed.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from toco_jax.models.backbones import BACKBONES, backbone_from_name
from toco_jax.models.vit import stored_grid
from toco_jax.runtime.console import silent
from toco_jax.runtime.errors import MissingWeightsError, UserError, WeightsError
from toco_jax.weights import (
    backbone_files,
    checks,
    colours,
    dinov3,
    download,
    files,
    layouts,
    origin,
    published,
    recognise,
    torch_file,
)

Tensors = Mapping[str, np.ndarray]

ASSETS = {"shapes": pathlib.Path(__file__).parents[1] / "demo" / "assets" / "shapes_encoder.npz"}


def load(init: str, *, backbone: str, num_classes: int, decoder_width: int = 512) -> dict:
    """Loads starting weights from a name, a file or a run.

    Args:
        init: the name of a backbone, for its published weights (downloaded once),
            `hf:owner/repository[/file]` (a file of the Hugging Face hub), `shapes` (comes with the
            package), the path of a file (`.safetensors`, `.pth`, `.npz`) or of a model folder of
            Hugging Face, or a run of ours.
        backbone: name or sizes of the backbone to fill.
        num_classes: C, the foreground classes.
        decoder_width: hidden channels of the decoder.

    Returns:
        A dictionary of
        `params`: nested float32 arrays, either of `encoder` alone or of the whole network;
        `teacher_params`: the parameters of the teacher's head, or None;
        `grid`: side of the positional grid in patches, 0 if there is none;
        `layout`: what the source is;
        `notes`: lines on what was read and dropped;
        `origin`: JSON values that identify the weights, among them their SHA-256.

    Raises:
        MissingWeightsError: there is no such file, or it could not be downloaded.
        WeightsError: the weights do not fit, or the file is damaged or of no known format.
    """
    checks.check_name(init, backbone)
    path = resolve(init)
    where = f"init={init!r}" if init == str(path) else f"init={init!r} ({path})"
    sizes: dict[str, Any] = {
        "backbone": backbone,
        "num_classes": num_classes,
        "decoder_width": decoder_width,
    }
    try:
        if path.is_dir():
            return _from_run(path, **sizes)
        path, file = _read(init, path)
        checks.check_backbone(file.metadata.get("backbone"), backbone)
        checks.check_heads(path.parent, backbone)
        digest = files.sha256(path)
        trained = colours.stated(path, digest)
        if trained is None and init in download.FROM_HUB:
            trained = colours.HALF if BACKBONES[init].half_colours else colours.IMAGENET
        out = from_tensors(file.tensors, **sizes, trained=trained)
    except MissingWeightsError:
        raise
    except UserError as error:
        raise WeightsError(f"{where}: {error}") from error
    about = origin.of_file(init, path, file, out["layout"], digest=digest)
    pretraining = out.pop("pretraining")
    what = files.known_file(about["sha256"]) or pretraining
    if "augreg" in path.as_posix().lower():
        file.notes.append("by its name these are augreg weights, not the published initialisation")
    first = f"{path}: {file.format}, {out['layout']}, SHA-256 {about['sha256']}"
    recognised = [f"these weights are: {what}"] if what else []
    return out | {
        "notes": [first, *recognised, *file.notes, *out["notes"]],
        "origin": about | {"weights": what},
    }


def _read(init: str, path: pathlib.Path) -> tuple[pathlib.Path, files.WeightFile]:
    """Reads the file of `init`, or the hub's if torch is needed to read the published one."""
    try:
        return path, files.read(path)
    except torch_file.LegacyFormatError as error:
        if init not in download.HUB_NAMES:
            raise
        hub_name = download.HUB_NAMES[init]
        try:
            path = resolve(hub_name)
        except MissingWeightsError as unreachable:
            raise MissingWeightsError(f"{error}. Or, the same weights: {unreachable}") from error
        file = files.read(path)
        file.notes.append(f"taken from {hub_name}, because only torch can read the published file")
        return path, file


def resolve(init: str) -> pathlib.Path:
    """Returns the path of the file or run that `init` names; downloads it if it is not cached.

    `init` is a name, `hf:owner/repository[/file]`, the path of a file or of a model folder, or the
    folder of a run.

    Raises:
        MissingWeightsError: there is no such name or path, or it could not be downloaded.
        WeightsError: it is a model folder without weights that can be read.
    """
    if init in ASSETS:
        return ASSETS[init]
    if init in download.ADDRESSES:
        return download.fetch(download.ADDRESSES[init])
    hub_name = download.FROM_HUB.get(init, init)
    if hub_name.startswith("hf:"):
        return download.from_hub(hub_name)
    path = pathlib.Path(os.path.expanduser(init))  # as it is where nobody is at home
    if not path.exists() and init.startswith("dinov3_") and init in BACKBONES:
        raise MissingWeightsError(
            f"init={init!r}: the weights of DINOv3 may be had from its authors alone. Accept their "
            "licence at https://ai.meta.com/dinov3 or https://huggingface.co/facebook, and give "
            "the file as init=FILE, or the name of its repository as init=hf:facebook/NAME"
        )
    if not path.exists():
        names = ", ".join([*download.ADDRESSES, *download.FROM_HUB, *ASSETS])
        raise MissingWeightsError(
            f"init={init!r} is neither a known name ({names}, hf:owner/repository/file) nor an "
            f"existing path ({path.absolute()})"
        )
    is_run = (path / "checkpoints").is_dir() or path.parent.name == "checkpoints"
    return files.file_in(path) or path if path.is_dir() and not is_run else path


def from_tensors(
    tensors: Tensors,
    *,
    backbone: str,
    num_classes: int,
    decoder_width: int = 512,
    trained: colours.Colours | None = None,
) -> dict:
    """Converts the tensors of a file in any layout to parameters.

    Args:
        tensors: the tensors by name.
        backbone: name or sizes of the backbone to fill.
        num_classes: C, the foreground classes.
        decoder_width: hidden channels of the decoder.
        trained: the colours that an encoder was trained on, if they are stated.

    Returns:
        The dictionary of `load`, except that `origin` is replaced by `pretraining`: what a backbone
        was trained on, or None for a whole network.

    Raises:
        WeightsError: the layout is not known, or the weights do not fit.
    """
    tensors = backbone_files.without_module(tensors)
    layout = backbone_files.layout_of(tensors)
    notes = backbone_files.dropped_note(tensors, layout)
    what = recognise.pretraining(tensors, layout)
    if layout == "toco":
        notes += published.begun_anew(tensors)
        params, teacher = published.params_from_reference(
            tensors, backbone=backbone, num_classes=num_classes, decoder_width=decoder_width
        )
    else:
        spec = backbone_from_name(backbone)
        checks.check_rotary(tensors, backbone, spec)
        dinov3.check_periods(tensors, backbone, spec)
        is_imagenet = recognise.has_imagenet_colours(tensors, layout)
        tensors, changes = backbone_files.usual(tensors, layout, layer_scale=spec.layer_scale)
        notes += changes
        checks.check_parts(tensors, backbone, spec)
        paths = layouts.assemble(
            tensors,
            backbone_files.encoder_sources(tensors, layout, spec),
            dropped=backbone_files.dropped(tensors, layout),
            needs=f"the backbone {backbone}",
        )
        if layout != "toco_jax":  # whose encoders were converted when they were made
            kind = {True: colours.IMAGENET, False: colours.HALF, None: None}[is_imagenet]
            paths, lines = colours.fitted(
                paths, backbone=backbone, spec=spec, trained=trained, kind=kind
            )
            notes += lines
        params, teacher = published.nested(paths)[0], None
    return _result(params, teacher, notes, backbone_files.LAYOUT_NAMES[layout]) | {
        "pretraining": what
    }


def _from_run(path: pathlib.Path, *, backbone: str, num_classes: int, decoder_width: int) -> dict:
    """Returns the dictionary of `load` for a run, after it has checked the shapes."""
    # Imported late, because orbax is slow to import and only runs need it.
    from toco_jax.run import runs

    run = runs.load(path, portable=True, report=silent)
    checks.check_backbone(run.config.backbone, backbone)
    paths = published.paths_of(run.params, run.teacher_params)
    spec = backbone_from_name(backbone)
    grid = backbone_files.stored_grid(paths, "toco_jax", spec)
    image_head = "img_head/kernel" in paths
    layout = layouts.reference(spec, grid, num_classes, decoder_width, image_head=image_head)
    sources = layouts.own(layout)
    needs = f"{backbone} with {num_classes} classes"
    params, teacher = published.nested(layouts.assemble(paths, sources, needs=needs))
    about = origin.of_run(path, run)
    notes = [f"{path}: a run at step {about['step']}, its parameters' SHA-256 {about['sha256']}"]
    notes += published.left_out(run.params)
    return _result(params, teacher, notes, "a run") | {"origin": about}


def _result(params: dict, teacher: dict | None, notes: list[str], layout: str) -> dict:
    return {
        "params": params,
        "teacher_params": teacher,
        "grid": stored_grid(params["encoder"]),
        "layout": layout,
        "notes": notes,
    }
