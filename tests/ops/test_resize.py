"""Resizing: sampling rules by hand, against torch where it is installed, and by properties."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.resize import Method, interpolation_matrix, resize

METHODS = get_args(Method)


def test_bilinear_by_hand():
    doubled = interpolation_matrix(2, 4, "bilinear")
    np.testing.assert_allclose(doubled, [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    halved = interpolation_matrix(4, 2, "bilinear")
    np.testing.assert_allclose(halved, [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])


def test_corners_by_hand():
    np.testing.assert_allclose(
        interpolation_matrix(2, 3, "bilinear_corners"), [[1, 0], [0.5, 0.5], [0, 1]]
    )


def test_nearest_takes_the_floor():
    image = jnp.arange(5.0).reshape(1, 5, 1, 1)
    assert resize(image, (3, 1), "nearest").ravel().tolist() == [0, 1, 3]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size_in", "size_out"), [(5, 11), (11, 5), (1, 4), (4, 1), (7, 7)])
def test_rows_sum_to_one(method, size_in, size_out):
    matrix = interpolation_matrix(size_in, size_out, method)
    assert matrix.shape == (size_out, size_in)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(9, 4), (3, 17), (12, 10), (3, 5), (12, 20)])
def test_against_torch(method, size):
    torch = pytest.importorskip("torch")
    image = np.random.default_rng(0).random((2, 6, 10, 3), dtype=np.float32)
    mode, _, variant = method.partition("_")
    corners = {"bilinear_corners": True, "nearest": None}.get(method, False)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(0, 3, 1, 2),
        size=size,
        mode=mode,
        align_corners=corners,
        antialias=variant == "antialiased",
    )
    found = resize(jnp.asarray(image), size, method)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=2e-6)


def test_same_size_is_untouched():
    image = jnp.ones((1, 4, 4, 1), jnp.bfloat16)
    assert resize(image, (4, 4)) is image
    assert resize(image, (2, 2)).dtype == jnp.bfloat16


def test_bad_arguments():
    with pytest.raises(ValueError, match="cannot resize 0 to 4"):
        interpolation_matrix(0, 4)
    with pytest.raises(ValueError, match="unknown resize method 'lanczos'"):
        interpolation_matrix(2, 4, "lanczos")
