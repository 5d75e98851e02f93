"""How rates, medians and peaks are measured and shown, and what images are measured on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.benchmark import (
    measure,
    photos,
)


def test_matrix_rate(monkeypatch):
    monkeypatch.setattr(measure, "medians", lambda works, *, repeats: {"product": 0.5})
    assert measure.matrix_rate(jnp.float32, size=100) == 2 * 100**3 / 0.5


def test_peak_bytes_hold_arguments_and_result():
    compiled = jax.jit(lambda x: x + 1).lower(jnp.ones(1000, jnp.float32)).compile()
    peak, source = measure.peak_bytes(compiled)
    assert source == "planned" and 8000 <= peak < 9000


def test_medians_takes_turns_after_a_warm_up():
    calls, clock = [], iter((5.0, 1.0, 7.0, 2.0, 6.0, 9.0))
    works = {name: lambda name=name: calls.append(name) for name in "ab"}

    def timed(work):
        work()
        return next(clock)

    assert measure.medians(works, repeats=3, measure=timed) == {"a": 6.0, "b": 2.0}
    assert "".join(calls) == "ab" + "ababab"


def test_medians_of_a_measure_of_two_numbers():
    clock = iter([(1.0, 30.0), (3.0, 10.0), (2.0, 20.0)])
    found = measure.medians({"a": lambda: None}, repeats=3, measure=lambda work: next(clock))
    assert found == {"a": [2.0, 20.0]}


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (0.01234, "0.0123"), (4321.5, "4,322"), (2.5e9, "2.500e+09")]
)
def test_cells(value, text):
    assert measure.shown(value) == text


def test_photos_are_like_photographs():
    import cv2

    image = photos.photo(0, 60, 80)
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert np.array_equal(image, photos.photo(0, 60, 80))
    assert not np.array_equal(image, photos.photo(1, 60, 80))
    for content in photos.jpegs(2):
        assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape == (375, 500, 3)
        assert 50_000 < len(content) < 200_000


def test_an_image_file_in_place_of_made_up_ones(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photos.jpegs(1)[0])
    images = photos.sized(path, 30, 40, count=2)
    assert images.shape == (2, 30, 40, 3) and np.array_equal(*images)
    assert not np.array_equal(images[0], photos.sized(None, 30, 40)[0])
