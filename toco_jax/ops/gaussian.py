"""The spatial Gaussian kernel of the CRF: the one of the permutohedral lattice, or the exact one.

The kernel depends only on the image's size, so all images of a size can share it. In the plane the
lattice needs no hash table: its vertices' keys have few gaps, and serve as row numbers of a table.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32

from toco_jax.ops.permutohedral import lattice_gain, spatial_points
from toco_jax.ops.simplex import embed, key_code, sum_arrays

# A function from marginals [N, K] to their normalised kernel sums [N, K].
Message = Callable[[Array], Array]
# Height and width; an int32 array if they are traced.
Size = Int32[Array, "2"] | tuple[int, int]


class Grid(NamedTuple):
    """The planar lattice over N pixels, in a table whose R rows are the vertices' keys.

    Attributes:
        vertices: rows of the vertices of each pixel's triangle.
        weights: barycentric weights; 0 for padded pixels.
        exists: 1 for vertices of triangles that contain a pixel, 0 elsewhere.
    """

    vertices: Int32[Array, "3 n"]
    weights: Float32[Array, "3 n"]
    exists: Float32[Array, " r"]


class Stencil(NamedTuple):
    """The lattice's Gaussian as one weighted sum of nearby pixels, with weights for each position.

    Attributes:
        weights: S rows of weights: of the image's first rows, of a middle one, and of its last.
        rows: which of the S rows applies to each row of the image.
    """

    weights: Float32[Array, "s w taps"]
    rows: Int32[Array, " h"]


GaussianKernel = Grid | Stencil


def gaussian_kernel(frame: tuple[int, int], size: Size, sigma: float) -> GaussianKernel:
    """Makes the normalised lattice kernel of an image at the top left of a padded frame.

    If the lattice has more vertices than the image has pixels, a stencil is several times faster.
    The lattice repeats every `sigma` rows: if 1 is a multiple of `sigma`, all rows but those near
    the borders have the same weights, and a stencil is used.

    Args:
        frame: height and width of the frame, static.
        size: height and width of the image, at most those of the frame; may be traced.
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
    """Filter with a kernel that `gaussian_kernel` made for this frame and sigma."""
    if isinstance(kernel, Grid):
        _, bounds = spatial_points(*frame, sigma_xy=sigma)
        _, falls, _ = key_code(bounds)
        return lambda marginals: _filter_grid(kernel, falls, marginals)
    height, width = frame
    taps, reach = _taps(sigma)
    weights = kernel.weights[kernel.rows]  # [H, W, taps]

    def message(marginals: Array) -> Array:
        values = marginals.reshape(height, width, -1)  # [H, W, K]
        values = jnp.pad(values, ((reach, reach), (reach, reach), (0, 0)))
        out = sum_arrays(
            weights[:, :, i : i + 1] * values[reach + y :, reach + x :][:height, :width]
            for i, (y, x) in enumerate(taps)
        )
        return out.reshape(marginals.shape)  # [N, K]

    return message


def exact_gaussian_message(inside: Bool[Array, "h w"], sigma: float) -> Message:
    """Filter with the exact Gaussian, normalised over the pixels `inside` the image."""
    height, width = inside.shape
    places = (jnp.arange(n, dtype=jnp.float32) for n in (height, width))
    down, along = (jnp.exp(-0.5 * jnp.square((n[:, None] - n[None]) / sigma)) for n in places)

    def blur(values: Array) -> Array:
        values = jnp.einsum("yh,hwk->ywk", down, values, precision="highest")
        return jnp.einsum("xw,ywk->yxk", along, values, precision="highest")

    mask = inside[:, :, None].astype(jnp.float32)
    norm = mask * inverse_root(blur(mask))

    def message(marginals: Array) -> Array:
        values = norm * marginals.reshape(height, width, -1)  # [H, W, K]
        return (norm * blur(values)).reshape(marginals.shape)  # [N, K]

    return message


def inside_of(frame: tuple[int, int], size: Size) -> Bool[Array, "h w"]:
    """Mask of the pixels of a frame that belong to an image of `size` at its top left."""
    rows = lax.broadcasted_iota(jnp.int32, frame, 0)
    columns = lax.broadcasted_iota(jnp.int32, frame, 1)
    return (rows < size[0]) & (columns < size[1])


def inverse_root(total: Float32[Array, "*s"]) -> Float32[Array, "*s"]:
    """`1 / sqrt(total)` for sums of a kernel's weights; finite where the sum is 0."""
    return lax.rsqrt(total + 1e-20)


