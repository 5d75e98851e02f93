"""Mean-field inference in the fully connected CRF, with lattice filters and static shapes.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011: Potts compatibility, a bilateral and a spatial Gaussian kernel, both
filtered on the permutohedral lattice and normalised symmetrically, by 1 / sqrt(K 1) before and
after.
"""

import jax
import jax.numpy as jnp
from jax import lax

from toco_jax.ops.gaussian import (
    GaussianKernel,
    Message,
    exact_gaussian_message,
    gaussian_kernel,
    gaussian_message,
    inside_of,
    inverse_root,
)
from toco_jax.ops.permutohedral import Lattice, bilateral_points, filter_values, with_lattice


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
    gaussian: GaussianKernel | None = None,
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
        gaussian: `gaussian_kernel((H, W), size, gaussian_xy)`, if it is at hand.

    Returns:
        float32 [H, W, K]; each pixel sums to 1.

    Raises:
        ValueError: standard deviations so small that int32 cannot number the lattice.
    """
    height, width, num_classes = probs.shape
    frame = height, width
    size = frame if size is None else size
    inside = inside_of(frame, size)
    probs = jnp.where(inside[:, :, None], probs, 0)
    classes = None
    if top_k is not None and top_k < num_classes:
        _, classes = lax.top_k(jnp.sum(probs, (0, 1)), top_k)
        probs = jnp.take(probs, classes, axis=2)
    # Classes that never win fill rows up to a multiple of 8 floats, which CPUs work through faster.
    shown = probs.shape[2]
    log_unary = jnp.log(jnp.clip(jnp.pad(probs, ((0, 0), (0, 0), (0, -shown % 8))), clip, 1.0))
    log_unary = jnp.where((jnp.arange(log_unary.shape[2]) < shown)[None, None], log_unary, -1e9)
    log_unary = log_unary.reshape(height * width, -1)  # [N, K']

    if exact_gaussian:
        smooth = exact_gaussian_message(inside, gaussian_xy)
    else:
        gaussian = gaussian_kernel(frame, size, gaussian_xy) if gaussian is None else gaussian
        smooth = gaussian_message(gaussian, frame, gaussian_xy)

    def infer(lattice: Lattice) -> jax.Array:
        bilateral = _lattice_message(lattice)

        # The logits are carried, not the marginals: XLA would fuse the messages into the softmax
        # and compute them once for each of its passes.
        def update(_: int, logits: jax.Array) -> jax.Array:
            marginals = jax.nn.softmax(logits, axis=1)
            logits = log_unary + bilateral_weight * bilateral(marginals)
            return logits + gaussian_weight * smooth(marginals)

        return jax.nn.softmax(lax.fori_loop(0, iterations, update, log_unary), axis=1)

    points, bounds = bilateral_points(image, sigma_rgb=bilateral_rgb, sigma_xy=bilateral_xy)
    marginals = with_lattice(points, bounds, infer, valid=inside.reshape(height * width))
    marginals = marginals.reshape(height, width, -1)[:, :, :shown]  # [H, W, K or top_k]
    if classes is None:
        return marginals
    return jnp.zeros((height, width, num_classes), jnp.float32).at[:, :, classes].set(marginals)


def _lattice_message(lattice: Lattice) -> Message:
    ones = jnp.ones((lattice.vertices.shape[1], 1), jnp.float32)
    norm = inverse_root(filter_values(lattice, ones))[:, 0]  # [N]
    lattice = lattice._replace(weights=lattice.weights * norm[None])
    return lambda marginals: filter_values(lattice, marginals)
