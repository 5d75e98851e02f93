"""The normalisation of colours that weights were trained with, and its conversion to ImageNet's."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from toco_jax.models import network


class Colours(NamedTuple):
    """Means and deviations, of red, green and blue from 0 to 1, by which colours are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Colours(network.IMAGE_MEAN, network.IMAGE_STD)
HALF = Colours((0.5,) * 3, (0.5,) * 3)


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
