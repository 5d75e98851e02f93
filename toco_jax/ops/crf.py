"""Mean-field inference in the fully connected CRF, with lattice filters and static shapes.

Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011, with Potts compatibility. The bilateral and the spatial Gaussian kernel K
are filtered on the permutohedral lattice and normalised symmetrically: values are multiplied by
1 / sqrt(K 1) before and after.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float32, Int32, Num

from toco_jax.ops.gaussian import (
    GaussianKernel,
    Message,
    Size,
    exact_gaussian_message,
    gaussian_kernel,
    gaussian_message,
    inside_of,
    inverse_root,
)
from toco_jax.ops.permutohedral import Lattice, bilateral_points, filter_values, with_lattice


def dense_crf(
    image: Num[Array, "h w 3"],
    probs: Float32[Array, "h w k"],
    *,
    iterations: int | Int32[Array, ""] = 10,
    bilateral_xy: float = 121.0,
    bilateral_rgb: float = 5.0,
    bilateral_weight: float = 4.0,
    gaussian_xy: float = 1.0,
    gaussian_weight: float = 1.0,
    clip: float = 1e-5,
    size: Size | None = None,
    top_k: int | None = None,
    exact_gaussian: bool = False,
    gaussian: GaussianKernel | None = None,
) -> Float32[Array, "h w k"]:
    """Refines the class probabilities of one image; use `jax.lax.map` for a batch.

    Args:
        image: colours in 0..255.
        probs: probabilities in 0..1; the unary term is `-log(max(probs, clip))`.
        iterations: number of mean-field updates, may be traced; 0 returns the clipped input,
            normalised.
        bilateral_xy: standard deviation of the bilateral kernel in pixels.
        bilateral_rgb: standard deviation of the bilateral kernel in grey levels.
        bilateral_weight: strength of the bilateral kernel. The defaults are those for segmentation
            at native size; (80, 13, 10), with a Gaussian kernel of (3, 3), is usual for CAMs.
        gaussian_xy: standard deviation of the Gaussian kernel in pixels.
        gaussian_weight: strength of the Gaussian kernel.
        clip: lower bound of the probabilities in the unary term, above 0.
        size: height and width of an image that is padded below and to the right; may be traced.
            Padded pixels have no influence, and their results have no meaning.
        top_k: an approximation: uses only the k classes of the largest mean probability and
            returns 0 for the others. k = 8 of 21 changes 2e-4 to 3e-4 of the labels.
        exact_gaussian: an approximation of the lattice: uses the exact Gaussian, by matrix products
            of O(H + W) operations per pixel. For accelerators; slow on a CPU.
        gaussian: the value of `gaussian_kernel((H, W), size, gaussian_xy)`, if it is known already.

    Returns:
        Probabilities; those of a pixel sum to 1.

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
    # Classes that never win pad rows to a multiple of 8 floats, which CPUs process faster.
    shown = probs.shape[2]
    log_unary = jnp.log(jnp.clip(jnp.pad(probs, ((0, 0), (0, 0), (0, -shown % 8))), clip, 1.0))
    log_unary = jnp.where((jnp.arange(log_unary.shape[2]) < shown)[None, None], log_unary, -1e9)
    log_unary = log_unary.reshape(height * width, -1)  # [N, K']

    if exact_gaussian:
        smooth = exact_gaussian_message(inside, gaussian_xy)
    else:
        gaussian = gaussian_kernel(frame, size, gaussian_xy) if gaussian is None else gaussian
        smooth = gaussian_message(gaussian, frame, gaussian_xy)

    def infer(lattice: Lattice) -> Array:
        bilateral = _lattice_message(lattice)

        # The loop carries the logits and not the marginals: otherwise XLA would fuse the messages
        # into the softmax and compute them for each of its passes.
        def update(_: Any, logits: Array) -> Array:
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
    """Filter with the lattice's kernel, normalised symmetrically."""
    ones = jnp.ones((lattice.vertices.shape[1], 1), jnp.float32)
    norm = inverse_root(filter_values(lattice, ones))[:, 0]  # [N]
    lattice = lattice._replace(weights=lattice.weights * norm[None])
    return lambda marginals: filter_values(lattice, marginals)
