from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.crf import dense_crf
from toco_jax.ops.gaussian import gaussian_kernel
from toco_jax.ops.permutohedral import bilateral_points, filter_values, spatial_points, with_lattice

HEIGHT, WIDTH, CLASSES = 19, 14, 3
# Smaller than the defaults, so that the kernels matter on a small image.
KERNELS = {"bilateral_xy": 9.0, "bilateral_rgb": 20.0, "bilateral_weight": 3.0}
GOLDEN_SEEDS = {
    "bilateral_xy": 80.0,
    "bilateral_rgb": 13.0,
    "bilateral_weight": 10.0,
    "gaussian_xy": 3.0,
    "gaussian_weight": 3.0,
}


def softmax(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def lattice_matrix(points, bounds):
    """The lattice filter as a dense matrix, float64 [N, N]."""
    identity = jnp.eye(points.shape[1])
    run = partial(with_lattice, run=lambda lattice: filter_values(lattice, identity))
    return np.asarray(jax.jit(lambda points: run(points, bounds))(points), np.float64)


def slow_crf(bilateral, gaussian, probs, *, weights, iterations):
    """Mean field with dense kernel matrices, in float64."""
    log_unary = np.log(np.clip(probs, 1e-5, 1)).reshape(-1, probs.shape[2])
    kernels = []
    for matrix, weight in zip((bilateral, gaussian), weights, strict=True):
        norm = 1 / np.sqrt(matrix.sum(axis=1))
        kernels.append(weight * norm[:, None] * matrix * norm)
    marginals = softmax(log_unary)
    for _ in range(iterations):
        marginals = softmax(log_unary + sum(kernel @ marginals for kernel in kernels))
    return marginals.reshape(probs.shape)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([80 + 5 * x, 60 + 6 * y, 120 + 60 * (x > y)], axis=2)
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    probs = softmax(rng.normal(0, 1.5, (HEIGHT, WIDTH, CLASSES))).astype(np.float32)
    return image, probs


@pytest.fixture(scope="module")
def bilateral_matrix(case):
    return lattice_matrix(*bilateral_points(jnp.asarray(case[0]), sigma_rgb=20.0, sigma_xy=9.0))


def gaussian_matrix(sigma):
    return lattice_matrix(*spatial_points(HEIGHT, WIDTH, sigma_xy=sigma))


@pytest.mark.parametrize(
    ("sigma", "padding"), [(0.5, (0, 0)), (1.0, (0, 0)), (1.0, (6, 3)), (1.8, (2, 5))]
)
def test_equals_a_dense_mean_field(case, bilateral_matrix, sigma, padding):
    image, probs = case
    expected = slow_crf(
        bilateral_matrix, gaussian_matrix(sigma), probs, weights=(3.0, 1.5), iterations=3
    )
    assert np.abs(expected - probs).max() > 0.1
    size = None
    if padding != (0, 0):
        size = jnp.array([HEIGHT, WIDTH])
        width = [(0, n) for n in (*padding, 0)]
        image = np.pad(image, width, constant_values=99)
        probs = np.pad(probs, width, constant_values=np.nan)
    run = partial(dense_crf, iterations=3, gaussian_xy=sigma, gaussian_weight=1.5, **KERNELS)
    out = np.asarray(jax.jit(run)(image, probs, size=size))[:HEIGHT, :WIDTH]
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_exact_gaussian(case, bilateral_matrix):
    image, probs = case
    y, x = (axis.reshape(-1) for axis in np.mgrid[:HEIGHT, :WIDTH])
    distance = np.square(y[:, None] - y) + np.square(x[:, None] - x)
    expected = slow_crf(
        bilateral_matrix, np.exp(-distance / 2 / 2.5**2), probs, weights=(3.0, 1.5), iterations=3
    )
    run = partial(dense_crf, iterations=3, gaussian_xy=2.5, gaussian_weight=1.5, **KERNELS)
    out = jax.jit(partial(run, exact_gaussian=True))(image, probs)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_a_kernel_at_hand_is_used(case):
    image, probs = case
    kernel = jax.jit(lambda: gaussian_kernel((HEIGHT, WIDTH), (HEIGHT, WIDTH), 3.0))()
    run = jax.jit(partial(dense_crf, iterations=2, gaussian_xy=3.0, gaussian_weight=2.0, **KERNELS))
    expected = np.asarray(run(image, probs))
    np.testing.assert_allclose(run(image, probs, gaussian=kernel), expected, atol=1e-6)
    absent = kernel._replace(weights=jnp.zeros_like(kernel.weights))
    assert np.abs(run(image, probs, gaussian=absent) - expected).max() > 0.05


def test_top_k_keeps_the_likeliest_classes(case, bilateral_matrix):
    image, probs = case
    expected = slow_crf(
        bilateral_matrix, gaussian_matrix(1.0), probs, weights=(3.0, 1.0), iterations=2
    )
    shown = np.insert(probs, [1, 2], 0.0, axis=2)
    out = np.asarray(jax.jit(partial(dense_crf, iterations=2, top_k=3, **KERNELS))(image, shown))
    np.testing.assert_allclose(out[:, :, [0, 2, 4]], expected, atol=2e-5)
    np.testing.assert_array_equal(out[:, :, [1, 3]], 0)


def test_no_iteration_is_the_clipped_input(case):
    image, probs = case
    given = probs.copy()
    given[0, 0] = [1, 0, 0]
    run = jax.jit(partial(dense_crf, iterations=0, clip=0.01, gaussian_xy=2.0, **KERNELS))
    clipped = np.clip(given, 0.01, 1)
    expected = clipped / clipped.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(run(image, given), expected, rtol=1e-5)


golden_crf = jax.jit(dense_crf)


@pytest.mark.parametrize("name", ["c5", "c21"])
def test_golden(golden, name):
    data = golden("crf")
    out = golden_crf(data["image_u8"], np.moveaxis(data[f"{name}/prob"], 0, 2), iterations=10)
    out = np.moveaxis(np.asarray(out), 2, 0)
    stride = 1 if name == "c5" else 2
    np.testing.assert_allclose(out[:, ::stride, ::stride], data[f"{name}/Q"], atol=2e-3)
    assert np.mean(out.argmax(axis=0) == data[f"{name}/argmax"]) >= 0.9999


def test_golden_after_one_iteration(golden):
    data = golden("crf")
    out = golden_crf(data["image_u8"], np.moveaxis(data["c5/prob"], 0, 2), iterations=1)
    np.testing.assert_allclose(np.moveaxis(np.asarray(out), 2, 0), data["c5/Q_iter1"], atol=2e-3)


def test_golden_with_the_kernels_for_seeds(golden):
    data = golden("crf")
    run = jax.jit(partial(dense_crf, **GOLDEN_SEEDS))
    out = run(data["image_u8"], np.moveaxis(data["c21/prob"], 0, 2))
    assert np.mean(np.asarray(out).argmax(axis=2) == data["crf_inference_21/argmax"]) >= 0.9999
