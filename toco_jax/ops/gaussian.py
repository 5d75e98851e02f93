"""The CRF's spatial Gaussian kernel: the permutohedral lattice's, or the true one.

It depends on the image's size alone, so that one kernel serves all images of a size. In the plane
the lattice needs no hash table: the vertices' keys number the rows of a table without many gaps.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from toco_jax.ops.permutohedral import embed, key_code, lattice_gain, spatial_points

# A message function: [N, K] marginals to their normalised kernel sums.
Message = Callable[[jax.Array], jax.Array]


class Grid(NamedTuple):
    """The planar lattice over N pixels, its R rows addressed by the vertices' keys.

    vertices: int32 [3, N], the rows of the vertices of each pixel's triangle.
    weights: float32 [3, N], barycentric weights; 0 for padded pixels.
    exists: float32 [R], 1 for vertices that some pixel touches, 0 elsewhere.
    """

    vertices: jax.Array
    weights: jax.Array
    exists: jax.Array


class Stencil(NamedTuple):
    """The lattice's Gaussian as one weighted sum of nearby pixels, its weights position-dependent.

    weights: float32 [S, W, taps], for the first rows, one in the middle, and the last rows.
    rows: int32 [H], which of the S rows has the weights of each row of the image.
    """

    weights: jax.Array
    rows: jax.Array


GaussianKernel = Grid | Stencil


def gaussian_kernel(
    frame: tuple[int, int], size: jax.Array | tuple[int, int], sigma: float
) -> GaussianKernel:
    """The normalised lattice kernel of an image at the top left of a frame.

    Where its vertices outnumber the pixels, the lattice is several times faster as a stencil. It
    repeats itself every `sigma` rows: if that divides 1, few rows have weights of their own.

    Args:
        frame: H and W, static.
        size: true height and width, at most the frame's, int32 [2]; may be traced.
        sigma: standard deviation in pixels.
    """
    inside = inside_of(frame, size)
    if sigma <= 1 and (1 / sigma).is_integer():
        return _stencil(inside, size, sigma)
    grid, falls = _grid(inside, sigma)
    ones = jnp.ones((inside.size, 1), jnp.float32)
    norm = inverse_root(_filter_grid(grid, falls, ones))[:, 0]  # [N]
    return grid._replace(weights=grid.weights * norm[None])


def gaussian_message(kernel: GaussianKernel, frame: tuple[int, int], sigma: float) -> Message:
    """Filters with a kernel that `gaussian_kernel` made for this frame and sigma."""
    if isinstance(kernel, Grid):
        _, bounds = spatial_points(*frame, sigma_xy=sigma)
        _, falls, _ = key_code(bounds)
        return lambda marginals: _filter_grid(kernel, falls, marginals)
    height, width = frame
    taps, reach = _taps(sigma)
    weights = kernel.weights[kernel.rows]  # [H, W, taps]

    def message(marginals: jax.Array) -> jax.Array:
        values = marginals.reshape(height, width, -1)  # [H, W, K]
        values = jnp.pad(values, ((reach, reach), (reach, reach), (0, 0)))
        out = sum(
            weights[:, :, i : i + 1] * values[reach + y :, reach + x :][:height, :width]
            for i, (y, x) in enumerate(taps)
        )
        return out.reshape(marginals.shape)  # [N, K]

    return message


def exact_gaussian_message(inside: jax.Array, sigma: float) -> Message:
    """Filters the pixels that are `inside`, bool [H, W], with the true Gaussian, normalised."""
    height, width = inside.shape
    down, along = (
        jnp.exp(-0.5 * jnp.square((jnp.arange(n)[:, None] - jnp.arange(n)[None]) / sigma))
        for n in (height, width)
    )

    def blur(values: jax.Array) -> jax.Array:
        values = jnp.einsum("yh,hwk->ywk", down, values, precision="highest")
        return jnp.einsum("xw,ywk->yxk", along, values, precision="highest")

    mask = inside[:, :, None].astype(jnp.float32)
    norm = mask * inverse_root(blur(mask))

    def message(marginals: jax.Array) -> jax.Array:
        values = norm * marginals.reshape(height, width, -1)  # [H, W, K]
        return (norm * blur(values)).reshape(marginals.shape)  # [N, K]

    return message


def inside_of(frame: tuple[int, int], size: jax.Array | tuple[int, int]) -> jax.Array:
    """Which pixels of a frame are an image of `size` at its top left: bool [H, W]."""
    rows = lax.broadcasted_iota(jnp.int32, frame, 0)
    columns = lax.broadcasted_iota(jnp.int32, frame, 1)
    return (rows < size[0]) & (columns < size[1])


def inverse_root(total: jax.Array) -> jax.Array:
    """1 / sqrt(K 1), finite where no kernel reaches."""
    return lax.rsqrt(total + 1e-20)


def _grid(inside: jax.Array, sigma: float) -> tuple[Grid, list[int]]:
    points, bounds = spatial_points(*inside.shape, sigma_xy=sigma)
    offset, falls, total = key_code(bounds)
    vertices, weights = embed(points, offset, falls)
    valid = jnp.broadcast_to(inside.reshape(1, -1), weights.shape).astype(jnp.float32)  # [3, N]
    exists = jnp.zeros(total, jnp.float32).at[vertices].max(valid)
    return Grid(vertices, weights * valid, exists), falls


def _filter_grid(grid: Grid, falls: list[int], values: jax.Array) -> jax.Array:
    rows, margin = grid.exists.size, max(abs(fall) for fall in falls)

    def splat(axis: jax.Array, table: jax.Array) -> jax.Array:
        return table.at[grid.vertices[axis]].add(grid.weights[axis][:, None] * values)

    def blur(axis: jax.Array, table: jax.Array) -> jax.Array:
        padded = jnp.pad(table, ((margin, margin), (0, 0)))
        fall = jnp.array(falls, jnp.int32)[axis]
        lower = lax.dynamic_slice_in_dim(padded, margin - fall, rows)
        upper = lax.dynamic_slice_in_dim(padded, margin + fall, rows)
        return grid.exists[:, None] * (table + 0.5 * (lower + upper))

    table = jnp.zeros((rows, values.shape[1]), jnp.float32)
    table = lax.fori_loop(0, 3, blur, lax.fori_loop(0, 3, splat, table))
    out = sum(table[grid.vertices[axis]] * grid.weights[axis][:, None] for axis in range(3))
    return out * lattice_gain(3)


def _taps(sigma: float) -> tuple[list[tuple[int, int]], int]:
    # Slice, blur and splat reach 1, 2 and 1 sigma: a hexagon of circumradius 4 with corners above
    # and below.
    reach = math.ceil(4 * sigma) - 1
    taps = [
        (y, x)
        for y in range(-reach, reach + 1)
        for x in range(-reach, reach + 1)
        if abs(y) + abs(x) / math.sqrt(3) < 4 * sigma and abs(x) < math.sqrt(12) * sigma
    ]
    return taps, reach


def _stencil(inside: jax.Array, size: jax.Array | tuple[int, int], sigma: float) -> Stencil:
    """Found by filtering combs: pixels of one colour are further apart than the filter reaches, so
    that the response to a comb is the response to a single pixel.
    """
    taps, reach = _taps(sigma)
    border, period = 2 * (reach + 1), 2 * reach + 1
    row = jnp.arange(inside.shape[0])
    inside = inside[: 2 * border]
    strip, width = inside.shape
    grid, falls = _grid(inside, sigma)
    rows = lax.broadcasted_iota(jnp.int32, inside.shape, 0)
    columns = lax.broadcasted_iota(jnp.int32, inside.shape, 1)

    def response(colour: jax.Array) -> jax.Array:
        comb = jax.nn.one_hot(columns % period, period) * (rows % period == colour)[:, :, None]
        return _filter_grid(grid, falls, comb.reshape(strip * width, period))  # [N, colours]

    responses = lax.map(response, jnp.arange(period))
    responses = responses.reshape(period, strip, width, period)  # [colours, S, W, colours]
    norm = inverse_root(jnp.sum(responses, axis=(0, 3)))  # [S, W]
    padded = jnp.pad(norm, reach)

    def weight(tap: jax.Array) -> jax.Array:
        there = lax.dynamic_slice(padded, tap + reach, (strip, width))
        colours = (rows + tap[0]) % period, rows, columns, (columns + tap[1]) % period
        return norm * there * responses[colours]

    weights = jnp.moveaxis(lax.map(weight, jnp.array(taps)), 0, 2)  # [S, W, taps]
    # The strip's first rows, its middle one as often as it takes, and its last rows.
    gap = jnp.maximum(size[0] - strip, 0)
    return Stencil(weights, jnp.clip(row - gap, jnp.minimum(row, border), strip - 1))
