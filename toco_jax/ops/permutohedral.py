"""High-dimensional Gaussian filtering on the permutohedral lattice, with static shapes.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. The features of N points, in units of their standard deviations, are embedded in
the hyperplane of R^(d+1) whose coordinates sum to zero. Each point spreads its values over the
d + 1 vertices of the simplex that holds it ("splat"), every vertex mixes with its two neighbours
along each of the d + 1 axes in turn ("blur", [1/2, 1, 1/2]), and each point reads the vertices of
its simplex back ("slice").

Only vertices that some point touches exist. That, and the splat and slice weights, make the result
differ from a Gaussian: on photographs it is 0.33 to 0.62 times the exact kernel sum, and 8-10 %
away from it (relative L2) after the best rescaling. Weights in the literature are tuned to the
lattice, so it is reproduced here to float32 precision.

The number of vertices depends on the data, at most d + 1 for each point. `with_lattice` compiles
its work for a table that photographs do not fill and for one that holds all, `filter_values` for a
few sizes below, and the smallest that fits is picked when they run. A plain `vmap` would run every
size: give it an axis name, and the lattices take the size that fits the largest of them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from toco_jax.ops.vertex_table import INSIDE, find_neighbours, insert, number_rows, take

# Tables shorter than this cost so little that they are not worth compiling a branch for.
_SMALLEST_TABLE = 8192


class Lattice(NamedTuple):
    """A lattice over N points. A table of values has a row for each vertex; row 0 is for none.

    vertices: int32 [d + 1, N], the rows of the vertices of each point's simplex.
    weights: float32 [d + 1, N], barycentric weights; they sum to 1, or are 0 for invalid points.
    neighbours: int32 [d + 1, 2, R], the rows of both neighbours of each row along each axis, or 0.
    count: int32 [], the number of vertices, less than R; of the largest among several together.
    """

    vertices: jax.Array
    weights: jax.Array
    neighbours: jax.Array
    count: jax.Array


def bilateral_filter(
    image: jax.Array,
    values: jax.Array,
    *,
    sigma_rgb: float,
    sigma_xy: float,
    axis_name: str | None = None,
) -> jax.Array:
    """Un-normalised bilateral kernel sum, each pixel itself included (permutohedral lattice).

    Args:
        image: [H, W, 3], 0..255, any real dtype; clipped to -1..256.
        values: float32 [H, W, K].
        sigma_rgb: standard deviation in grey levels.
        sigma_xy: standard deviation in pixels.
        axis_name: see `with_lattice`.

    Returns:
        float32 [H, W, K], linear in `values`. Reverse-mode differentiation is not defined: the
        lattice is not symmetric, and callers state the gradient they want in a `custom_vjp`.

    Raises:
        ValueError: the sigmas are so small that int32 cannot number the lattice.
    """
    height, width, channels = values.shape
    points, bounds = bilateral_points(image, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    flat = values.reshape(height * width, channels)  # [N, K]
    out = with_lattice(
        points, bounds, lambda lattice: filter_values(lattice, flat), axis_name=axis_name
    )
    return out.reshape(height, width, channels)  # [H, W, K]


def bilateral_filter_images(
    images: jax.Array,
    values: jax.Array,
    *,
    sigma_rgb: float,
    sigma_xy: float,
    unrolled: bool = False,
) -> jax.Array:
    """`bilateral_filter` of each of `images [B, H, W, 3]` and `values [B, H, W, K]`.

    `unrolled` takes all images through every operation at once, which an accelerator is fast at; a
    CPU is faster one image after the other, for a lattice fits its cache.
    """
    one = functools.partial(bilateral_filter, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    if not unrolled:
        return lax.map(lambda pair: one(*pair), (images, values))
    one = functools.partial(one, axis_name="images")
    return jax.vmap(one, axis_name="images")(images, values)


def spatial_points(height: int, width: int, *, sigma_xy: float) -> tuple[jax.Array, tuple]:
    """Features x / sigma_xy, y / sigma_xy of every pixel: float32 [2, H * W], and their bounds."""
    shape = (height, width)
    sigma = np.float32(sigma_xy)
    x = lax.broadcasted_iota(jnp.float32, shape, 1) / sigma
    y = lax.broadcasted_iota(jnp.float32, shape, 0) / sigma
    points = jnp.stack([x, y]).reshape(2, height * width)  # [2, N]
    return points, ((0.0, (width - 1) / sigma_xy), (0.0, (height - 1) / sigma_xy))


def bilateral_points(
    image: jax.Array, *, sigma_rgb: float, sigma_xy: float
) -> tuple[jax.Array, tuple]:
    """Features x, y / sigma_xy and r, g, b / sigma_rgb: float32 [5, H * W], and their bounds."""
    height, width, _ = image.shape
    position, bounds = spatial_points(height, width, sigma_xy=sigma_xy)
    # One level of room: an image that was normalised and restored is not exactly in 0..255.
    colour = jnp.clip(image.astype(jnp.float32), -1, 256) / np.float32(sigma_rgb)
    colour = jnp.moveaxis(colour, 2, 0).reshape(3, height * width)  # [3, N]
    return jnp.concatenate([position, colour]), (*bounds, *[(-1 / sigma_rgb, 256 / sigma_rgb)] * 3)


def with_lattice(
    points: jax.Array,
    bounds: Sequence[tuple[float, float]],
    run: Callable[[Lattice], Any],
    *,
    valid: jax.Array | None = None,
    sizes: Sequence[int] | None = None,
    axis_name: str | None = None,
) -> Any:
    """Builds the lattice of `points` and returns `run(lattice)`.

    Args:
        points: float32 [d, N], features in standard deviations.
        bounds: the least and the greatest value of each feature, static.
        run: traced once for each table size; must return the same shapes for all of them.
        valid: bool [N]; points that are False create no vertex and get and give nothing.
        sizes: increasing vertex counts to compile for; the last must hold all that may occur.
            By default N and (d + 1) N: photographs need 0.06 to 1 N, noise 2 to 5 N.
        axis_name: the `vmap` that this runs under; its lattices share the size of the largest.

    Raises:
        ValueError: int32 cannot number the lattice vertices within `bounds`.
    """
    dim, num = points.shape
    offset, falls, _ = key_code(bounds)
    key, weights = embed(points, offset, falls)
    if valid is not None:
        key = jnp.where(valid, key, key[:, jnp.argmax(valid)][:, None])
        weights = jnp.where(valid, weights, 0)
    key = key.reshape((dim + 1) * num)  # [(d + 1) * N]
    table, first = insert(key)
    row, count = number_rows(first)
    largest = count if axis_name is None else lax.pmax(count, axis_name)
    vertices = row.reshape(dim + 1, num)  # [d + 1, N]

    if sizes is None:
        sizes = [num, (dim + 1) * num] if num >= _SMALLEST_TABLE else [(dim + 1) * num]

    def branch(size: int) -> Callable[[], Any]:
        def run_with_size() -> Any:
            neighbours = find_neighbours(size, falls, key, row, count, table, largest)
            return run(Lattice(vertices, weights, neighbours, largest))

        return run_with_size

    return _smallest_that_fits(largest, sizes, branch)


def _smallest_that_fits(
    count: jax.Array, sizes: Sequence[int], branch: Callable[[int], Callable[[], Any]]
) -> Any:
    if len(sizes) == 1:
        return branch(sizes[0])()
    choice = jnp.sum(count > jnp.array(sizes[:-1], jnp.int32), dtype=jnp.int32)
    return lax.switch(choice, [branch(size) for size in sizes])


def filter_values(lattice: Lattice, values: jax.Array) -> jax.Array:
    """Splat, blur and slice: float32 [N, K] -> [N, K]."""
    num, most = values.shape[0], lattice.neighbours.shape[2] - 1
    sizes = [most]
    if most <= num:
        smaller = (most * part // 16 for part in (4, 6, 9))
        sizes = [size for size in smaller if size >= _SMALLEST_TABLE] + [most]
    return _smallest_that_fits(
        lattice.count, sizes, lambda size: lambda: _filter_with_rows(lattice, values, size + 1)
    )


def _filter_with_rows(lattice: Lattice, values: jax.Array, rows: int) -> jax.Array:
    num_axes, channels = lattice.vertices.shape[0], values.shape[1]

    def splat(axis: jax.Array, table: jax.Array) -> jax.Array:
        update = lattice.weights[axis][:, None] * values
        return table.at[lattice.vertices[axis]].add(update, **INSIDE)

    def blur(axis: jax.Array, table: jax.Array) -> jax.Array:
        lower, upper = lattice.neighbours[axis, :, :rows]
        return table + 0.5 * (take(table, lower) + take(table, upper))

    # Loops, because XLA would fuse the unrolled steps and compute the early ones many times over.
    table = lax.fori_loop(0, num_axes, splat, jnp.zeros((rows, channels), jnp.float32))
    # XLA's CPU code for rows of 9 to 31 floats is scalar: a table padded to 32 blurs twice as fast.
    padding = 32 - channels if 8 < channels < 32 else 0
    table = jnp.pad(table, ((0, 0), (0, padding)))
    table = lax.fori_loop(0, num_axes, blur, table)[:, :channels]
    out = sum(
        take(table, lattice.vertices[axis]) * lattice.weights[axis][:, None]
        for axis in range(num_axes)
    )
    return out * lattice_gain(num_axes)


def lattice_gain(num_axes: int) -> np.float32:
    """What the result of splat, blur and slice is multiplied by."""
    return np.float32(1 / (1 + 2.0 ** (1 - num_axes)))


def key_code(bounds: Sequence[tuple[float, float]]) -> tuple[int, list[int], int]:
    """Offset, falls and the number of keys for features within `bounds`.

    The key of a vertex is `offset - sum_j falls[j] * (coordinate j div (d + 1))`, j = 0 .. d.

    The coordinates of a vertex are equal modulo d + 1 and sum to zero, so the d differences between
    coordinate 0 and the others, in multiples of d + 1, name it: the key is the mixed-radix number
    of these differences, and `falls[j]` what it gains when coordinate j falls by d + 1. A neighbour
    has all coordinates one up and one of them then fallen so: its key is a constant away.
    """
    scaled = [
        (math.sqrt(2 / 3 / (m * (m + 1))) * low, math.sqrt(2 / 3 / (m * (m + 1))) * high)
        for m, (low, high) in enumerate(bounds, 1)
    ]
    offset, falls, total = 0, [], 1
    for j, (low, high) in enumerate(scaled, 1):
        before = scaled[: j - 1]
        # A vertex of a point's simplex, or a neighbour of one, is up to 2 outside the differences
        # that points have; one more is for rounding.
        least = math.floor((j + 1) * low + sum(b[0] for b in before)) - 3
        greatest = math.ceil((j + 1) * high + sum(b[1] for b in before)) + 3
        offset -= total * least
        falls.append(total)
        total *= greatest - least + 1
    if total > np.iinfo(np.int32).max:
        span = [round(high - low, 1) for low, high in bounds]
        raise ValueError(
            f"features that span {span} standard deviations need {total} lattice keys, more than "
            "int32 holds; use larger sigmas or a smaller image"
        )
    return offset, [-sum(falls), *falls], total


def embed(points: jax.Array, offset: int, falls: list[int]) -> tuple[jax.Array, jax.Array]:
    """Keys int32 [d + 1, N] and barycentric weights float32 [d + 1, N] of the points' simplices."""
    dim, num = points.shape
    side = dim + 1
    scale = math.sqrt(2 / 3) * side
    elevated, partial_sum = [], jnp.zeros(num, jnp.float32)
    for m in range(dim, 0, -1):
        scaled = points[m - 1] * np.float32(scale / math.sqrt(m * (m + 1)))
        elevated.insert(0, partial_sum - np.float32(m) * scaled)
        partial_sum = partial_sum + scaled
    elevated.insert(0, partial_sum)

    # The nearest point with all coordinates multiples of d + 1; the order of the residuals, largest
    # first, ties by coordinate; then the moves by d + 1 that make the coordinates sum to zero.
    nearest = [jnp.rint(e * np.float32(1 / side)) for e in elevated]
    residual = [e - q * np.float32(side) for e, q in zip(elevated, nearest, strict=True)]
    excess = sum(nearest).astype(jnp.int32)
    rank = []
    for i, r in enumerate(residual):
        ahead = [s >= r for s in residual[:i]] + [s > r for s in residual[i + 1 :]]
        rank.append(excess + sum(a.astype(jnp.int32) for a in ahead))
    rank = jnp.stack(rank)  # [d + 1, N]
    wrap = (rank < 0).astype(jnp.int32) - (rank > dim).astype(jnp.int32)
    rank = rank + side * wrap
    nearest = jnp.stack(nearest) + wrap.astype(jnp.float32)  # [d + 1, N]
    shift = (jnp.stack(elevated) - nearest * np.float32(side)) * np.float32(1 / side)  # [d + 1, N]
    nearest = nearest.astype(jnp.int32)
    base = offset - sum(np.int32(f) * q for f, q in zip(falls, nearest, strict=True))

    def vertex(k: jax.Array) -> tuple[jax.Array, jax.Array]:
        # All coordinates of vertex k are up by k, and those of the last k ranks fallen by d + 1.
        gain = sum(jnp.where(rank[i] == dim - k, shift[i], 0) for i in range(side))
        loss = sum(jnp.where(rank[i] == (side - k) % side, shift[i], 0) for i in range(side))
        weight = gain + ((k == 0).astype(jnp.float32) - loss)
        key = base + sum(jnp.where(rank[i] > dim - k, np.int32(falls[i]), 0) for i in range(side))
        return key, weight

    # A loop, because XLA would otherwise repeat all of the above for each of the d + 1 vertices.
    return lax.map(vertex, jnp.arange(side))
