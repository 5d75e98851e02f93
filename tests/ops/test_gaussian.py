from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.gaussian import Grid, Stencil, gaussian_kernel, gaussian_message, inside_of
from toco_jax.ops.permutohedral import filter_values, spatial_points, with_lattice

WIDTH = 21


@partial(jax.jit, static_argnames=("height", "sigma"))
def kernel_and_hashed_lattice(given, size, *, height, sigma):
    """The message by the kernel and by the lattice that finds its vertices in a hash table."""
    frame = (height, WIDTH)
    kernel = gaussian_kernel(frame, size, sigma)
    points, bounds = spatial_points(height, WIDTH, sigma_xy=sigma)
    valid = inside_of(frame, size).reshape(height * WIDTH)

    def normalised(lattice):
        ones = jnp.ones((height * WIDTH, 1))
        norm = 1 / jnp.sqrt(filter_values(lattice, ones) + 1e-20)
        return norm * filter_values(lattice, norm * given)

    expected = with_lattice(points, bounds, normalised, valid=valid)
    return kernel, gaussian_message(kernel, frame, sigma)(given), expected, valid


@pytest.mark.parametrize(
    ("height", "size", "sigma", "kind"),
    [
        (40, (37, 19), 1.0, Stencil),
        (40, (11, 21), 1.0, Stencil),
        (9, (9, 20), 1.0, Stencil),
        (25, (22, 21), 0.5, Stencil),
        (17, (17, 21), 1.8, Grid),
        (17, (14, 18), 3.0, Grid),
    ],
)
def test_equals_the_hashed_lattice(height, size, sigma, kind):
    given = np.random.default_rng(1).uniform(0, 1, (height * WIDTH, 2)).astype(np.float32)
    kernel, out, expected, valid = kernel_and_hashed_lattice(
        given, np.int32(size), height=height, sigma=sigma
    )
    assert isinstance(kernel, kind)
    valid = np.asarray(valid)
    assert valid.sum() == size[0] * size[1]
    np.testing.assert_allclose(out[valid], expected[valid], atol=2e-5)


def test_the_kernel_may_be_made_for_a_constant_size():
    frame = (20, WIDTH)
    constant = jax.jit(lambda: gaussian_kernel(frame, frame, 1.0))()
    traced = jax.jit(lambda size: gaussian_kernel(frame, size, 1.0))(np.int32(frame))
    np.testing.assert_allclose(constant.weights, traced.weights, atol=1e-6)
    np.testing.assert_array_equal(constant.rows, traced.rows)
