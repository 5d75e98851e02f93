"""Equal parts, one after the other: the same results as all at once."""

import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.ops.parts import largest_divisor, map_parts, mean_over_parts


@pytest.mark.parametrize(
    ("number", "limit", "divisor"), [(12, 3, 3), (12, 5, 4), (12, 99, 12), (7, 6, 1), (4, 0, 1)]
)
def test_largest_divisor(number, limit, divisor):
    assert largest_divisor(number, limit) == divisor


def test_map_parts():
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(6, 2), "y": np.arange(6)}
    sizes = set()

    def function(part):
        sizes.add(len(part["y"]))
        return part["x"].sum(1), {"twice": 2 * part["y"]}

    sums, rest = map_parts(function, arrays, 3)
    np.testing.assert_array_equal(sums, [1, 5, 9, 13, 17, 21])
    np.testing.assert_array_equal(rest["twice"], [0, 2, 4, 6, 8, 10])
    assert sizes == {3}


@pytest.mark.parametrize("num", [1, 2, 3])
def test_mean_over_parts(num):
    numbers = np.arange(12, dtype=np.float32).reshape(6, 2)
    mean = mean_over_parts(lambda part: {"m": part["x"].mean(0)}, {"x": jnp.array(numbers)}, num)
    np.testing.assert_allclose(mean["m"], [5, 6])


def test_a_mean_over_unequal_parts_is_refused():
    with pytest.raises(TypeError, match="reshape"):
        mean_over_parts(lambda part: part.sum(), jnp.arange(6.0), 4)
