"""Image resizing with the sampling rules that the method was published with.

These are the rules of torch's `interpolate`, without antialiasing but for one method.
`jax.image.resize` differs from them at borders and when shrinking. Every resize is separable: a
small constant matrix is applied to the rows and another to the columns.
"""

import functools
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Float32, Num

Method = Literal["bilinear", "bilinear_corners", "bicubic", "bicubic_antialiased", "nearest"]

_CUBIC_A = -0.75
_CUBIC_A_ANTIALIASED = -0.5


def _cubic_weight(distance: np.ndarray, a: float = _CUBIC_A) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@functools.lru_cache(maxsize=256)
def interpolation_matrix(
    size_in: int, size_out: int, method: str = "bilinear"
) -> Float32[np.ndarray, "{size_out} {size_in}"]:
    """Weights of a one-dimensional resize; every row sums to 1.

    Pixels outside the image repeat its border; `"bicubic_antialiased"` leaves them out.

    Args:
        size_in: number of pixels before, at least 1.
        size_out: number of pixels after, at least 1.
        method: `"bilinear"` and `"bicubic"` (a = -0.75) use half-pixel centres;
            `"bicubic_antialiased"` (a = -0.5) does too, and widens its kernel to shrink an image;
            `"bilinear_corners"` maps the first and last pixels onto each other, and a single one
            onto the first; `"nearest"` takes pixel `floor(i * size_in / size_out)`.

    Raises:
        ValueError: a size is below 1, or the method is unknown.
    """
    if size_in < 1 or size_out < 1:
        raise ValueError(f"cannot resize {size_in} to {size_out} pixels: both must be at least 1")
    index = np.arange(size_out, dtype=np.float64)
    half_pixel = (index + 0.5) * (size_in / size_out) - 0.5
    taps: tuple[int, ...] = (0, 1)
    if method == "bicubic_antialiased":
        distance = np.arange(size_in) - half_pixel[:, None]  # [size_out, size_in]
        weight = _cubic_weight(distance / max(size_in / size_out, 1), _CUBIC_A_ANTIALIASED)
        return _read_only(weight / weight.sum(axis=1, keepdims=True))
    if method == "bilinear":
        source = np.maximum(half_pixel, 0.0)
    elif method == "bilinear_corners":
        source = index * ((size_in - 1) / max(size_out - 1, 1))
    elif method == "bicubic":
        source, taps = half_pixel, (-1, 0, 1, 2)
    elif method == "nearest":
        source, taps = np.floor_divide(index * size_in, size_out), (0,)
    else:
        raise ValueError(f"unknown resize method {method!r}: use one of {get_args(Method)}")
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
    return _read_only(matrix)


def _read_only(matrix: np.ndarray) -> np.ndarray:
    weights = matrix.astype(np.float32)
    weights.setflags(write=False)
    return weights


def resize(
    x: Num[Array, "*b _ _ c"], size: Sequence[int], method: Method = "bilinear"
) -> Num[Array, "*b h w c"]:
    """Resizes images or maps; the result has the dtype of the input.

    Args:
        x: values of a floating dtype, for `"nearest"` of any; computed in float32.
        size: height and width of the result.
        method: see `interpolation_matrix`.
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
    # Resizing columns ends with a transposition: do it while the map has fewer rows.
    if size[0] >= height:
        return _apply_rows(rows, _apply_columns(columns, out)).astype(x.dtype)
    return _apply_columns(columns, _apply_rows(rows, out)).astype(x.dtype)


def _apply_rows(
    matrix: Float32[np.ndarray, "h H"], x: Float[Array, "*b H W c"]
) -> Float[Array, "*b h W c"]:
    *lead, height, width, channels = x.shape
    # One product per image: one product for all images would move their axis behind the rows.
    per_image = jnp.broadcast_to(matrix, (*lead, *matrix.shape))
    flat = x.reshape(*lead, height, width * channels)
    out = jnp.matmul(per_image, flat, precision=jax.lax.Precision.HIGHEST)
    return out.reshape(*lead, len(matrix), width, channels)


def _apply_columns(
    matrix: Float32[np.ndarray, "w W"], x: Float[Array, "*b H W c"]
) -> Float[Array, "*b H w c"]:
    return jnp.einsum("wW,...HWC->...HwC", matrix, x, precision=jax.lax.Precision.HIGHEST)


def _halve(x: Float[Array, "*b H W c"]) -> Float[Array, "*b h w c"]:
    """The bilinear resize to half the height and width: means of 2 x 2 pixels."""
    *lead, height, width, channels = x.shape
    blocks = x.reshape(*lead, height // 2, 2, width // 2, 2, channels)
    return blocks.sum(axis=(-4, -2)) / 4


def _double(x: Array, axis: int) -> Array:
    """The bilinear resize to twice the size along the negative `axis`.

    Each pixel becomes two, which lie a quarter of the way to the pixel before and to the one after.
    """
    axis, num = x.ndim + axis, x.shape[axis]
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded = jnp.pad(x, pad, mode="edge")
    before = jax.lax.slice_in_dim(padded, 0, num, axis=axis)
    behind = jax.lax.slice_in_dim(padded, 2, num + 2, axis=axis)
    pairs = jnp.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * behind], axis=axis + 1)
    return pairs.reshape(*x.shape[:axis], 2 * num, *x.shape[axis + 1 :])
