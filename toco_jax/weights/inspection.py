"""Describes what a weight file or a run holds: format, backbone, classes, tensors."""

import json
import pathlib
from collections import Counter

import numpy as np

from toco_jax.models.backbones import backbone_from_name
from toco_jax.runtime.console import silent
from toco_jax.runtime.errors import WeightsError, some_of
from toco_jax.weights import backbone_files, files, layouts, load, origin, recognise


def inspect(source: str) -> list[str]:
    """Returns lines that describe a weight file or a run.

    Args:
        source: the path of a file, of a model folder or of a run, or a name that `load.resolve`
            takes.

    Raises:
        WeightsError: there is no such file, it is damaged, or its format is not known.
        CheckpointError: the folder is not a run, or its checkpoint cannot be read.
    """
    path = load.resolve(source)
    if path.is_dir():
        return _inspect_run(path)
    file = files.read(path)
    tensors = backbone_files.without_module(file.tensors)
    digest = files.sha256(path)
    dtypes = Counter(str(value.dtype) for value in tensors.values())
    numbers = sum(value.size for value in tensors.values())
    about, notes = _inspect_tensors(tensors)
    rows = {
        "file": f"{path} ({path.stat().st_size:,} bytes)",
        "format": file.format,
        "published": files.known_file(digest) or "no known file",
        "sha256": digest,
        **about,
        "tensors": f"{len(tensors)} with {numbers:,} numbers",
        "dtype": ", ".join(f"{name} x {count}" for name, count in dtypes.most_common()),
    }
    if file.metadata:
        rows["metadata"] = json.dumps(file.metadata)
    return [*(f"{key:<10} {value}" for key, value in rows.items()), *file.notes, *notes]


def _inspect_tensors(tensors: load.Tensors) -> tuple[dict[str, str], list[str]]:
    """Returns the description of a file's tensors as rows by heading, and further remarks."""
    broken = [
        name
        for name, value in tensors.items()
        if layouts.is_float(value.dtype) and not np.isfinite(value).all()
    ]
    notes = [f"{name} holds NaN or infinite numbers: training refuses it" for name in broken]
    try:
        layout = backbone_files.layout_of(tensors)
        sizes = backbone_files.sizes_of(tensors, layout)
    except WeightsError as error:
        return {"layout": "unknown"}, [*notes, str(error)]
    out = {"layout": backbone_files.LAYOUT_NAMES[layout]}
    if what := recognise.pretraining(tensors, layout):
        out["weights"] = what
    grid = ""
    try:
        plain, changes = backbone_files.usual(tensors, layout, layer_scale=True)
        notes += changes
        if "rotary" not in sizes:
            side = backbone_files.grid_of(backbone_files.positions_of(plain, layout))
            grid = f", positions {side} x {side}"
    except WeightsError as error:
        notes.append(str(error))
    out["backbone"] = f"{_backbone_name(sizes)}{grid}"
    if layout == "toco" and "classifier.weight" in tensors:
        out["classes"] = str(tensors["classifier.weight"].shape[0])
    elif heads := backbone_files.dropped(tensors, layout):
        out["classes"] = some_of([f"{name} {tensors[name].shape}" for name in heads], 4)
    else:
        out["classes"] = "none"
    return out, notes


def _backbone_name(sizes: dict[str, int]) -> str:
    """Returns the name that `backbone=` takes for these sizes, followed by the sizes."""
    names = backbone_files.backbones_of(sizes)
    name = " or ".join(names)
    if len(names) > 1:
        name += " (of the same sizes)"
    if not names:
        name = f"none of the known ones (backbone={backbone_files.spelt(sizes)})"
    return f"{name}: {', '.join(f'{key} {value}' for key, value in sizes.items())}"


def _inspect_run(path: pathlib.Path) -> list[str]:
    # Imported late because orbax is slow to import and only runs need it.
    from toco_jax.run import runs

    run = runs.load(path, portable=True, report=silent)
    spec = backbone_from_name(run.config.backbone)
    rows = {
        "format": "a run of toco_jax",
        "step": run.step,
        "backbone": f"{run.config.backbone}: width {spec.width}, depth {spec.depth}, "
        f"heads {spec.heads}, patch {spec.patch}",
        "classes": run.config.num_classes,
        "sha256": origin.digest_of(run.params, run.teacher_params),
    }
    return [f"{key:<10} {value}" for key, value in rows.items()]
