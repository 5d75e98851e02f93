"""Pixel-adaptive refinement against published values and a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import channels_last

from toco_jax.method import cams, par
from toco_jax.models.network import IMAGE_MEAN, IMAGE_STD


def test_golden(golden):
    data = golden("par")
    image = jnp.asarray(channels_last(data["image_u8"]).astype(np.float32) / 255)
    np.testing.assert_allclose(par.neighbour_distances(), data["pos"], rtol=0, atol=1.5e-5)
    ten, masks = jax.jit(par.refine), channels_last(data["masks"])
    cases = {
        "out": ten(image, masks),
        "out_from_half": ten(image, channels_last(data["masks_half"])),
        "out_iter1": par.refine(image, jnp.asarray(masks), num_iterations=1),
    }
    for field, value in cases.items():
        np.testing.assert_allclose(
            value,
            channels_last(data[field]),
            rtol=0,
            atol=10 * float(data[f"f32_maxabs/{field}"]),
            err_msg=field,
        )


def test_pseudo_label_golden(golden):
    data = golden("par")
    cls_label = data["refine/cls_label"]
    cam = np.zeros((*data["refine/label"].shape, cls_label.shape[1]), np.float32)
    for (image, label), present in zip(
        data["refine/cams_present_index"], data["refine/cams_present"], strict=True
    ):
        cam[image, :, :, label] = present
    refine = jax.jit(
        lambda image, cam, cls_label, box: refine_label(image, cam, cls_label, box, num_present=7)
    )
    image = channels_last(data["refine/denorm_u8"]).astype(np.float32) / 255
    label = refine(image, cam, cls_label, data["refine/img_box"].astype(np.int32))
    different = np.mean(np.asarray(label) != data["refine/label"])
    assert different <= 1e-4


def slow_refine(image, masks, iterations):
    """One pixel at a time, straight from the definition."""
    height, width, _ = image.shape
    distance = np.array([np.hypot(*offset) for offset in par.OFFSETS])
    closeness = np.exp(-((distance / distance.std(ddof=1) / 0.3) ** 2))
    closeness /= closeness.sum()
    for _ in range(iterations):
        new = np.zeros_like(masks)
        for y in range(height):
            for x in range(width):
                at = [
                    (min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1))
                    for dy, dx in par.OFFSETS
                ]
                near = np.array([image[p] for p in at])
                z = np.abs(near - image[y, x]) / (near.std(axis=0, ddof=1) + 1e-8) / 0.3
                logit = -(z**2).mean(axis=1)
                weight = np.exp(logit - logit.max())
                weight = weight / weight.sum() + 0.01 * closeness
                new[y, x] = weight @ np.array([masks[p] for p in at])
        masks = new
    return masks


@pytest.mark.parametrize("unrolled", [False, True])
def test_against_plain_loop(unrolled):
    rng = np.random.default_rng(0)
    image, masks = rng.random((5, 7, 3)), rng.random((5, 7, 2))
    image[2:4, 2:5] = 0.5
    expected = slow_refine(image, masks, iterations=2)
    refine = jax.jit(lambda *maps: par.refine(*maps, num_iterations=2, unrolled=unrolled))
    value = refine(jnp.float32(image)[None], jnp.float32(masks)[None])
    np.testing.assert_allclose(value[0], expected, rtol=0, atol=3e-6)


@pytest.fixture(scope="module")
def two_halves():
    """A picture of a bright left half, its CAM on the left for class 2 of 4."""
    image = np.zeros((1, 48, 48, 3), np.float32)
    image[:, :, :24] = 0.9
    cam = np.zeros((1, 48, 48, 4), np.float32)
    cam[:, :, :24, 2] = 0.95
    cam[:, :, :, 0] = 1.0
    return jnp.asarray(image), jnp.asarray(cam), jnp.array([[0.0, 0.0, 1.0, 0.0]])


def refine_label(image, cam, cls_label, box, num_present=2):
    class_ids, present = cams.present_classes(cls_label, num_present)
    thresholds = {"high_thre": 0.7, "low_thre": 0.25}
    wanted = cams.of_classes(cam, class_ids)
    label = par.refine_pseudo_label(image, wanted, present, box, **thresholds)
    return cams.to_class_labels(label, class_ids)


def test_pseudo_label_follows_the_cam_and_the_box(two_halves):
    image, cam, cls_label = two_halves
    label = refine_label(image, cam, cls_label, jnp.array([[4, 48, 0, 40]]))
    assert (label[0, :4] == 255).all()
    assert (label[0, :, 40:] == 255).all()
    assert (label[0, 8:, 2:20] == 3).all()
    assert (label[0, 8:, 28:38] == 0).all()
    assert not (label == 1).any()


def test_image_without_classes_is_background(two_halves):
    image, cam, cls_label = two_halves
    label = refine_label(image, cam, 0 * cls_label, jnp.array([[0, 48, 0, 48]]))
    assert (label == 0).all()


def test_more_room_for_classes_changes_nothing(two_halves):
    image, cam, cls_label = two_halves
    box = jnp.array([[0, 48, 0, 48]])
    np.testing.assert_array_equal(
        refine_label(image, cam, cls_label, box, num_present=1),
        refine_label(image, cam, cls_label, box, num_present=4),
    )


def test_only_the_classes_that_an_image_may_hold_are_refined(monkeypatch):
    refined = []

    def refine(image, masks, *, unrolled):
        refined.append((image.shape, masks.shape))
        return masks

    monkeypatch.setattr(par, "refine", refine)
    cam = jnp.asarray(np.random.default_rng(0).random((1, 32, 48, 9), np.float32))
    cls_label = jnp.zeros((1, 9)).at[0, jnp.array([1, 4])].set(1)
    box = jnp.array([[0, 32, 0, 48]])
    label = refine_label(jnp.zeros((1, 32, 48, 3)), cam, cls_label, box, num_present=3)
    # Three classes and the background, twice.
    assert refined == [((1, 16, 24, 3), (1, 16, 24, 8))]
    assert label.shape == (1, 32, 48) and set(np.unique(label)) == {2, 5, 255}


def test_unrolled_loops_over_iterations_alone():
    def loops(**options):
        image, masks = np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 4, 4, 2), np.float32)
        traced = jax.make_jaxpr(lambda *maps: par.refine(*maps, **options))(image, masks)
        return sum(eqn.primitive.name in ("scan", "while") for eqn in traced.eqns)

    assert loops() == loops(unrolled=False) > 1
    assert loops(unrolled=True) == 1


def test_published_image_is_truncated_after_a_detour():
    table, wrong = par.published_image_table(), 0
    for channel, (mean, std) in enumerate(zip(IMAGE_MEAN, IMAGE_STD, strict=True)):
        for level in range(256):
            exact = ((level / 255 - mean) / std) * (255 * std) + 255 * mean
            assert table[level, channel] in (np.floor(exact + 1e-4), np.floor(exact - 1e-4))
            wrong += table[level, channel] == level - 1
    assert 0 < wrong < 3 * 64
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), np.uint8)
    expected = np.empty(image.shape, np.float32)
    for place in np.ndindex(image.shape):
        expected[place] = table[image[place], place[-1]] / np.float32(255)
    published = par.unit_image(jnp.asarray(image), truncated=True)
    np.testing.assert_allclose(published, expected, rtol=1e-6)
    whole = par.unit_image(jnp.asarray(image), truncated=False)
    np.testing.assert_allclose(whole, image / np.float32(255), rtol=1e-6)
