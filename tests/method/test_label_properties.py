"""CAMs, labels, crops and PAR at ordinary and extreme values: in range, within their masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from extreme_values import (
    BF16,
    arrays,
    assert_finite,
    boxes,
    class_labels,
    label_maps,
    permuted,
    seeds,
)
from hypothesis import given
from hypothesis import strategies as st

from toco_jax.method import cams, crops, par

MAPS = pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 3, 5, 4), np.float32), ((1, 1, 1, 4), BF16)]
)
KEPT = 2


def cam_fn(images):
    return images[..., :2] - images[..., 1:], images[..., 1:]


@jax.jit
def cams_of(images, class_ids):
    options = {"scales": (1.0, 0.5), "unscaled": cam_fn(images)}
    full = cams.multi_scale_cams(cam_fn, images, scales=(1.0, 0.5))
    kept = cams.multi_scale_cams(cam_fn, images, class_ids=class_ids, **options)
    return full, kept, tuple(cams.of_classes(cam, class_ids) for cam in full)


@pytest.mark.parametrize(("shape", "dtype"), [((2, 5, 7, 3), np.float32), ((1, 2, 2, 3), BF16)])
@given(data=st.data())
def test_multi_scale_cams(shape, dtype, data):
    images = data.draw(arrays(shape, low=-1e28, high=1e28, dtype=dtype))
    class_ids = data.draw(seeds()).integers(0, 2, (shape[0], 1)).astype(np.int32)
    full, kept, expected = cams_of(images, class_ids)
    assert_finite(full)
    for cam in full:
        assert cam.dtype == np.float32 and (cam >= 0).all() and (cam <= 1).all()
    for cam, of_full in zip(kept, expected, strict=True):
        np.testing.assert_allclose(cam, of_full, atol=1e-5)
    again, _, _ = cams_of(images[::-1], class_ids[::-1])
    for cam, other in zip(full, again, strict=True):
        np.testing.assert_allclose(other[::-1], cam, atol=1e-5)


@jax.jit
def labels_of(cam, cls_label, box):
    normal = cams.normalize_cam(cam)
    thresholds = {"high_thre": 0.7, "low_thre": 0.25}
    class_ids, present = cams.present_classes(cls_label, KEPT)
    label = cams.cam_to_pseudo_label(normal, cls_label, box, bkg_thre=0.5, **thresholds)
    few = cams.of_classes(normal, class_ids)
    of_few = cams.cam_to_pseudo_label(few, present, box, bkg_thre=0.5, **thresholds)
    return {
        "normal": normal,
        "class_ids": class_ids,
        "present": present,
        "eval": cams.cam_to_label(normal, cls_label, bkg_thre=0.5),
        "label": label,
        "renamed": cams.to_class_labels(of_few, class_ids),
        "roi": cams.cam_to_roi_mask(normal, cls_label, **thresholds),
        "affinity": cams.label_to_affinity(label),
        "inside": cams.inside_box(box, label.shape[1:]),
    }


def allowed(cls_label):
    """Labels that each image may have: background and its classes."""
    return [{0, *(1 + np.flatnonzero(np.float32(row)))} for row in cls_label]


@MAPS
@given(data=st.data())
def test_labels(shape, dtype, data):
    cam = data.draw(arrays(shape, dtype=dtype))
    cls_label = data.draw(class_labels((shape[0], shape[3])))
    box = data.draw(boxes(shape[0], shape[1:3]))
    out = {name: np.asarray(x) for name, x in labels_of(cam, cls_label, box).items()}
    normal = np.float32(out["normal"])
    assert_finite(normal)
    assert out["normal"].dtype == dtype and normal.min() >= 0 and normal.max() <= 1
    inside = out["inside"]
    for i, may in enumerate(allowed(cls_label)):
        assert set(out["eval"][i].flat) <= may
        assert set(out["label"][i].flat) <= may | {255}
        y0, y1, x0, x1 = box[i]
        expected = np.zeros(shape[1:3], bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(inside[i], expected)
    assert (out["label"][~inside] == 255).all()
    assert set(out["roi"].flat) <= {0, 1, 2}
    assert all(out[name].dtype == np.int32 for name in ("eval", "label", "roi", "affinity"))
    # Regions and labels come from the same thresholds.
    np.testing.assert_array_equal(out["label"][inside] == 0, out["roi"][inside] == 0)
    # If no image shows more than are kept, nothing is lost.
    fits = cls_label.sum(1) <= KEPT
    np.testing.assert_array_equal(out["renamed"][fits], out["label"][fits])
    for i in np.flatnonzero(fits):
        chosen = out["class_ids"][i][out["present"][i] > 0]
        np.testing.assert_array_equal(chosen, np.flatnonzero(cls_label[i]))
    relation, flat = out["affinity"], out["label"].reshape(shape[0], -1)
    np.testing.assert_array_equal(relation, relation.swapaxes(1, 2))
    assert set(relation.flat) <= {0, 1, 255}
    assert (relation[:, range(flat.shape[1]), range(flat.shape[1])] == 255).all()
    assert (relation[flat == 255] == 255).all()
    on_host = cams.cam_to_label(normal.astype(dtype), cls_label, bkg_thre=0.5)
    np.testing.assert_array_equal(on_host, out["eval"])


@given(patch=st.integers(1, 20), starts=st.lists(st.integers(0, 60), min_size=4, max_size=4))
def test_boxes_of_tokens(patch, starts):
    y0, x0, height, width = starts
    box = np.array([[y0, y0 + height, x0, x0 + width]], np.int32)
    y0, y1, x0, x1 = np.asarray(cams.box_to_tokens(jnp.asarray(box), patch))[0]
    centres = (np.arange(130) + 0.5) * patch
    for first, end, (low, high) in ((y0, y1, box[0, :2]), (x0, x1, box[0, 2:])):
        inside = np.flatnonzero((centres >= low) & (centres < high))
        np.testing.assert_array_equal(inside, np.arange(first, end))


@functools.partial(jax.jit, static_argnames=("num", "size"))
def cropped(seed, roi_mask, images, num, size):
    keys = jax.random.split(jax.random.key(seed), len(roi_mask))
    origins = crops.sample_crop_origins(keys, roi_mask, num=num, size=size)
    alone = crops.sample_crop_origins(keys[:1], roi_mask[:1], num=num, size=size)
    return origins, alone, *crops.crop_and_flag(images, roi_mask, origins, size=size)


@pytest.mark.parametrize(
    ("shape", "num", "size", "dtype"),
    [((2, 9, 8), 3, 5, np.float32), ((1, 2, 2), 1, 1, np.uint8), ((2, 6, 7), 6, 4, BF16)],
)
@given(data=st.data())
def test_crops(shape, num, size, dtype, data):
    roi_mask = np.minimum(data.draw(label_maps(shape, 2)), 2)
    images = data.draw(arrays((*shape, 2), low=0, high=255)).astype(dtype)
    seed = data.draw(st.integers(0, 2**31 - 1))
    found = (np.asarray(x) for x in cropped(seed, roi_mask, images, num, size))
    origins, alone, cut, positive = found
    np.testing.assert_array_equal(alone[0], origins[0])
    height, width = shape[1] - size, shape[2] - size
    half = size // 2
    may = roi_mask[:, half : half + height, half : half + width] <= 1
    for i, corners in enumerate(origins):
        assert len({tuple(corner) for corner in corners}) == num
        for k, (y, x) in enumerate(corners):
            assert 0 <= y < height and 0 <= x < width
            assert may[i, y, x] or may[i].sum() < num
            np.testing.assert_array_equal(cut[i, k], images[i, y : y + size, x : x + size])
            # More than 0.2 in the mean, in whole numbers.
            total = roi_mask[i, y : y + size, x : x + size].sum()
            assert positive[i, k] == (5 * total > size**2)


# PAR


@functools.partial(jax.jit, static_argnames="iterations")
def refined(image, masks, iterations):
    weights = par.affinity(image, unrolled=False)
    smooth, pull = jax.vjp(lambda masks: par.refine(image, masks, num_iterations=iterations), masks)
    return weights, smooth, pull(jnp.ones_like(smooth))[0]


@pytest.mark.parametrize(
    ("size", "of_masks", "dtype"), [((5, 7), (3, 4), np.float32), ((1, 1), (1, 1), BF16)]
)
@given(data=st.data())
def test_par(size, of_masks, dtype, data):
    image = data.draw(arrays((2, *size, 3), low=0, high=1, dtype=dtype))
    masks = data.draw(arrays((2, *of_masks, 3), low=-1e28, high=1e28, dtype=dtype))
    weights, smooth, grad = refined(image, masks, 3)
    assert_finite((weights, smooth, grad))
    assert smooth.dtype == np.float32 and grad.dtype == dtype
    assert (weights >= 0).all()
    # A softmax over the neighbours, and a hundredth for their distances.
    np.testing.assert_allclose(weights.sum(0), 1.01, rtol=1e-4)
    # So the range grows by a hundredth with each iteration, and by no more.
    largest = 1.01**3 * np.abs(np.float32(masks)).max((1, 2))
    assert (np.abs(smooth).max((1, 2)) <= largest * 1.001 + 1e-30).all()
    order, back = permuted(data.draw(seeds()), 3)
    _, again, _ = refined(image[::-1], masks[::-1][..., order], 3)
    np.testing.assert_allclose(again[::-1][..., back], smooth, rtol=1e-3, atol=1e-5 * largest.max())


pseudo_label = jax.jit(functools.partial(par.refine_pseudo_label, high_thre=0.7, low_thre=0.25))
inside_box = jax.jit(cams.inside_box, static_argnums=1)
unit_image = jax.jit(par.unit_image, static_argnames="truncated")


@pytest.mark.parametrize(("size", "dtype"), [((5, 7), np.float32), ((2, 2), BF16)])
@given(data=st.data())
def test_refined_labels(size, dtype, data):
    image = data.draw(arrays((2, *size, 3), low=0, high=1, dtype=dtype))
    cam = data.draw(arrays((2, *size, 3), low=0, high=1, dtype=dtype))
    present = data.draw(class_labels((2, 3)))
    box = data.draw(boxes(2, size))
    label = np.asarray(pseudo_label(image, cam, present, box))
    assert label.dtype == np.int32
    inside = np.asarray(inside_box(box, size))
    assert (label[~inside] == 255).all()
    for i, may in enumerate(allowed(present)):
        assert set(label[i].flat) <= may | {255}
        if may == {0}:
            assert (label[i][inside[i]] == 0).all()


@given(image=arrays((1, 2, 2, 3), low=0, high=255))
def test_unit_images(image):
    image = image.astype(np.uint8)
    exact, truncated = (unit_image(image, truncated=truncated) for truncated in (False, True))
    np.testing.assert_allclose(exact, image / np.float32(255))
    darker = np.rint(255 * (exact - truncated))
    assert np.isin(darker, (0, 1)).all()
