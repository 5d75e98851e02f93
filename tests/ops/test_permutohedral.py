from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops import permutohedral
from toco_jax.ops.permutohedral import (
    bilateral_filter,
    bilateral_filter_images,
    bilateral_points,
    filter_values,
    spatial_points,
    with_lattice,
)

HEIGHT, WIDTH, CHANNELS = 24, 32, 3
bilateral = jax.jit(partial(bilateral_filter, sigma_rgb=15.0, sigma_xy=50.0))


def slow_filter(points, values):
    """The lattice as a dictionary of vertices, in float64: [N, d], [N, K] -> [N, K], vertices."""
    dim = points.shape[1]
    side = dim + 1
    basis = np.zeros((side, dim))
    for m in range(1, side):
        basis[:m, m - 1] = 1 / np.sqrt(m * (m + 1))
        basis[m, m - 1] = -m / np.sqrt(m * (m + 1))
    elevated = np.sqrt(2 / 3) * side * (points.astype(np.float64)[:, None] * basis).sum(axis=2)

    simplices, table = [], {}
    for e, value in zip(elevated, values.astype(np.float64), strict=True):
        base = np.rint(e / side)
        excess = int(base.sum())
        order = np.argsort(base * side - e, kind="stable")
        base[order[side - excess :] if excess > 0 else order[:-excess]] -= np.sign(excess)
        order = np.argsort(base * side - e, kind="stable")
        step = (e - base * side)[order] / side
        weights = np.append(1 + step[-1] - step[0], step[:-1][::-1] - step[1:][::-1])
        simplex = []
        for k in range(side):
            vertex = base * side + k
            vertex[order[side - k :]] -= side
            simplex.append(tuple(vertex.astype(int)))
            table[simplex[-1]] = table.get(simplex[-1], 0) + weights[k] * value
        simplices.append((simplex, weights))
    for axis in range(side):
        step = np.ones(side, int)
        step[axis] -= side
        table = {
            v: t + 0.5 * sum(table.get(tuple(np.add(v, s)), 0) for s in (step, -step))
            for v, t in table.items()
        }
    out = [sum(w * table[v] for v, w in zip(*simplex, strict=True)) for simplex in simplices]
    return np.array(out) / (1 + 2.0**-dim), len(table)


