"""The normalisation of colours that weights were trained with, and its conversion to ImageNet's.

A network that is given other colours than those it was trained with still runs, only worse, and
nothing in its tensors' names or shapes tells DeiT, trained on ImageNet's, from augreg, trained on
means of 0.5. What a library wrote beside a file does, and so does the hash of a published file.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from toco_jax.models import network
from toco_jax.models.backbones import BACKBONES, Backbone
from toco_jax.runtime.errors import WeightsError
from toco_jax.weights import files


class Colours(NamedTuple):
    """Means and deviations, of red, green and blue from 0 to 1, by which colours are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Colours(network.IMAGE_MEAN, network.IMAGE_STD)
HALF = Colours((0.5,) * 3, (0.5,) * 3)
_SATELLITE = Colours((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))
_NAMES = {IMAGENET: "ImageNet's means and deviations", HALF: "means and deviations of 0.5"}

# Published files by the first 8 hex digits of their SHA-256, see `files.KNOWN_FILES`.
_OF_FILES = {
    **dict.fromkeys(("a1311bcf", "cd65a155", "b5f2ef4d", "8de9b5d1"), IMAGENET),
    **dict.fromkeys(("80ecf9dd", "4ee7a4dc", "83fb41ba", "b3be5167", "e5005f0a", "606da67d"), HALF),
    **dict.fromkeys(("08c60483", "4057cbaa", "73cec8be", "8aa4cbdd", "7c1da9a5"), IMAGENET),
    "eadcf0ff": _SATELLITE,
}
# The published runs gave ImageNet's colours to these, which were trained on means of 0.5.
_AS_PUBLISHED = ("vit_base", "vit_large")


def stated(path: pathlib.Path, digest: str) -> Colours | None:
    """Returns the colours that a file of weights was trained on, if that is known.

    Args:
        path: the file. timm writes the colours to the `config.json` beside it, transformers to
            `preprocessor_config.json`.
        digest: its SHA-256.
    """
    if digest[:8] in _OF_FILES:
        return _OF_FILES[digest[:8]]
    about = files.model_config(path.parent)
    inner = about.get("pretrained_cfg")
    processor = files.model_config(path.parent, "preprocessor_config.json")
    if processor.get("do_normalize") is False:
        return Colours((0.0,) * 3, (1.0,) * 3)
    for entry, prefix in ((inner, ""), (about, ""), (processor, "image_")):
        if isinstance(entry, dict):
            mean, std = (_three_numbers(entry.get(f"{prefix}{key}")) for key in ("mean", "std"))
            if mean and std and min(std) > 0:
                return Colours(mean, std)
    return None


def _three_numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        return None
    return tuple(map(float, value))


def fitted(
    paths: Mapping[str, np.ndarray],
    *,
    backbone: str,
    spec: Backbone,
    trained: Colours | None,
    kind: Colours | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts an encoder to ImageNet's colours, if it was trained on others.

    Args:
        paths: parameters by path.
        backbone: the name or sizes of the backbone.
        spec: the backbone.
        trained: the colours of these weights, if they are stated.
        kind: those of all weights of their kind, if the tensors tell it.

    Returns:
        The parameters, and notes on what was done or assumed.

    Raises:
        WeightsError: the backbone expects other colours than the kind of these weights.
    """
    if backbone in _AS_PUBLISHED:
        if trained in (None, IMAGENET):
            return dict(paths), []
        return dict(paths), [
            f"they were trained on colours normalised by {_named(trained)} and get ImageNet's, as "
            f"in the published runs; backbone={backbone.replace('vit', 'augreg')} converts them"
        ]
    if trained is None and spec.half_colours:
        if kind == IMAGENET:
            raise WeightsError(
                f"these weights were trained on colours normalised by {_NAMES[IMAGENET]}, and the "
                f"backbone {backbone} is for {_NAMES[HALF]}: set backbone to {_with_imagenet(spec)}"
            )
        doubt = [] if kind == HALF else [
            f"nothing says which colours they were trained on: the backbone {backbone} takes them "
            f"for {_NAMES[HALF]}; if these are DeiT or others of ImageNet's, set "
            f"backbone to {_with_imagenet(spec)}"
        ]  # fmt: skip
        return to_imagenet(paths, HALF), [_converted(HALF), *doubt]
    if trained is None and kind == HALF:
        return dict(paths), [
            f"such weights were trained on colours normalised by {_NAMES[HALF]} and get "
            "ImageNet's: an augreg_* backbone, or half_colours=1 after sizes, converts them"
        ]
    if trained in (None, IMAGENET):
        note = "they were trained on ImageNet's colours and are not converted"
        return dict(paths), [note] if spec.half_colours else []
    return to_imagenet(paths, trained), [_converted(trained)]


def _converted(trained: Colours) -> str:
    return f"their patch embedding was converted to ImageNet's colours, from {_named(trained)}"


def _named(trained: Colours) -> str:
    other = f"means {trained.mean} and deviations {trained.std}"
    return _NAMES.get(trained, other)


def _with_imagenet(spec: Backbone) -> str:
    """Returns the first backbone of these sizes for ImageNet's colours."""
    plain = dataclasses.replace(spec, half_colours=False)
    names = (name for name, other in BACKBONES.items() if other == plain)
    return next(names, "the same sizes without half_colours=1")


def to_imagenet(paths: Mapping[str, np.ndarray], trained: Colours) -> dict[str, np.ndarray]:
    """Converts the patch embedding of an encoder to ImageNet's normalisation.

    Args:
        paths: parameters by path, trained on colours normalised by `trained`.
        trained: means and deviations.

    Returns:
        Parameters that compute the same from colours that `models.network.normalize` made.
    """
    kernel, bias = (f"encoder/patch_embed/{leaf}" for leaf in ("kernel", "bias"))
    mean, std = np.array(IMAGENET, np.float32)
    their_mean, their_std = np.array(trained, np.float32)
    weights = paths[kernel]  # [patch, patch, 3, D]
    return {
        **paths,
        kernel: weights * (std / their_std)[:, None],
        bias: paths[bias] + np.einsum("hwcd,c->d", weights, (mean - their_mean) / their_std),
    }
