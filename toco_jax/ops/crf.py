"""Mean-field inference in the fully connected CRF, with lattice filters and static shapes.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011: Potts compatibility, a bilateral and a spatial Gaussian kernel, both
filtered on the permutohedral lattice and normalised symmetrically, by 1 / sqrt(K 1) before and
after.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from toco_jax.ops.permutohedral import (
    Lattice,
    bilateral_points,
    filter_values,
    spatial_points,
    with_lattice,
)

# A message function: [N, K] marginals to their normalised kernel sums.
Message = Callable[[jax.Array], jax.Array]


def dense_crf(
    image: jax.Array,
    probs: jax.Array,
    *,
    iterations: int | jax.Array = 10,
    bilateral_xy: float = 121.0,
    bilateral_rgb: float = 5.0,
    bilateral_weight: float = 4.0,
    gaussian_xy: float = 1.0,
    gaussian_weight: float = 1.0,
    clip: float = 1e-5,
    size: jax.Array | tuple[int, int] | None = None,
    top_k: int | None = None,
    exact_gaussian: bool = False,
) -> jax.Array:
    """Refines the class probabilities of one image; batch it with `jax.lax.map`.

    Args:
        image: [H, W, 3], 0..255, uint8 or float.
        probs: float32 [H, W, K], 0..1; the unary term is -log(max(probs, clip)).
        iterations: mean-field updates, may be traced; 0 gives the clipped, renormalised input.
        bilateral_xy: standard deviation of the bilateral kernel in pixels.
        bilateral_rgb: its standard deviation in grey levels.
        bilateral_weight: its strength. The defaults are those for segmentation at native size;
            (80, 13, 10), with a Gaussian of (3, 3), is customary for CAM seeds.
        gaussian_xy: standard deviation of the Gaussian kernel in pixels.
        gaussian_weight: its strength.
        clip: the least probability that the unary term sees.
        size: true height and width, int32 [2], of an image that is padded below and to the right;
            may be traced. Padded pixels take no part, and what comes back for them means nothing.
        top_k: approximate: only the classes of the k greatest mean probabilities take part, the
            others come back as 0. For k = 8 of 21 it changes 2e-4 to 3e-4 of the labels.
        exact_gaussian: approximate: the true Gaussian in place of the lattice's, as matrix
            products of O(H + W) operations per pixel. For accelerators; slow on a CPU.

    Returns:
        float32 [H, W, K]; each pixel sums to 1.

    Raises:
        ValueError: standard deviations so small that int32 cannot number the lattice.
    """
    height, width, num_classes = probs.shape
    inside = _inside(height, width, (height, width) if size is None else size)
    probs = jnp.where(inside[:, :, None], probs, 0)
    classes = None
    if top_k is not None and top_k < num_classes:
        _, classes = lax.top_k(jnp.sum(probs, (0, 1)), top_k)
        probs = jnp.take(probs, classes, axis=2)
    log_unary = jnp.log(jnp.clip(probs, clip, 1.0))
    # Classes that never win fill rows up to a multiple of 8 floats, which CPUs work through faster.
    extra = -probs.shape[2] % 8
    log_unary = jnp.pad(log_unary, ((0, 0), (0, 0), (0, extra)), constant_values=-1e9)
    log_unary = log_unary.reshape(height * width, -1)  # [N, K']

    gaussian = _gaussian_message(inside, gaussian_xy, exact=exact_gaussian)

    def infer(lattice: Lattice) -> jax.Array:
        bilateral = _lattice_message(lattice)

        # The logits are carried, not the marginals: XLA would fuse the messages into the softmax
        # and compute them once for each of its passes.
        def update(_: int, logits: jax.Array) -> jax.Array:
            marginals = jax.nn.softmax(logits, axis=1)
            logits = log_unary + bilateral_weight * bilateral(marginals)
            return logits + gaussian_weight * gaussian(marginals)

        return jax.nn.softmax(lax.fori_loop(0, iterations, update, log_unary), axis=1)

    points, bounds = bilateral_points(image, sigma_rgb=bilateral_rgb, sigma_xy=bilateral_xy)
    marginals = with_lattice(points, bounds, infer, valid=inside.reshape(height * width))
    marginals = marginals.reshape(height, width, -1)[:, :, : probs.shape[2]]  # [H, W, K or top_k]
    if classes is None:
        return marginals
    return jnp.zeros((height, width, num_classes), jnp.float32).at[:, :, classes].set(marginals)


def _inside(height: int, width: int, size: jax.Array | tuple[int, int]) -> jax.Array:
    rows = lax.broadcasted_iota(jnp.int32, (height, width), 0)
    columns = lax.broadcasted_iota(jnp.int32, (height, width), 1)
    return (rows < size[0]) & (columns < size[1])  # [H, W]


def _inverse_root(total: jax.Array) -> jax.Array:
    return lax.rsqrt(total + 1e-20)


def _lattice_message(lattice: Lattice) -> Message:
    ones = jnp.ones((lattice.vertices.shape[1], 1), jnp.float32)
    norm = _inverse_root(filter_values(lattice, ones))[:, 0]  # [N]
    lattice = lattice._replace(weights=lattice.weights * norm[None])
    return lambda marginals: filter_values(lattice, marginals)


def _gaussian_message(inside: jax.Array, sigma: float, *, exact: bool) -> Message:
    height, width = inside.shape
    if exact:
        return _matrix_message(inside, sigma)
    if sigma <= 1 and (1 / sigma).is_integer():
        return _stencil_message(inside, sigma)
    points, bounds = spatial_points(height, width, sigma_xy=sigma)
    # Columns of vertices are sqrt(3) / 2 apart and vertices 1 within them, in units of sigma; a
    # simplex reaches at most one beyond the image on each side.
    columns = math.ceil((width - 1) / sigma * 2 / math.sqrt(3)) + 5
    rows = math.ceil((height - 1) / sigma) + 5
    most = min(3 * height * width, columns * rows)
    valid = inside.reshape(height * width)
    return _lattice_message(
        with_lattice(points, bounds, lambda lattice: lattice, valid=valid, sizes=[most])
    )


def _matrix_message(inside: jax.Array, sigma: float) -> Message:
    height, width = inside.shape
    down, along = (
        jnp.exp(-0.5 * jnp.square((jnp.arange(n)[:, None] - jnp.arange(n)[None]) / sigma))
        for n in (height, width)
    )

    def blur(values: jax.Array) -> jax.Array:
        values = jnp.einsum("yh,hwk->ywk", down, values, precision="highest")
        return jnp.einsum("xw,ywk->yxk", along, values, precision="highest")

    mask = inside[:, :, None].astype(jnp.float32)
    norm = mask * _inverse_root(blur(mask))

    def message(marginals: jax.Array) -> jax.Array:
        values = norm * marginals.reshape(height, width, -1)  # [H, W, K]
        return (norm * blur(values)).reshape(marginals.shape)  # [N, K]

    return message


def _stencil_message(inside: jax.Array, sigma: float) -> Message:
    """The lattice's Gaussian as one weighted sum of nearby pixels, its weights position-dependent.

    Several times faster than the lattice itself, whose vertices outnumber the pixels here. The
    lattice repeats itself every `sigma` rows: if that divides 1, only the first and the last rows,
    as far as the border matters, have weights of their own.
    """
    height, width = inside.shape
    # Slice, blur and splat reach 1, 2 and 1 sigma: a hexagon of circumradius 4 with corners above
    # and below.
    reach = math.ceil(4 * sigma) - 1
    taps = [
        (y, x)
        for y in range(-reach, reach + 1)
        for x in range(-reach, reach + 1)
        if abs(y) + abs(x) / math.sqrt(3) < 4 * sigma and abs(x) < math.sqrt(12) * sigma
    ]
    border = 2 * (reach + 1)
    strip = min(height, 2 * border)
    weights = _stencil_weights(inside[:strip], sigma, taps)
    # The strip's first rows, its middle one as often as it takes, and its last rows.
    row = jnp.arange(height)
    gap = jnp.maximum(jnp.sum(inside[:, 0], dtype=jnp.int32) - strip, 0)
    weights = weights[jnp.clip(row - gap, jnp.minimum(row, border), strip - 1)]  # [H, W, taps]

    def message(marginals: jax.Array) -> jax.Array:
        values = marginals.reshape(height, width, -1)  # [H, W, K]
        values = jnp.pad(values, ((reach, reach), (reach, reach), (0, 0)))
        out = sum(
            weights[:, :, i : i + 1] * values[reach + y :, reach + x :][:height, :width]
            for i, (y, x) in enumerate(taps)
        )
        return out.reshape(marginals.shape)  # [N, K]

    return message


def _stencil_weights(inside: jax.Array, sigma: float, taps: list[tuple[int, int]]) -> jax.Array:
    """Weight of the pixel at each tap, normalised: float32 [H, W, taps].

    Found by filtering combs: pixels of one colour are further apart than the filter reaches, so
    that the response to a comb is the response to a single pixel.
    """
    height, width = inside.shape
    reach = max(y for y, _ in taps)
    period = 2 * reach + 1
    rows = lax.broadcasted_iota(jnp.int32, (height, width), 0)
    columns = lax.broadcasted_iota(jnp.int32, (height, width), 1)

    def comb(y: jax.Array | int, x: jax.Array | int) -> jax.Array:
        colour = (rows + y) % period * period + (columns + x) % period
        return jax.nn.one_hot(colour, period**2, dtype=jnp.float32)  # [H, W, colours]

    points, bounds = spatial_points(height, width, sigma_xy=sigma)
    combs = comb(0, 0).reshape(height * width, -1)  # [N, colours]
    response = with_lattice(
        points,
        bounds,
        lambda lattice: filter_values(lattice, combs),
        valid=inside.reshape(height * width),
        sizes=[3 * height * width],
    )
    response = response.reshape(height, width, -1)  # [H, W, colours]
    norm = _inverse_root(jnp.sum(response, axis=2))  # [H, W]
    padded = jnp.pad(norm, reach)

    def weight(tap: jax.Array) -> jax.Array:
        there = lax.dynamic_slice(padded, tap + reach, (height, width))
        return norm * there * jnp.sum(response * comb(tap[0], tap[1]), axis=2)

    return jnp.moveaxis(lax.map(weight, jnp.array(taps)), 0, 2)
