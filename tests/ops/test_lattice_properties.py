"""The lattice filter, its hash table and the dense CRF at ordinary and extreme values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extreme_values import BF16, arrays, assert_finite, permuted, seeds
from hypothesis import given
from hypothesis import strategies as st

from toco_jax.ops import gaussian, permutohedral, simplex, vertex_table
from toco_jax.ops.crf import dense_crf

SIGMAS = {"sigma_rgb": 15.0, "sigma_xy": 4.0}
FALLS = [-4, 1, 3]


# Simplices and the hash table


@given(data=st.data())
def test_keys_of_a_box(data):
    spans = data.draw(st.lists(st.tuples(*[st.floats(-20, 20)] * 2), min_size=1, max_size=3))
    bounds = [(min(span), max(span)) for span in spans]
    _, falls, total = simplex.key_code(bounds)
    assert len(falls) == len(bounds) + 1 and sum(falls) == 0 and 0 < total < 2**31


@functools.partial(jax.jit, static_argnums=1)
def embedded(points, bounds):
    offset, falls, _ = simplex.key_code(bounds)
    return simplex.embed(points, offset, falls)


@pytest.mark.parametrize("bounds", [((-3.0, 5.0), (0.0, 0.0)), ((0.0, 9.0),) * 5])
@given(data=st.data())
def test_simplices(bounds, data):
    unit = data.draw(arrays((len(bounds), 7), low=0, high=1))
    low, high = np.float32(bounds).T[:, :, None]
    # Also where points tie: on a coarse grid.
    unit = np.rint(4 * unit) / 4 if data.draw(st.booleans()) else unit
    keys, weights = embedded(np.float32(low + (high - low) * unit), bounds)
    assert_finite(weights)
    assert (weights >= -1e-5).all() and (weights <= 1 + 1e-5).all()
    np.testing.assert_allclose(np.sum(weights, 0), 1, atol=1e-5)
    assert (keys >= 0).all() and (keys < simplex.key_code(bounds)[2]).all()
    assert all(len(set(corner)) == len(bounds) + 1 for corner in np.asarray(keys).T)


@jax.jit
def looked_up(key):
    table, first = vertex_table.insert(key)
    row, count = vertex_table.number_rows(first)
    neighbours = vertex_table.find_neighbours(key.size, FALLS, key, row, count, table)
    return table, first, vertex_table.take(key, first), row, count, neighbours


@pytest.mark.parametrize("num", [1, 33])
@given(data=st.data())
def test_hash_table(num, data):
    rng, most = data.draw(seeds()), 2**31 - 5
    some = data.draw(st.lists(st.integers(-most, most), min_size=1, max_size=4))
    near = data.draw(st.integers(0, 12))
    key = rng.choice(some, num).clip(12 - most, most - 12) + rng.integers(-near, near + 1, num)
    key = key.astype(np.int32)
    table, first, of_first, row, count, neighbours = map(np.asarray, looked_up(key))
    numbers, firsts = {}, {}
    for i, one in enumerate(key.tolist()):
        firsts.setdefault(one, i)
        numbers.setdefault(one, len(numbers) + 1)
    np.testing.assert_array_equal(first, [firsts[one] for one in key.tolist()])
    np.testing.assert_array_equal(row, [numbers[one] for one in key.tolist()])
    assert count == len(numbers)
    assert sorted(table[table < num]) == sorted(firsts.values())
    expected = np.zeros_like(neighbours)
    for one, number in numbers.items():
        for axis, fall in enumerate(FALLS):
            expected[axis, :, number] = [numbers.get(one + step, 0) for step in (fall, -fall)]
    np.testing.assert_array_equal(neighbours, expected)
    np.testing.assert_array_equal(of_first, key)


# Filters

filter_images = jax.jit(functools.partial(permutohedral.bilateral_filter_images, **SIGMAS))


@jax.jit
def points_of(image):
    points, bounds = permutohedral.bilateral_points(image, **SIGMAS)
    return points, jnp.array(bounds).T


filter_one = jax.jit(functools.partial(permutohedral.bilateral_filter, **SIGMAS))


@pytest.mark.parametrize(("size", "dtype"), [((4, 5), np.float32), ((1, 1), BF16)])
@given(data=st.data())
def test_bilateral_filter(size, dtype, data):
    images = data.draw(arrays((2, *size, 3), low=-1e30 if dtype == BF16 else 0, dtype=dtype))
    images = images if data.draw(st.booleans()) else np.clip(images, 0, 255)
    values = data.draw(arrays((2, *size, 2), low=0))
    out = np.asarray(filter_images(images, values))
    assert_finite(out)
    # A pixel counts itself, and nothing weighs less than nothing.
    assert (out >= 0).all() and (out[values > 1e-30] > 0).all()
    order, back = permuted(data.draw(seeds()), 2)
    again = np.asarray(filter_images(images[order], values[order][..., ::-1]))
    largest = out.max()
    np.testing.assert_allclose(again[back][..., ::-1], out, rtol=1e-4, atol=1e-6 * largest)
    halves = np.asarray(filter_images(images, values / 2 * np.float32([1, -1])))
    np.testing.assert_allclose(halves * [2, -2], out, rtol=1e-4, atol=1e-6 * largest + 1e-37)
    points, (low, high) = points_of(images[0])
    assert (np.min(points, 1) >= low - 1e-4).all() and (np.max(points, 1) <= high + 1e-4).all()
    # Outside of the grey levels nothing changes any more.
    clipped = filter_one(np.clip(images[0], dtype(-1), dtype(256)), values[0])
    np.testing.assert_array_equal(clipped, filter_one(images[0], values[0]))


@jax.jit
def filter_valid(image, values, valid):
    points, bounds = permutohedral.bilateral_points(image, **SIGMAS)
    return permutohedral.with_lattice(
        points, bounds, lambda lattice: permutohedral.filter_values(lattice, values), valid=valid
    )


@given(data=st.data())
def test_points_that_take_no_part(data):
    image, other = (data.draw(arrays((4, 5, 3), low=0, high=255)) for _ in range(2))
    values, others = (data.draw(arrays((20, 2))) for _ in range(2))
    valid = data.draw(seeds()).random(20) < data.draw(st.sampled_from((0.0, 0.5, 1.0)))
    out = np.asarray(filter_valid(image, values, valid))
    assert_finite(out)
    assert not out[~valid].any()
    image = np.where(valid.reshape(4, 5, 1), image, other)
    again = filter_valid(image, np.where(valid[:, None], values, others), valid)
    np.testing.assert_allclose(again, out, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=(2, 3))
def smoothed(values, size, sigma, exact):
    frame = values.shape[:2]
    flat = values.reshape(-1, values.shape[2])
    if exact:
        return gaussian.exact_gaussian_message(gaussian.inside_of(frame, size), sigma)(flat)
    kernel = gaussian.gaussian_kernel(frame, size, sigma)
    return gaussian.gaussian_message(kernel, frame, sigma)(flat)


@pytest.mark.parametrize(
    ("sigma", "exact"), [(1.0, False), (3.0, False), (1e-20, True), (3.0, True)]
)
@given(data=st.data())
def test_gaussian_messages(sigma, exact, data):
    values, others = (data.draw(arrays((6, 5, 2), low=0)) for _ in range(2))
    size = np.int32([data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))])
    out = np.asarray(smoothed(values, size, sigma, exact)).reshape(values.shape)
    assert_finite(out)
    assert (out >= -1e-6 * out.max()).all()
    inside = np.asarray(gaussian.inside_of((6, 5), tuple(size.tolist())))
    assert inside.sum() == size.prod() and inside[: size[0], : size[1]].all()
    assert not out[~inside].any()
    other = np.where(inside[..., None], values, others)
    again = smoothed(other, size, sigma, exact).reshape(values.shape)
    np.testing.assert_allclose(again, out, rtol=1e-4, atol=1e-6 * out.max())
    # Normalised on both sides, so that the values grow in the mean by no more than rounding and
    # the lattice's lack of symmetry make of them.
    assert np.sum(np.float64(out) ** 2) <= 1.05 * np.sum(np.float64(other * inside[..., None]) ** 2)


@given(total=arrays((9,), low=0))
def test_inverse_roots(total):
    root = gaussian.inverse_root(jnp.asarray(total))
    assert_finite(root)
    assert (root > 0).all() and (root <= 1.001e10).all()


# The CRF

SIZES = [np.int32([4, 5]), np.int32([3, 2]), np.int32([1, 1])]


@functools.partial(jax.jit, static_argnames=("top_k", "exact_gaussian"))
def refined(image, probs, iterations, size, **options):
    return dense_crf(image, probs, iterations=iterations, size=size, **options)


@pytest.mark.parametrize(
    ("dtype", "options"), [(np.uint8, {}), (BF16, {"top_k": 2, "exact_gaussian": True})]
)
@given(data=st.data())
def test_dense_crf(dtype, options, data):
    image = data.draw(arrays((4, 5, 3), low=0, high=255)).astype(dtype)
    probs, others = (data.draw(arrays((4, 5, 3), low=0, high=1)) for _ in range(2))
    size = data.draw(st.sampled_from(SIZES))
    iterations = np.int32(data.draw(st.integers(0, 12)))
    out = np.asarray(refined(image, probs, iterations, size, **options))
    assert_finite(out)
    assert (out >= 0).all() and (out <= 1 + 1e-5).all()
    np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-5)
    assert ((out > 0).any((0, 1))).sum() <= options.get("top_k", 3)
    inside = np.zeros((4, 5, 1), bool)
    inside[: size[0], : size[1]] = True
    padded = np.where(inside, image, 7).astype(dtype)
    again = np.asarray(
        refined(padded, np.where(inside, probs, others), iterations, size, **options)
    )
    np.testing.assert_allclose((again - out) * inside, 0, atol=1e-4)
    if "top_k" not in options:
        order, back = permuted(data.draw(seeds()), 3)
        renamed = np.asarray(refined(image, probs[..., order], iterations, size, **options))
        np.testing.assert_allclose((renamed[..., back] - out) * inside, 0, atol=1e-3)