def slow_bilateral(image, values, sigma_rgb=15.0, sigma_xy=50.0):
    points, _ = bilateral_points(jnp.asarray(image), sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    out, vertices = slow_filter(np.asarray(points).T, values.reshape(-1, values.shape[2]))
    return out.reshape(values.shape), vertices


def exact_bilateral(image, values, sigma_rgb=15.0, sigma_xy=50.0):
    points, _ = bilateral_points(jnp.asarray(image), sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    points = np.asarray(points, np.float64).T
    distance = np.square(points[:, None] - points[None]).sum(axis=2)
    out = np.exp(-distance / 2) @ values.reshape(-1, values.shape[2])
    return out.reshape(values.shape)


def gain_and_residual(lattice, exact):
    gain = (lattice * exact).sum() / np.square(exact).sum()
    return gain, np.linalg.norm(lattice - gain * exact) / np.linalg.norm(lattice)


@pytest.fixture(scope="module")
def images():
    """A smooth image with an edge and some grain, and one of uniform noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    colours = [100 + 3 * x, 60 + 5 * y, 90 + 40 * np.sin(x / 6) * np.cos(y / 5)]
    smooth = np.stack(colours, axis=2) + 60 * (x > y)[:, :, None] + rng.normal(0, 3, (*x.shape, 3))
    noise = rng.uniform(0, 255, smooth.shape)
    return {"smooth": np.float32(np.clip(smooth, 0, 255)), "noise": np.float32(noise)}


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(1).uniform(0, 1, (HEIGHT, WIDTH, CHANNELS)).astype(np.float32)


@pytest.mark.parametrize("case", ["smooth_64", "noisy_64", "smooth_112", "noisy_112"])
def test_golden(golden, case):
    data = golden("dense_energy")
    image, given, expected = (
        np.moveaxis(data[f"bf/{case}/{name}"], 0, 2) for name in ("image", "in", "out")
    )
    out = np.asarray(bilateral(image, given))
    assert np.abs(out - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.linalg.norm(out - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["smooth", "noise"])
def test_equals_a_dictionary_of_vertices(images, values, name):
    expected, _ = slow_bilateral(images[name], values)
    np.testing.assert_allclose(bilateral(images[name], values), expected, rtol=2e-5)


@pytest.mark.parametrize("shape", [(1, 37), (29, 1)])
def test_thin_images(shape):
    rng = np.random.default_rng(2)
    image = rng.uniform(0, 255, (*shape, 3)).astype(np.float32)
    given = rng.uniform(0, 1, (*shape, 2)).astype(np.float32)
    expected, _ = slow_bilateral(image, given)
    np.testing.assert_allclose(bilateral(image, given), expected, rtol=2e-5)


def test_is_the_gaussian_up_to_gain_and_a_tenth(images, values):
    out = np.asarray(bilateral(images["smooth"], values))
    gain, residual = gain_and_residual(out, exact_bilateral(images["smooth"], values))
    assert 0.33 < gain < 0.62
    assert residual < 0.12


def test_constant_image():
    image = np.full((HEIGHT, WIDTH, 3), 130.0, np.float32)
    ones = np.ones((HEIGHT, WIDTH, CHANNELS), np.float32)
    out = np.asarray(bilateral(image, ones))
    ratio = out / exact_bilateral(image, ones)
    assert ratio.min() > 0.4
    assert ratio.max() < 0.6
    np.testing.assert_allclose(out, slow_bilateral(image, ones)[0], rtol=2e-5)


def test_is_linear_in_the_values(images, values):
    image, other = images["smooth"], values[::-1] - 0.5
    combined = bilateral(image, 2 * values - 3 * other)
    separate = 2 * bilateral(image, values) - 3 * bilateral(image, other)
    np.testing.assert_allclose(combined, separate, atol=1e-5 * np.abs(separate).max())


def test_jit_equals_eager():
    rng = np.random.default_rng(3)
    image = jnp.asarray(rng.uniform(0, 255, (5, 7, 3)).astype(np.float32))
    given = jnp.asarray(rng.uniform(0, 1, (5, 7, 2)).astype(np.float32))
    eager = bilateral_filter(image, given, sigma_rgb=15.0, sigma_xy=50.0)
    np.testing.assert_allclose(bilateral(image, given), eager, rtol=1e-5)


def test_many_channels_equal_few(images, values):
    # Between 9 and 31 channels the table is padded.
    many = np.concatenate([values, values[::-1], values[:, ::-1], values * 2], axis=2)
    out = bilateral(images["smooth"], many)
    np.testing.assert_allclose(out[:, :, :3], bilateral(images["smooth"], values), rtol=1e-6)
    np.testing.assert_allclose(out[:, :, 9:], 2 * out[:, :, :3], rtol=1e-6)


def test_the_smallest_table_that_fits_is_used_and_none_overflows(images, values):
    smooth, vertices = slow_bilateral(images["smooth"], values)
    noise, _ = slow_bilateral(images["noise"], values)
    sizes = [vertices - 1, vertices, 6 * HEIGHT * WIDTH]

    def run(image):
        points, bounds = bilateral_points(image, sigma_rgb=15.0, sigma_xy=50.0)
        flat = jnp.asarray(values).reshape(HEIGHT * WIDTH, CHANNELS)

        def work(lattice):
            return filter_values(lattice, flat), jnp.int32(lattice.neighbours.shape[2] - 1)

        return with_lattice(points, bounds, work, sizes=sizes)

    out, used = jax.jit(partial(jax.lax.map, run))(jnp.stack([images["smooth"], images["noise"]]))
    np.testing.assert_array_equal(used, [sizes[1], sizes[2]])
    expected = np.stack([smooth, noise]).reshape(2, -1, CHANNELS)
    np.testing.assert_allclose(out, expected, rtol=2e-5)


def test_every_table_size_gives_the_same(images, values, monkeypatch):
    monkeypatch.setattr(permutohedral, "_SMALLEST_TABLE", 1)
    run = jax.jit(partial(bilateral_filter, sigma_rgb=15.0, sigma_xy=50.0))
    sizes = set()
    contrasts = [np.float32(c) * images["smooth"] for c in (0.2, 0.5, 0.75, 1)]
    for image in (*contrasts, images["noise"]):
        expected, vertices = slow_bilateral(image, values)
        np.testing.assert_allclose(run(image, values), expected, rtol=2e-5)
        sizes.add(int(np.searchsorted([4, 6, 9, 16], 16 * vertices / (HEIGHT * WIDTH))))
    assert sizes == {0, 1, 2, 3, 4}


def test_images_together_equal_one_after_the_other(images, values, monkeypatch):
    monkeypatch.setattr(permutohedral, "_SMALLEST_TABLE", 1)
    pair = jnp.stack([images["smooth"], images["noise"]]), jnp.stack([values, values[::-1]])
    run = partial(bilateral_filter_images, sigma_rgb=15.0, sigma_xy=50.0)
    together = jax.jit(partial(run, unrolled=True)).trace(*pair)
    # One branch is taken for all: a batched choice would have become a selection among all sizes.
    assert " cond[" in str(together.jaxpr)
    out = together.lower().compile()(*pair)
    np.testing.assert_allclose(out, jax.jit(partial(run, unrolled=False))(*pair), rtol=2e-6)


def test_invalid_points_take_no_part():
    rng = np.random.default_rng(4)
    height, width = 9, 11
    valid = rng.uniform(size=height * width) < 0.6
    valid[0] = False
    given = rng.uniform(0, 1, (height * width, 2)).astype(np.float32)
    given[~valid] = 1e6

    @jax.jit
    def run(given, valid):
        points, bounds = spatial_points(height, width, sigma_xy=2.5)
        out = with_lattice(
            points, bounds, lambda lattice: filter_values(lattice, given), valid=valid
        )
        return out, points

    out, points = run(given, valid)
    expected, _ = slow_filter(np.asarray(points).T[valid], given[valid])
    np.testing.assert_allclose(np.asarray(out)[valid], expected, rtol=2e-5)
    np.testing.assert_array_equal(np.asarray(out)[~valid], 0)


def test_too_many_keys_is_an_error(images, values):
    with pytest.raises(ValueError, match="use larger sigmas"):
        image, given = jnp.asarray(images["smooth"]), jnp.asarray(values)
        bilateral_filter(image, given, sigma_rgb=0.2, sigma_xy=50.0)
