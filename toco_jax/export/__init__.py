"""Exports a trained network as one file; see `toco export --help`."""

import json
import pathlib
from typing import Any

from toco_jax.export import onnx_graph, onnx_model, stablehlo, x_anylabeling
from toco_jax.export.files import (
    ExportError,
    Size,
    check_description,
    describe_arrays,
)
from toco_jax.run import runs
from toco_jax.runtime.outputs import check_file, write_atomically

STABLEHLO, ONNX, X_ANYLABELING = "stablehlo", "onnx", "x_anylabeling"
NATIVE = "native"


def export_run(
    run: pathlib.Path,
    out: pathlib.Path,
    *,
    file_format: str | None = None,
    size: int | str | None = None,
    multiscale: bool = False,
    weights: str = "float32",
) -> list[str]:
    """Writes a run's network as one file, and beside it a file that describes it.

    Args:
        run: a run's folder or one checkpoint in it.
        out: the file to write. The description has the same name with the ending `.json`, and for
            X-AnyLabeling `.yaml`.
        file_format: `"stablehlo"`, a function of JAX; `"onnx"`; or `"x_anylabeling"`, an ONNX file
            with the input and outputs that this tool expects. By default `"onnx"` if the name of
            `out` ends in `.onnx`, and else `"stablehlo"`.
        size: side of the input images in pixels, or `"native"` for images of any size; the run's
            `crop_size` by default.
        multiscale: whether to average several scales and mirror images, see `make_predictor`.
        weights: `"float32"` or `"float16"`, the dtype in which an ONNX file stores the weights.

    Returns:
        Lines that say what was written.

    Raises:
        ExportError: the options do not go together, the size does not suit the network, the
            network cannot be written in this format, or see `check_description` and `onnx_package`.
        CheckpointError: there is no run.
        OutputError: the folder of `out` cannot be written to.
    """
    if file_format is None:
        file_format = ONNX if out.suffix == ".onnx" else STABLEHLO
    _check_options(file_format, size, weights)
    beside = _check_outputs(out, file_format)
    notes: list[str] = []
    # The program runs on every platform, so nothing in it may depend on the devices present.
    loaded = runs.load(run, portable=True, report=notes.append)
    scales = tuple(loaded.config.cam_scales) if multiscale else None
    shape = _shape(loaded, size, scales)
    about = {
        "file": out.name,
        "classes": ["background", *loaded.class_names],
        "names_known": loaded.names_known,
        **describe_arrays(shape, len(loaded.class_names)),
        "backbone": loaded.config.backbone,
        "multiscale": multiscale,
    }
    if file_format == STABLEHLO:
        assert shape is not None
        predict = stablehlo.make_predictor(loaded.model, loaded.params, cam_scales=scales)
        data = stablehlo.serialize(predict, size=shape)
        about["platforms"] = list(stablehlo.PLATFORMS)
        kind = f"for {', '.join(stablehlo.PLATFORMS)}"
    else:
        data = _onnx(loaded, file_format, shape, scales, weights, about)
        kind = f"ONNX, opset {onnx_graph.OPSET}, weights in {weights}"
        if loaded.config.compute_dtype != "float32":
            notes.append(
                f"the run computes in {loaded.config.compute_dtype}, and the ONNX file in float32: "
                "the same function in another rounding"
            )
    write_atomically(out, data)
    if file_format == X_ANYLABELING:
        name = loaded.folder.resolve().name
        description = x_anylabeling.config(name, out.name, loaded.class_names)
    else:
        description = json.dumps(about, indent=1) + "\n"
    write_atomically(beside, description)
    return [*notes, f"{out}: {len(data):,} bytes {kind}", f"{beside}: the classes"]


def _onnx(
    loaded: runs.Run,
    file_format: str,
    size: Size,
    scales: tuple[float, ...] | None,
    weights: str,
    about: dict[str, Any],
) -> bytes:
    """Returns the content of one of the two kinds of ONNX files."""
    network = (loaded.model, loaded.params)
    half = weights == "float16"
    if file_format == ONNX:
        return onnx_model.to_onnx(*network, size=size, cam_scales=scales, half=half, about=about)
    return x_anylabeling.to_onnx(*network, size=size, cam_scales=scales, half=half)


def _check_outputs(out: pathlib.Path, file_format: str) -> pathlib.Path:
    """Checks that the files can be written; returns the path of the one that describes the other.

    Raises:
        OutputError: the folder of `out` cannot be written to.
        ExportError: see `check_description`.
    """
    check_file(out, "--out")
    if file_format == X_ANYLABELING:
        return check_description(out, out.with_suffix(".yaml"), x_anylabeling.MARK)
    return check_description(out, out.with_suffix(".json"), '"palette"')


def _check_options(file_format: str, size: int | str | None, weights: str) -> None:
    if file_format == STABLEHLO and size == NATIVE:
        raise ExportError(
            "--size=native needs --format=onnx: a StableHLO file is for images of one size"
        )
    if file_format == X_ANYLABELING and size == NATIVE:
        raise ExportError(
            "--size=native needs --format=onnx: X-AnyLabeling resizes each picture to a fixed size"
        )
    if file_format == STABLEHLO and weights != "float32":
        raise ExportError(
            f"--weights={weights} needs --format=onnx: a StableHLO file stores weights in float32"
        )
    if file_format != STABLEHLO:
        onnx_graph.onnx_package()  # rather missed here than after the run is loaded


def _shape(loaded: runs.Run, size: int | str | None, scales: tuple[float, ...] | None) -> Size:
    """Returns the height and width of the images.

    Raises:
        ExportError: the network cannot see images of this size, at one of the scales.
    """
    if size == NATIVE:
        return None
    patch = loaded.model.backbone.patch
    side = int(loaded.config.crop_size if size is None else size)
    if side < patch or side % patch:
        raise ExportError(f"--size={side} must be a positive multiple of the patch side {patch}")
    smallest = min(scales or (1.0,))
    if int(smallest * side) < patch:
        raise ExportError(
            f"--size={side} is less than a patch of {patch} pixels at scale {smallest:g}: use a "
            "larger --size, or no --multiscale"
        )
    return side, side
