"""Identifies weights: where they come from and their SHA-256, as JSON values."""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import traverse_util

from toco_jax.weights import files

if TYPE_CHECKING:  # orbax is slow to import, and only runs need it
    from toco_jax.run.runs import Run


def of_file(
    init: str, path: pathlib.Path, file: files.WeightFile, layout: str, *, digest: str
) -> dict[str, Any]:
    """Returns JSON values that identify a file of weights, whose SHA-256 is `digest`."""
    about = {"init": init, "path": str(path.absolute()), "sha256": digest}
    return about | {"format": file.format, "layout": layout}


def of_run(path: pathlib.Path, run: "Run") -> dict[str, Any]:
    """Returns JSON values that identify a run and its step; the SHA-256 is that of `digest_of`."""
    digest = digest_of(run.params, run.teacher_params)
    about = {"init": str(path), "path": str(path.absolute()), "sha256": digest}
    return about | {"format": "a run", "step": run.step}


def digest_of(params: Mapping, teacher_params: Mapping) -> str:
    """Returns the SHA-256 of a run's parameters, which does not depend on how they are stored."""
    paths = traverse_util.flatten_dict({**params, "teacher": teacher_params}, sep="/")
    digest = hashlib.sha256()
    for path, value in sorted(paths.items()):
        digest.update(f"{path} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
