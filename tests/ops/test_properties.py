"""Resizing, normalising, products and slices at ordinary and extreme values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extreme_values import BF16, FLUSHED, arrays, assert_finite, permuted, seeds
from hypothesis import given
from hypothesis import strategies as st

from toco_jax.ops.layer_norm import layer_norm
from toco_jax.ops.parts import largest_divisor, map_parts, mean_over_parts
from toco_jax.ops.product import product
from toco_jax.ops.resize import interpolation_matrix, resize

METHODS = ("bilinear", "bilinear_corners", "bicubic", "bicubic_antialiased", "nearest")
SIZES = st.integers(1, 600)


@given(size_in=SIZES, size_out=SIZES, method=st.sampled_from(METHODS))
def test_interpolation_matrices(size_in, size_out, method):
    matrix = interpolation_matrix(size_in, size_out, method)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-5)
    assert (matrix >= (-0.2 if method.startswith("bicubic") else 0)).all()
    assert (np.diff(matrix.argmax(1)) >= 0).all()
    if method == "nearest":
        np.testing.assert_array_equal(matrix.argmax(1), np.arange(size_out) * size_in // size_out)
    elif method != "bilinear_corners" or size_out > 1:
        np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-5)


@functools.partial(jax.jit, static_argnames=("size", "method"))
def resized(x, size, method):
    out, pull = jax.vjp(lambda x: resize(x, size, method), x)
    return out, pull(jnp.ones_like(out))[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shape", "size", "dtype"),
    [
        ((2, 5, 7, 2), (9, 3), np.float32),
        ((2, 4, 6, 2), (2, 3), BF16),
        ((1, 3, 1, 2), (6, 2), np.float32),
    ],
)
@given(data=st.data())
def test_resize(shape, size, dtype, method, data):
    x = data.draw(arrays(shape, dtype=dtype))
    out, grad = resized(x, size, method)
    assert_finite((out, grad))
    assert out.shape == (shape[0], *size, shape[3]) and out.dtype == grad.dtype == dtype
    values, result = np.float32(x), np.float32(out)
    largest = np.abs(values).max((1, 2), keepdims=True)
    near = largest * (1e-2 if dtype == BF16 else 1e-5) + FLUSHED
    if not method.startswith("bicubic"):
        assert (result <= values.max((1, 2), keepdims=True) + near).all()
        assert (result >= values.min((1, 2), keepdims=True) - near).all()
    constant, _ = resized(np.full(shape, x.flat[0]), size, method)
    assert (np.abs(np.float32(constant) - np.float32(x.flat[0])) <= near.max()).all()
    # Each result is a mean of pixels, whose weights sum to 1.
    np.testing.assert_allclose(np.float32(grad).sum(), out.size, rtol=2e-2)
    if method != "nearest":
        turned = np.float32(resized(x[:, ::-1, ::-1], size, method)[0])
        assert (np.abs(turned[:, ::-1, ::-1] - result) <= near).all()


@jax.jit
def normalised(x, scale, bias, dy):
    out, pull = jax.vjp(lambda x, s, b: layer_norm(x, s, b, 1e-6, x.dtype), x, scale, bias)
    return out, *pull(dy)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 8), np.float32), ((2, 1, 8), BF16), ((2, 1), np.float32)]
)
@given(data=st.data())
def test_layer_norm(shape, dtype, data):
    x, dy = (data.draw(arrays(shape, low=-s, high=s, dtype=dtype)) for s in (1e30, 1e20))
    width = shape[-1]
    scale, bias = np.ones(width, np.float32), np.zeros(width, np.float32)
    out, dx, dscale, dbias = normalised(x, scale, bias, dy)
    assert_finite((out, dx, dscale, dbias))
    assert out.dtype == dx.dtype == dtype
    assert np.abs(np.float32(out)).max() <= 1.02 * width**0.5
    np.testing.assert_allclose(
        dbias,
        np.float32(dy).reshape(-1, width).sum(0),
        rtol=1e-3,
        atol=1e-5 * np.abs(dbias).max() + FLUSHED,
    )
    # The result for one row does not depend on the others.
    again, *_ = normalised(x[::-1], scale, bias, dy[::-1])
    np.testing.assert_array_equal(np.float32(again)[::-1], np.float32(out))
    # Neither scale nor bias make a row of equal entries anything else than the bias.
    equal, *_ = normalised(np.full(shape, dtype(3)), scale * 7, bias + 2, dy)
    np.testing.assert_array_equal(np.float32(equal), 2)


@given(x=arrays((3, 8), low=-1e3, high=1e3), factor=st.sampled_from([2.0**-5, 2.0**40]))
def test_layer_norm_ignores_the_unit(x, factor):
    # With a spread next to which eps does not count.
    x = x + np.linspace(-1e3, 1e3, 8, dtype=np.float32)[None]
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    out, *_ = normalised(x, ones, zeros, x)
    scaled, *_ = normalised(x * np.float32(factor), ones, zeros, x)
    np.testing.assert_allclose(scaled, out, atol=1e-4)
    np.testing.assert_allclose(np.sum(out, 1), 0, atol=1e-3)
    np.testing.assert_allclose(np.mean(np.square(out), 1), 1, rtol=1e-3)


@functools.partial(jax.jit, static_argnames=("dtype", "unrolled"))
def multiplied(x, kernel, dtype=None, unrolled=False):
    out, pull = jax.vjp(lambda *a: product(*a, dtype=dtype, unrolled=unrolled), x, kernel)
    return out, *pull(jnp.ones_like(out))


@pytest.mark.parametrize(
    ("rows", "dtype", "options"),
    [
        ((1,), np.float32, {}),
        ((2, 3), np.float32, {}),
        ((2, 3), BF16, {"dtype": np.float32}),
        ((3,), BF16, {"unrolled": True}),
    ],
)
@given(data=st.data())
def test_product(rows, dtype, options, data):
    x, kernel = (
        data.draw(arrays(shape, low=-1e14, high=1e14, dtype=dtype))
        for shape in ((*rows, 4), (4, 5))
    )
    out, dx, dkernel = multiplied(x, kernel, **options)
    assert_finite((out, dx, dkernel))
    assert out.dtype == options.get("dtype", dtype) and dx.dtype == dkernel.dtype == dtype
    exact, factor = np.float64(x), np.float64(kernel)
    tolerance = 1e-5 if dtype == np.float32 else 2e-2

    def check(found, left, right):
        error = np.abs(np.float64(np.float32(found)) - left @ right)
        lost = 4 * FLUSHED * max(1, np.abs(left).max(), np.abs(right).max())
        assert (error <= tolerance * (np.abs(left) @ np.abs(right)) + lost).all()

    check(out, exact, factor)
    check(dx, np.ones((*rows, 5)), factor.T)
    check(dkernel, exact.reshape(-1, 4).T, np.ones((int(np.prod(rows)), 5)))


@given(number=st.integers(0, 300), limit=st.integers(0, 300))
def test_largest_divisor(number, limit):
    divisor = largest_divisor(number, limit)
    fitting = [n for n in range(1, limit + 1) if n <= number and number % n == 0]
    assert divisor == max(fitting, default=1)


def running_sum(arrays):
    return {"sum": jnp.cumsum(arrays["x"], axis=1), "double": 2 * arrays["n"]}


def mean_and_square(x):
    return x.mean(0), jnp.square(x).mean()


undivided = jax.jit(running_sum)
in_parts = jax.jit(map_parts, static_argnums=(0, 2))
mean_of_parts = jax.jit(mean_over_parts, static_argnums=(0, 2))


@pytest.mark.parametrize("dtype", [np.float32, BF16])
@given(data=st.data())
def test_parts(dtype, data):
    x = data.draw(arrays((6, 3), low=-1e14, high=1e14, dtype=dtype))
    whole = {"x": x, "n": np.arange(6, dtype=np.int32)}
    order, back = permuted(data.draw(seeds()), 6)
    for size in (1, 2):
        parts = in_parts(running_sum, whole, size)
        for name, expected in undivided(whole).items():
            np.testing.assert_array_equal(np.float32(parts[name]), np.float32(expected))
    parts = in_parts(running_sum, jax.tree.map(lambda x: x[order], whole), 2)
    np.testing.assert_array_equal(parts["double"][back], 2 * whole["n"])
    for num in (1, 3):
        mean, square = mean_of_parts(mean_and_square, x, num)
        assert_finite((mean, square))
        assert mean.dtype == square.dtype == dtype
        near = np.abs(np.float32(x)).max()
        tolerance = 2e-2 if dtype == BF16 else 1e-5
        exact = np.float64(np.float32(x))
        np.testing.assert_allclose(np.float32(mean), exact.mean(0), atol=tolerance * near + FLUSHED)
        np.testing.assert_allclose(
            np.float32(square), np.square(exact).mean(), rtol=2e-2, atol=1e-30
        )
