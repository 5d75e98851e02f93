import cv2
import numpy as np
import PIL.Image
import pytest

from toco_jax.data import augment, pillow_views


@pytest.mark.parametrize("side", [60, 200])
def test_equal_generators_give_nearly_equal_views(side):
    """The yardstick does the same work: same draws, same places, levels apart by rounding."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    photo = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
    differences = []
    for seed in range(25):
        one, other = (np.random.default_rng(seed) for _ in range(2))
        ours = augment.make_views(photo, one, crop_size=side, as_published=False)
        theirs = pillow_views.make_views(PIL.Image.fromarray(photo), other, crop_size=side)
        assert one.bit_generator.state == other.bit_generator.state
        np.testing.assert_array_equal(ours["valid_box"], theirs["valid_box"])
        for name in ("image", "view2", "local"):
            assert theirs[name].shape == ours[name].shape == (side, side, 3)
            differences.append(np.abs(ours[name].astype(int) - theirs[name]).mean())
    # Saturated colours part by a level or two in hue; other draws would part by tens.
    assert np.median(differences) < 2 and max(differences) < 4


def test_decoding_and_normalising():
    content = cv2.imencode(".png", np.full((3, 4, 3), (0, 128, 255), np.uint8))[1].tobytes()
    image = np.asarray(pillow_views.decode(content))
    assert image[0, 0].tolist() == [255, 128, 0]
    values = pillow_views.normalised(image)
    assert values.shape == (3, 3, 4) and values.dtype == np.float32
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(values[:, 0, 0], expected, rtol=1e-5)
