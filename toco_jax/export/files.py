"""The files that an export writes, and the description that goes with every format."""

import glob
import json
import pathlib
from typing import Any

import numpy as np

from toco_jax.data.classes import palette
from toco_jax.runtime.errors import UserError

# Height and width of the images; None for any.
Size = tuple[int, int] | None


class ExportError(UserError):
    """An option has a value that cannot work; the message names it and the remedy."""


def check_description(out: pathlib.Path, beside: pathlib.Path, mark: str) -> pathlib.Path:
    """Checks that the file that describes `out` may be written; returns its path.

    Args:
        out: the exported file.
        beside: the file that describes it.
        mark: a text that is in every such file.

    Raises:
        ExportError: they are the same file, or a file of another kind is where ours would go, or
            the description of another exported file that is still there.
    """
    if out == beside:
        ending = "stablehlo" if beside.suffix == ".json" else "onnx"
        raise ExportError(f"{out} is the name of the description: use one like model.{ending}")
    if not beside.exists():
        return beside
    text = beside.read_text(errors="replace")
    if mark not in text:
        raise ExportError(f"{beside} exists and is not of this command: use another --out")
    for other in out.parent.glob(glob.escape(out.stem) + ".*"):
        if other.name != out.name and f'"file": {json.dumps(other.name)}' in text:
            raise ExportError(f"{beside} describes {other}, which is there: use another --out")
    return beside


def mask_dtype(num_labels: int) -> type:
    """Returns the dtype of masks of so many labels, background included."""
    return np.uint8 if num_labels <= 256 else np.int32


def describe_arrays(size: Size, num_classes: int) -> dict[str, Any]:
    """Returns shapes, types and ranges of the network's input and outputs, and the palette."""
    pixels = ["b", *(("height", "width") if size is None else size)]
    return {
        "palette": palette(num_classes + 1).tolist(),
        "input": {"dtype": "uint8", "shape": [*pixels, 3], "channels": "RGB"},
        "outputs": {
            "segmentation": {"shape": [*pixels, num_classes + 1], "range": [0, 1]},
            "cam": {"shape": [*pixels, num_classes], "range": [0, 1]},
            "class_scores": {"shape": ["b", num_classes], "range": [0, 1]},
            "mask": {
                "dtype": np.dtype(mask_dtype(num_classes + 1)).name,
                "shape": pixels,
                "range": [0, num_classes],
            },
        },
    }
