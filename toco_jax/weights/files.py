"""Reads weight files of several formats, which it recognises by their content."""

import hashlib
import pathlib
import re
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

from toco_jax.data.npz_files import read_npz
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import MissingWeightsError, WeightsError, clipped, shown, some_of
from toco_jax.weights import compact, torch_file

# What Hugging Face libraries call the weights in a model's folder, and formats that are not read.
_MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
_OTHER_FORMATS = (".index.json", ".msgpack", ".h5", ".onnx", ".gguf")
# Entries of a training checkpoint that hold the network; others hold the optimiser and the like.
_STATE_DICTS = ("model", "state_dict")

# Published files by the first 8 hex digits of their SHA-256, which are part of their names.
KNOWN_FILES = {
    "a1311bcf": "DeiT deit_tiny 224 (ImageNet-1k), the published initialisation",
    "cd65a155": "DeiT deit_small 224 (ImageNet-1k), the published initialisation",
    "b5f2ef4d": "DeiT deit_base 224 (ImageNet-1k), the published initialisation",
    "8de9b5d1": "DeiT deit_base 384 (ImageNet-1k), not the published initialisation",
    "80ecf9dd": "vit_base 224 (ImageNet-21k, then 1k), the published initialisation",
    "4ee7a4dc": "vit_large 224 (ImageNet-21k, then 1k), the published initialisation",
    "83fb41ba": "vit_base 384 (ImageNet-21k, then 1k), not the published initialisation",
    "b3be5167": "vit_large 384 (ImageNet-21k, then 1k), not the published initialisation",
    "e5005f0a": "vit_base 224 (ImageNet-21k only), not the published initialisation",
    "606da67d": "vit_large 224 (ImageNet-21k only), not the published initialisation",
    "08c60483": "dinov3_small, not the published initialisation",
    "4057cbaa": "dinov3_small_plus, not the published initialisation",
    "73cec8be": "dinov3_base, not the published initialisation",
    "8aa4cbdd": "dinov3_large, not the published initialisation",
    "7c1da9a5": "dinov3_huge_plus, not the published initialisation",
    "eadcf0ff": "dinov3_large of satellite images, not the published initialisation",
}


class WeightFile(NamedTuple):
    """The content of a weight file: its tensors by name, its metadata and notes for the user."""

    format: str
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    notes: list[str]


def read(path: str | pathlib.Path) -> WeightFile:
    """Reads all tensors of a `.safetensors`, `.npz` or `.pth` file.

    The tensors of a `.pth` file are read-only views of the file.

    Raises:
        MissingWeightsError: the file cannot be read.
        WeightsError: the file has another format, is damaged, or holds something other than named
            tensors.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read ({error.strerror})") from error
    if start.startswith(torch_file.ZIP_MAGIC):
        return _read_npz(path) if _is_npz(path) else _read_torch(path)
    if torch_file.LEGACY_MAGIC in start[:16]:
        return _read_torch(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    hint = ""
    if re.match(rb"\s*<[!?a-z]", start, re.IGNORECASE):
        hint = ": it is a web page, so the download went wrong"
    elif not start:
        hint = ": it is empty"
    raise WeightsError(
        f"{path} is no file of weights{hint} (it starts with {start[:8]!r}). Known are "
        ".safetensors, the .pth files of torch.save, and .npz"
    )


def sha256(path: str | pathlib.Path) -> str:
    """Returns the SHA-256 of a file, 64 hex digits."""
    with pathlib.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_file(digest: str) -> str | None:
    """Returns what the published file with this SHA-256 is; None if there is no such file."""
    return KNOWN_FILES.get(digest[:8])


def file_in(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the weight file in a model folder of Hugging Face; None for any other folder.

    Raises:
        WeightsError: the weights are missing, in several files, or in a format that is not read.
    """
    about = model_config(folder)
    for name in _MODEL_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path.name for path in folder.iterdir() if path.name.endswith(_OTHER_FORMATS))
    if others:
        raise WeightsError(
            f"{folder} holds its weights as {', '.join(others)}, which is not read: save them as "
            "one model.safetensors"
        )
    if about.keys() & {"model_type", "architecture", "architectures"}:
        raise WeightsError(
            f"{folder} is a Hugging Face model folder without weights ({_MODEL_FILES[0]}): "
            "download them too"
        )
    return None


def model_config(folder: pathlib.Path, name: str = "config.json") -> dict[str, Any]:
    """Returns the content of a folder's JSON file; {} if there is none or it is damaged."""
    try:
        about = json_text.parse((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_npz(path: pathlib.Path) -> bool:
    """Whether the first record of a zip file is a numpy array."""
    with path.open("rb") as file:
        header = file.read(30)
        name_size = int.from_bytes(header[26:28], "little")
        return file.read(name_size).endswith(b".npy")


def _read_torch(path: pathlib.Path) -> WeightFile:
    content = torch_file.load(path)
    notes = []
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    for key in _STATE_DICTS:
        if isinstance(content.get(key), dict):
            others = sorted(clipped(name) for name in content if name != key)
            if others:
                notes.append(f"beside {key!r} the file holds {some_of(others)}: not used")
            content = content[key]
            break
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise WeightsError(
                f"{path}: entry {shown(name)} is a {type(value).__name__}, not a tensor. Expected "
                f"are named tensors, alone or under one of {', '.join(_STATE_DICTS)}"
            )
    return WeightFile("torch zip", dict(content), {}, notes)


def _read_safetensors(path: pathlib.Path) -> WeightFile:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    # Shapes that fit the file may have more axes, or be larger, than numpy's can.
    except (safetensors.SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} is a damaged or cut .safetensors file ({clipped(error, 300)}): download it "
            "again"
        ) from error
    except AttributeError as error:  # what a type that numpy lacks, such as float8, raises
        raise WeightsError(
            f"{path} holds tensors of a type that is not supported ({error}): save them as float32"
        ) from error
    try:
        tensors = compact.unpacked(tensors)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return WeightFile("safetensors", tensors, metadata, [])


def _read_npz(path: pathlib.Path) -> WeightFile:
    try:
        arrays = read_npz(path)
        metadata: dict[str, str] = {}
        stated = arrays.get("metadata")
        if stated is not None and stated.dtype.kind == "U" and stated.ndim == 0:
            content = json_text.parse(str(arrays.pop("metadata")))
            metadata = {key: str(item) for key, item in content.items()}
    except (ValueError, AttributeError) as error:
        raise WeightsError(f"{path} is a damaged or cut .npz file ({error})") from error
    # numpy has no bfloat16 and writes its two bytes as unnamed ones.
    tensors = {
        name: value.view(ml_dtypes.bfloat16) if value.dtype == np.dtype("V2") else value
        for name, value in arrays.items()
    }
    return WeightFile("npz", tensors, metadata, [])
