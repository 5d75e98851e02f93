"""What identifies weights."""

import hashlib

import numpy as np

from toco_jax.weights import origin


def test_the_digest_of_a_run_is_that_of_its_sorted_arrays():
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    params = {"head": {"kernel": kernel, "bias": bias}}
    expected = hashlib.sha256()
    for line, array in (
        ("head/bias float32 (3,)\n", bias),
        ("head/kernel float32 (2, 3)\n", kernel),
        ("teacher/w float32 (3,)\n", 2 * bias),
    ):
        expected.update(line.encode() + array.tobytes())
    teacher = {"w": 2 * bias}
    assert origin.digest_of(params, teacher) == expected.hexdigest()
    strided = {"head": {"bias": bias, "kernel": np.asfortranarray(kernel)}}
    assert origin.digest_of(strided, teacher) == expected.hexdigest()
    assert origin.digest_of(params, {"w": 3 * bias}) != expected.hexdigest()
