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
    if method == "bilinear" and (height, width) == (2 * size[0], 2 * size[1]):
        return _halve(x.astype(jnp.float32)).astype(x.dtype)
    if method == "bilinear" and tuple(size) == (2 * height, 2 * width):
        return _double(_double(x.astype(jnp.float32), -2), -3).astype(x.dtype)
    rows = interpolation_matrix(height, size[0], method)
    columns = interpolation_matrix(width, size[1], method)
    out = x.astype(jnp.float32)
    # Columns leave a transposition behind: they go where the map has fewer rows.
    if size[0] >= height:
        return _apply_rows(rows, _apply_columns(columns, out)).astype(x.dtype)
    return _apply_columns(columns, _apply_rows(rows, out)).astype(x.dtype)


def _apply_rows(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` through `[h, H]` to `[..., h, W, C]`."""
    *lead, height, width, channels = x.shape
    # One product an image: a matrix shared by all would put the images behind the rows.
    per_image = jnp.broadcast_to(matrix, (*lead, *matrix.shape))
    flat = x.reshape(*lead, height, width * channels)
    out = jnp.matmul(per_image, flat, precision=jax.lax.Precision.HIGHEST)
    return out.reshape(*lead, len(matrix), width, channels)


def _apply_columns(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    """`[..., H, W, C]` through `[w, W]` to `[..., H, w, C]`."""
    return jnp.einsum("wW,...HWC->...HwC", matrix, x, precision=jax.lax.Precision.HIGHEST)


def _halve(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 pixels: what the bilinear rule says of `[..., 2h, 2w, C]` at half size."""
    *lead, height, width, channels = x.shape
    blocks = x.reshape(*lead, height // 2, 2, width // 2, 2, channels)
    return blocks.sum(axis=(-4, -2)) / 4


def _double(x: jax.Array, axis: int) -> jax.Array:
    """What the bilinear rule says of `x` at twice its size along the negative `axis`: of each
    pixel two, a quarter of the way towards the one before and the one behind."""
    axis, num = x.ndim + axis, x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, mode="edge")
    before = jax.lax.slice_in_dim(padded, 0, num, axis=axis)
    behind = jax.lax.slice_in_dim(padded, 2, num + 2, axis=axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * behind], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * num, *x.shape[axis + 1 :])
