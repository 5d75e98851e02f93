"""Local crops: where they are drawn, what is cut, which are negative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.method import crops


def sample(roi_mask, num, size, seed=0):
    return np.asarray(
        crops.sample_crop_origins(jax.random.key(seed), jnp.asarray(roi_mask), num=num, size=size)
    )


def test_origins_are_distinct_inside_and_on_candidates():
    rng = np.random.default_rng(0)
    roi_mask = rng.integers(0, 3, (3, 20, 24)).astype(np.int32)
    origins = sample(roi_mask, num=8, size=6)
    assert origins.shape == (3, 8, 2)
    for image, corners in enumerate(origins):
        assert len(set(map(tuple, corners))) == 8
        for y, x in corners:
            assert 0 <= y < 20 - 6
            assert 0 <= x < 24 - 6
            assert roi_mask[image, y + 3, x + 3] <= 1


def test_draws_are_uniform_over_candidates():
    roi_mask = np.full((1, 10, 10), 2, np.int32)
    roi_mask[0, 2:6, 2:4] = 1
    roi_mask[0, 2:6, 4:6] = 0
    many = np.repeat(roi_mask, 4000, axis=0)
    origins = sample(many, num=4, size=4)
    counts = np.zeros((6, 6))
    np.add.at(counts, tuple(origins.reshape(-1, 2).T), 1)
    expected = np.zeros((6, 6))
    expected[:4, :4] = 1000.0
    # Five standard deviations of a count with success rate 1 / 4 in 4,000 images.
    assert np.abs(counts - expected).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    assert counts[expected == 0].sum() == 0


def test_too_few_candidates_fall_back_to_all_positions():
    roi_mask = np.full((1, 10, 10), 2, np.int32)
    roi_mask[0, 3, 3] = 1
    origins = np.concatenate([sample(roi_mask, num=4, size=4, seed=s) for s in range(60)])
    visited = set(map(tuple, origins.reshape(-1, 2)))
    assert len(visited) == 36
    one = np.concatenate([sample(roi_mask, num=1, size=4, seed=s) for s in range(5)])
    assert set(map(tuple, one.reshape(-1, 2))) == {(1, 1)}


def test_each_image_draws_with_its_own_key():
    roi_mask = jnp.zeros((4, 12, 12), jnp.int32)
    keys = jax.random.split(jax.random.key(3), 4)
    together = crops.sample_crop_origins(keys, roi_mask, num=3, size=4)
    for i in range(4):
        alone = crops.sample_crop_origins(keys[i : i + 1], roi_mask[:1], num=3, size=4)
        np.testing.assert_array_equal(alone[0], together[i])
    assert len({tuple(np.ravel(origins)) for origins in together}) == 4


def test_no_room_is_an_error():
    with pytest.raises(ValueError, match="cannot place 8 crops of 8 px in a 8 x 9"):
        sample(np.zeros((1, 8, 9), np.int32), num=8, size=8)


def test_crops_and_flags_by_hand():
    image = jnp.arange(2 * 6 * 6 * 1, dtype=jnp.uint8).reshape(2, 6, 6, 1)
    roi_mask = jnp.zeros((2, 6, 6), jnp.int32)
    roi_mask = roi_mask.at[0, 0, 0].set(1)  # 1 of 4 pixels: mean 0.25, foreground
    roi_mask = roi_mask.at[1, 4:, 4:].set(2)
    origins = jnp.array([[[0, 0], [3, 2]], [[4, 4], [0, 3]]])
    cut, positive = crops.crop_and_flag(image, roi_mask, origins, size=2)
    np.testing.assert_array_equal(cut[0, 1], image[0, 3:5, 2:4])
    np.testing.assert_array_equal(cut[1, 0], image[1, 4:6, 4:6])
    assert positive.tolist() == [[True, False], [True, False]]


def test_flag_threshold_is_a_fifth():
    roi_mask = jnp.zeros((1, 5, 5), jnp.int32)
    roi_mask = roi_mask.at[0, 0].set(1)  # exactly 0.2 in the mean: still background
    _, at = crops.crop_and_flag(roi_mask[..., None], roi_mask, jnp.zeros((1, 1, 2), int), size=5)
    roi_mask = roi_mask.at[0, 1, 0].set(1)
    _, above = crops.crop_and_flag(roi_mask[..., None], roi_mask, jnp.zeros((1, 1, 2), int), size=5)
    assert not at[0, 0]
    assert above[0, 0]


def test_golden_flags(golden):
    data = golden("train_step")
    roi_mask = jnp.asarray(data["roi_mask"].astype(np.int32))
    origins = jnp.asarray(data["crop_index"].astype(np.int32))
    _, positive = crops.crop_and_flag(roi_mask[..., None], roi_mask, origins, size=96)
    np.testing.assert_array_equal(positive, data["flags"][:, 2:])