def _grid(inside: Array, sigma: float) -> tuple[Grid, list[int]]:
    """The planar lattice over the pixels `inside`, and the key differences of its neighbours."""
    points, bounds = spatial_points(*inside.shape, sigma_xy=sigma)
    offset, falls, total = key_code(bounds)
    vertices, weights = embed(points, offset, falls)
    valid = jnp.broadcast_to(inside.reshape(1, -1), weights.shape).astype(jnp.float32)  # [3, N]
    exists = jnp.zeros(total, jnp.float32).at[vertices].max(valid)
    return Grid(vertices, weights * valid, exists), falls


def _filter_grid(grid: Grid, falls: list[int], values: Array) -> Array:
    """Splat, blur and slice: `[N, K]` to `[N, K]`."""
    rows, margin = grid.exists.size, max(abs(fall) for fall in falls)

    def splat(axis: Array, table: Array) -> Array:
        return table.at[grid.vertices[axis]].add(grid.weights[axis][:, None] * values)

    def blur(axis: Array, table: Array) -> Array:
        padded = jnp.pad(table, ((margin, margin), (0, 0)))
        fall = jnp.array(falls, jnp.int32)[axis]
        lower = lax.dynamic_slice_in_dim(padded, margin - fall, rows)
        upper = lax.dynamic_slice_in_dim(padded, margin + fall, rows)
        return grid.exists[:, None] * (table + 0.5 * (lower + upper))

    table = jnp.zeros((rows, values.shape[1]), jnp.float32)
    table = lax.fori_loop(0, 3, blur, lax.fori_loop(0, 3, splat, table))
    terms = (table[grid.vertices[axis]] * grid.weights[axis][:, None] for axis in range(3))
    return sum_arrays(terms) * lattice_gain(3)


def _taps(sigma: float) -> tuple[list[tuple[int, int]], int]:
    """Offsets (y, x) of the pixels that the lattice's Gaussian reaches, and the largest of them."""
    # Splat, blur and slice reach 1, 2 and 1 sigma: together a hexagon of circumradius 4 sigma with
    # corners above and below.
    reach = math.ceil(4 * sigma) - 1
    taps = [
        (y, x)
        for y in range(-reach, reach + 1)
        for x in range(-reach, reach + 1)
        if abs(y) + abs(x) / math.sqrt(3) < 4 * sigma and abs(x) < math.sqrt(12) * sigma
    ]
    return taps, reach


def _stencil(inside: Array, size: Size, sigma: float) -> Stencil:
    """Finds the weights of the stencil by filtering combs.

    A comb is 1 at pixels that are further apart than the filter reaches, so that the response to a
    comb is at each pixel the response to a single pixel. The combs are numbered by the "colours" of
    their pixels.
    """
    taps, reach = _taps(sigma)
    border, period = 2 * (reach + 1), 2 * reach + 1
    row = jnp.arange(inside.shape[0])
    inside = inside[: 2 * border]
    strip, width = inside.shape
    grid, falls = _grid(inside, sigma)
    rows = lax.broadcasted_iota(jnp.int32, inside.shape, 0)
    columns = lax.broadcasted_iota(jnp.int32, inside.shape, 1)

    def response(colour: Array) -> Array:
        in_row = (rows % period == colour).astype(jnp.float32)
        comb = jax.nn.one_hot(columns % period, period) * in_row[:, :, None]
        return _filter_grid(grid, falls, comb.reshape(strip * width, period))  # [N, colours]

    responses = lax.map(response, jnp.arange(period))
    responses = responses.reshape(period, strip, width, period)  # [colours, S, W, colours]
    norm = inverse_root(jnp.sum(responses, axis=(0, 3)))  # [S, W]
    padded = jnp.pad(norm, reach)

    def weight(tap: Array) -> Array:
        there = lax.dynamic_slice(padded, tap + reach, (strip, width))
        colours = (rows + tap[0]) % period, rows, columns, (columns + tap[1]) % period
        return norm * there * responses[colours]

    weights = jnp.moveaxis(lax.map(weight, jnp.array(taps)), 0, 2)  # [S, W, taps]
    # The strip's first rows, its middle row as often as is needed, and its last rows.
    gap = jnp.maximum(size[0] - strip, 0)
    return Stencil(weights, jnp.clip(row - gap, jnp.minimum(row, border), strip - 1))
