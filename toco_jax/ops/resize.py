"""Image resizing with the sampling rules the method was published with.

Every resize is separable, so it is two small matrices with static entries applied to the height and
the width. The rules are those of torch's `interpolate` without antialiasing; `jax.image.resize`
differs from them at borders and when shrinking.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Method = Literal["bilinear", "bilinear_corners", "bicubic", "nearest"]

_CUBIC_A = -0.75


def _cubic_weight(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.75."""
    x = np.abs(distance)
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
    far = _CUBIC_A * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def interpolation_matrix(size_in: int, size_out: int, method: Method = "bilinear") -> np.ndarray:
    """Weights `[size_out, size_in]` float32 of a one-dimensional resize; every row sums to 1.

    `bilinear` and `bicubic` (a = -0.75) use half-pixel centres, `bilinear_corners` maps the end
    points onto each other, `nearest` takes the source at `floor(i * size_in / size_out)`. Samples
    outside repeat the border. Raises `ValueError` for sizes below 1 or an unknown method.
    """
    if size_in < 1 or size_out < 1:
        raise ValueError(f"cannot resize {size_in} to {size_out} pixels: both must be at least 1")
    index = np.arange(size_out, dtype=np.float64)
    half_pixel = (index + 0.5) * (size_in / size_out) - 0.5
    if method == "bilinear":
        source, taps = np.maximum(half_pixel, 0.0), (0, 1)
    elif method == "bilinear_corners":
        source, taps = index * ((size_in - 1) / max(size_out - 1, 1)), (0, 1)
    elif method == "bicubic":
        source, taps = half_pixel, (-1, 0, 1, 2)
    elif method == "nearest":
        source, taps = np.floor(index * (size_in / size_out)), (0,)
    else:
        raise ValueError(f"unknown resize method {method!r}: use one of {Method.__args__}")
    base = np.floor(source)
    fraction = source - base
    matrix = np.zeros((size_out, size_in), np.float64)
    for tap in taps:
        column = np.clip(base + tap, 0, size_in - 1).astype(int)
        if method == "bicubic":
            weight = _cubic_weight(fraction - tap)
        else:
            weight = 1 - np.abs(fraction - tap)
        np.add.at(matrix, (np.arange(size_out), column), weight)
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def resize(x: jax.Array, size: tuple[int, int], method: Method = "bilinear") -> jax.Array:
    """Resizes `[..., H, W, C]` to `[..., h, w, C]` with `size = (h, w)`; see
    `interpolation_matrix` for the methods. Floating point arrays only, computed in float32 and
    returned in the input's dtype.
    """
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    if method == "nearest":
        rows = interpolation_matrix(height, size[0], method).argmax(1)
        columns = interpolation_matrix(width, size[1], method).argmax(1)
        return x[..., rows, :, :][..., columns, :]
    return _apply(
        x,
        interpolation_matrix(height, size[0], method),
        interpolation_matrix(width, size[1], method),
    )


def _apply(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """`[..., H, W, C]` through `rows [h, H]` and `columns [w, W]`, the cheaper axis first."""
    highest = jax.lax.Precision.HIGHEST
    out = x.astype(jnp.float32)
    apply_rows = functools.partial(jnp.einsum, "hH,...HWC->...hWC", rows, precision=highest)
    apply_columns = functools.partial(jnp.einsum, "wW,...HWC->...HwC", columns, precision=highest)
    grows = rows.shape[0] * columns.shape[1] > columns.shape[0] * rows.shape[1]
    first, second = (apply_columns, apply_rows) if grows else (apply_rows, apply_columns)
    return second(first(out)).astype(x.dtype)
