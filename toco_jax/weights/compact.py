"""Compact files of networks: weights of 8 bits, and nothing that only training uses."""

from collections.abc import Mapping

import numpy as np

from toco_jax.runtime.errors import WeightsError

# Follows the name of a weight in the name of its scales.
SCALES = ":scales"
# The projection heads, and ImageNet's classifier, which is never used.
_LEFT_OUT = ("proj_head", "encoder.head.")
_LARGEST = 127


def packed(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the tensors of a compact file.

    A weight becomes int8, and `<name>:scales` float32, one for each output, with which it is
    multiplied again. Rounding moves no number by more than 1/254 of the largest of its output.
    Biases and the like stay what they are.

    Args:
        state_dict: float32 tensors of the published network by name, outputs first.
    """
    out = {}
    for name, value in state_dict.items():
        if name.startswith(_LEFT_OUT):
            continue
        if value.ndim < 2 or not name.endswith(".weight"):
            out[name] = value
            continue
        largest = np.abs(value).max(axis=tuple(range(1, value.ndim)), keepdims=True)
        scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
        out[name] = np.rint(value / scales).astype(np.int8)
        out[name + SCALES] = scales
    return out


def unpacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors in which those of 8 bits that have scales are float32.

    Raises:
        WeightsError: scales do not fit their weight, or there is no such weight.
    """
    out = {name: value for name, value in tensors.items() if not name.endswith(SCALES)}
    for name in tensors.keys() - out.keys():
        scales, weight = tensors[name], out.get(name.removesuffix(SCALES))
        if weight is None:
            raise WeightsError(f"{name} belongs to no tensor: write the file again")
        if scales.shape != (*weight.shape[:1], *[1] * (weight.ndim - 1)):
            raise WeightsError(
                f"{name} has the shape {scales.shape}, which does not fit {weight.shape}: write "
                "the file again"
            )
        out[name.removesuffix(SCALES)] = weight.astype(np.float32) * scales
    return out
