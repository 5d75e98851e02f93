"""Masks go through the crop of view 1 with its pixels, and lose their borders where told to."""

import numpy as np
import pytest

from toco_jax.data import augment


@pytest.mark.parametrize("as_published", [False, True])
def test_labels_stay_on_their_pixels(monkeypatch, as_published):
    monkeypatch.setattr(augment, "photometric", lambda image, *_, **__: image)
    rng = np.random.default_rng(0)
    # Blocks of one colour each, which is their label: no scale mixes more than their borders.
    mask = np.kron(rng.integers(1, 6, (5, 4)), np.ones((16, 16), int)).astype(np.uint8)
    image = np.repeat(40 * mask[..., None], 3, axis=2)
    flips = 0
    for seed in range(40):
        options = {"crop_size": 48, "as_published": as_published, "scale_range": (0.5, 2.0)}
        views = augment.make_views(image, np.random.default_rng(seed), mask=mask, **options)
        without = augment.make_views(image, np.random.default_rng(seed), **options)
        assert without.keys() == views.keys() - {"mask"}
        for name, view in without.items():
            np.testing.assert_array_equal(view, views[name], err_msg=name)
        found, y0, y1, x0, x1 = views["mask"], *views["valid_box"]
        assert found.dtype == np.uint8 and found.shape == (48, 48)
        inside = found != 255
        if as_published:  # the box is recorded before the last flip
            assert inside.sum() == (y1 - y0) * (x1 - x0)
        else:
            assert inside[y0:y1, x0:x1].all() and inside.sum() == (y1 - y0) * (x1 - x0)
        error = np.abs(views["image"][..., 0].astype(int) - 40 * found)[inside]
        assert (error < 20).mean() > 0.8
        assert (error == 0).mean() > 0.4
        flips += not np.array_equal(views["image"], views["local"])
    assert (flips > 5) == as_published


def test_a_border_is_as_wide_as_told():
    mask = np.zeros((9, 12), np.uint8)
    mask[:, 6:] = 3
    assert augment.without_borders(mask, 0) is mask
    for width in (1, 2):
        found = augment.without_borders(mask, width)
        ignored = (found == 255).all(axis=0)
        assert ignored.tolist() == [6 - width <= x < 6 + width for x in range(12)]
        np.testing.assert_array_equal(found[:, ~ignored], mask[:, ~ignored])
    many = augment.without_borders(mask.astype(np.uint16) * 200, 1)
    assert many.dtype == np.uint16 and set(np.unique(many)) == {0, 600, 65535}
