"""High-dimensional Gaussian filtering on the permutohedral lattice, with static shapes.

Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Eurographics 2010. The features of N points, in units of their standard deviations, are embedded in
the hyperplane of R^(d+1) whose coordinates sum to zero. Each point spreads its values over the
d + 1 vertices of the simplex that contains it ("splat"), every vertex mixes with its two neighbours
along each of the d + 1 axes in turn ("blur", [1/2, 1, 1/2]), and each point reads its values back
from the vertices of its simplex ("slice").

Only vertices of simplices that contain a point exist. For this reason, and because of the weights
of splat and slice, the result differs from a Gaussian: on photographs it is 0.33 to 0.62 times the
exact kernel sum, and 8-10 % away from it (relative L2) after the best rescaling. Weights in the
literature are tuned to the lattice, so it is reproduced here to float32 precision.

The number of vertices depends on the data; it is at most d + 1 per point. `with_lattice` compiles
its work for two table sizes, one that is enough for photographs and one that is always enough, and
`filter_values` compiles for a few smaller sizes. The smallest that fits is picked at run time. A
plain `vmap` would run every size: with an axis name, all lattices take the size that fits the
largest of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Bool, Float32, Int32, Num

from toco_jax.ops.simplex import Bounds, embed, key_code, sum_arrays
from toco_jax.ops.vertex_table import INSIDE, find_neighbours, insert, number_rows, take

# Tables shorter than this cost so little that they are not worth compiling a branch for.
_SMALLEST_TABLE = 8192


class Lattice(NamedTuple):
    """A lattice over N points, with a row of R for each vertex; row 0 stands for no vertex.

    Attributes:
        vertices: rows of the vertices of each point's simplex.
        weights: barycentric weights; they sum to 1, or are 0 for invalid points.
        neighbours: rows of both neighbours of each row along each axis, or 0.
        num_vertices: number of vertices, less than R; under `vmap` that of the largest lattice.
    """

    vertices: Int32[Array, "axes n"]
    weights: Float32[Array, "axes n"]
    neighbours: Int32[Array, "axes 2 r"]
    num_vertices: Int32[Array, ""]


def bilateral_filter(
    image: Num[Array, "h w 3"],
    values: Float32[Array, "h w k"],
    *,
    sigma_rgb: float,
    sigma_xy: float,
    axis_name: str | None = None,
) -> Float32[Array, "h w k"]:
    """Sums the values of all pixels, weighted by similarity of colour and position.

    The sum is not normalised, includes the pixel itself, and is linear in `values`. Reverse-mode
    differentiation is not defined: the lattice is not symmetric, so a caller that needs a gradient
    must say which one.

    Args:
        image: colours in 0..255; clipped to -1..256.
        values: the values to sum.
        sigma_rgb: standard deviation in grey levels.
        sigma_xy: standard deviation in pixels.
        axis_name: see `with_lattice`.

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
    images: Num[Array, "b h w 3"],
    values: Float32[Array, "b h w k"],
    *,
    sigma_rgb: float,
    sigma_xy: float,
    unrolled: bool = False,
) -> Float32[Array, "b h w k"]:
    """Applies `bilateral_filter` to each image.

    `unrolled` filters all images at once, which is fast on an accelerator. A CPU is faster with one
    image after the other, because one lattice fits its cache.
    """
    one = functools.partial(bilateral_filter, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    if not unrolled:
        return lax.map(lambda pair: one(*pair), (images, values))
    one = functools.partial(one, axis_name="images")
    return jax.vmap(one, axis_name="images")(images, values)


def spatial_points(
    height: int, width: int, *, sigma_xy: float
) -> tuple[Float32[Array, "2 n"], Bounds]:
    """Features `x / sigma_xy` and `y / sigma_xy` of all `N = H * W` pixels, and their bounds."""
    shape = (height, width)
    sigma = np.float32(sigma_xy)
    x = lax.broadcasted_iota(jnp.float32, shape, 1) / sigma
    y = lax.broadcasted_iota(jnp.float32, shape, 0) / sigma
    points = jnp.stack([x, y]).reshape(2, height * width)  # [2, N]
    return points, ((0.0, (width - 1) / sigma_xy), (0.0, (height - 1) / sigma_xy))


def bilateral_points(
    image: Num[Array, "h w 3"], *, sigma_rgb: float, sigma_xy: float
) -> tuple[Float32[Array, "5 n"], Bounds]:
    """Features `x, y / sigma_xy` and `r, g, b / sigma_rgb` of all pixels, and their bounds."""
    height, width, _ = image.shape
    position, bounds = spatial_points(height, width, sigma_xy=sigma_xy)
    # One level more on either side: an image that was normalised and restored may exceed 0..255.
    colour = jnp.clip(image.astype(jnp.float32), -1, 256) / np.float32(sigma_rgb)
    colour = jnp.moveaxis(colour, 2, 0).reshape(3, height * width)  # [3, N]
    return jnp.concatenate([position, colour]), (*bounds, *[(-1 / sigma_rgb, 256 / sigma_rgb)] * 3)


def with_lattice(
    points: Float32[Array, "d n"],
    bounds: Bounds,
    run: Callable[[Lattice], Any],
    *,
    valid: Bool[Array, " n"] | None = None,
    sizes: Sequence[int] | None = None,
    axis_name: str | None = None,
) -> Any:
    """Builds the lattice of `points` and returns `run(lattice)`.

    Args:
        points: features in standard deviations.
        bounds: the least and the greatest value of each feature, static.
        run: traced once for each table size; must return the same shapes for all of them.
        valid: which points take part: the others create no vertex, contribute nothing and get 0.
        sizes: increasing numbers of vertices to compile for; the last must always be enough. By
            default N and (d + 1) N: photographs need 0.06 to 1 N, noise 2 to 5 N.
        axis_name: axis of the `vmap` around this call, whose lattices share one table size.

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
    count: Array, sizes: Sequence[int], branch: Callable[[int], Callable[[], Any]]
) -> Any:
    if len(sizes) == 1:
        return branch(sizes[0])()
    choice = jnp.sum(count > jnp.array(sizes[:-1], jnp.int32), dtype=jnp.int32)
    return lax.switch(choice, [branch(size) for size in sizes])


def filter_values(lattice: Lattice, values: Float32[Array, "n k"]) -> Float32[Array, "n k"]:
    """Filters the values of the points: splat, blur and slice."""
    num, most = values.shape[0], lattice.neighbours.shape[2] - 1
    sizes = [most]
    if most <= num:
        smaller = (most * part // 16 for part in (4, 6, 9))
        sizes = [size for size in smaller if size >= _SMALLEST_TABLE] + [most]
    return _smallest_that_fits(
        lattice.num_vertices,
        sizes,
        lambda size: lambda: _filter_with_rows(lattice, values, size + 1),
    )


def _filter_with_rows(lattice: Lattice, values: Array, rows: int) -> Array:
    num_axes, channels = lattice.vertices.shape[0], values.shape[1]

    def splat(axis: Array, table: Array) -> Array:
        update = lattice.weights[axis][:, None] * values
        return table.at[lattice.vertices[axis]].add(update, **INSIDE)

    def blur(axis: Array, table: Array) -> Array:
        lower, upper = lattice.neighbours[axis, :, :rows]
        return table + 0.5 * (take(table, lower) + take(table, upper))

    # Loops, because XLA would fuse the unrolled steps and compute the early ones many times over.
    table = lax.fori_loop(0, num_axes, splat, jnp.zeros((rows, channels), jnp.float32))
    # XLA does not vectorise rows of 9 to 31 floats on a CPU: padded to 32 they blur twice as fast.
    padding = 32 - channels if 8 < channels < 32 else 0
    table = jnp.pad(table, ((0, 0), (0, padding)))
    table = lax.fori_loop(0, num_axes, blur, table)[:, :channels]
    terms = (
        take(table, lattice.vertices[axis]) * lattice.weights[axis][:, None]
        for axis in range(num_axes)
    )
    return sum_arrays(terms) * lattice_gain(num_axes)


def lattice_gain(num_axes: int) -> np.float32:
    """The factor that the result of splat, blur and slice is multiplied by."""
    return np.float32(1 / (1 + 2.0 ** (1 - num_axes)))
