"""CAM post-processing: published values, hand-made edge cases, boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from channels import channels_last
from reference_weights import reference_state_dict

from toco_jax.method import cams
from toco_jax.models.backbones import BACKBONES
from toco_jax.models.network import ToCo, normalize
from toco_jax.weights.published import params_from_reference

VOC = {"bkg_thre": 0.5, "high_thre": 0.7, "low_thre": 0.25}


@pytest.fixture(scope="module")
def deit_tiny():
    spec = BACKBONES["deit_tiny"]
    params, _ = params_from_reference(
        reference_state_dict(spec.width, spec.depth), backbone="deit_tiny", num_classes=20
    )
    return ToCo(spec, num_classes=20), params


def multi_scale(model, params, image, scales):
    def cam_fn(images):
        return model.apply({"params": params}, images, method="cams")

    return cams.multi_scale_cams(cam_fn, normalize(image), scales=scales)


@pytest.mark.parametrize(
    ("name", "stride"), [("a224", np.s_[:, ::4, ::4]), ("b160x208", np.s_[:, ::2, ::4])]
)
def test_multi_scale_golden(golden, deit_tiny, name, stride):
    data = golden("cam_utils")
    model, params = deit_tiny
    image = channels_last(data[f"{name}/image_u8"])
    cam, aux_cam = jax.jit(lambda p, x: multi_scale(model, p, x, (1.0, 0.5, 1.5)))(params, image)
    for field, value in (("cam", cam), ("cam_aux", aux_cam)):
        np.testing.assert_allclose(
            value[stride],
            channels_last(data[f"{name}/{field}"]),
            rtol=0,
            atol=10 * float(data[f"f32_maxabs/{name}/{field}"]),
            err_msg=field,
        )
    if name == "a224":
        np.testing.assert_allclose(cam[0, :, :, 7], data["a224/cam_full_0_7"], rtol=0, atol=1.4e-4)
        np.testing.assert_allclose(
            aux_cam[1, :, :, 3], data["a224/cam_aux_full_1_3"], rtol=0, atol=6.5e-4
        )


def test_made_up_cams_golden(golden):
    data = golden("cam_utils")
    cam = jnp.asarray(channels_last(data["made/cam"]))
    cls_label = jnp.asarray(data["made/cls_label"])
    box = jnp.asarray(data["made/img_box"].astype(np.int32))
    label = cams.cam_to_label(cam, cls_label, bkg_thre=0.5)
    np.testing.assert_array_equal(label, data["made/label_nobox"])
    inside = cams.inside_box(box, label.shape[1:])
    np.testing.assert_array_equal(jnp.where(inside, label, 255), data["made/label_box"])
    pseudo = cams.cam_to_pseudo_label(cam, cls_label, box, **VOC)
    np.testing.assert_array_equal(pseudo, data["made/label_box_mid"])
    roi_mask = cams.cam_to_roi_mask(cam, cls_label, high_thre=0.7, low_thre=0.25)
    np.testing.assert_array_equal(roi_mask, data["made/roi_mask"])
    affinity = cams.label_to_affinity(pseudo)
    np.testing.assert_array_equal(affinity, data["made/aff_mask"])


def test_numpy_in_numpy_out():
    rng = np.random.default_rng(0)
    cam = rng.random((2, 5, 4, 3), dtype=np.float32)
    cls_label = np.array([[1, 0, 1], [0, 0, 0]], np.float32)
    on_host = cams.cam_to_label(cam, cls_label, bkg_thre=0.5)
    assert isinstance(on_host, np.ndarray)
    assert on_host.dtype == np.int32
    on_device = cams.cam_to_label(jnp.asarray(cam), jnp.asarray(cls_label), bkg_thre=0.5)
    np.testing.assert_array_equal(on_host, on_device)
    assert (on_host[1] == 0).all()
    assert set(np.unique(on_host[0])) <= {0, 1, 3}


def test_labels_by_hand():
    cam = jnp.array([0.1, 0.25, 0.4, 0.6, 0.7, 0.8]).reshape(1, 1, 6, 1)
    cam = jnp.concatenate([cam, jnp.ones_like(cam)], axis=-1)
    cls_label = jnp.array([[1.0, 0.0]])
    whole = jnp.array([[0, 1, 0, 6]])
    evaluation = cams.cam_to_label(cam, cls_label, bkg_thre=0.5)
    assert evaluation.ravel().tolist() == [0, 0, 0, 1, 1, 1]
    training = cams.cam_to_pseudo_label(cam, cls_label, whole, **VOC)
    assert training.ravel().tolist() == [0, 0, 255, 255, 255, 1]
    roi_mask = cams.cam_to_roi_mask(cam, cls_label, high_thre=0.7, low_thre=0.25)
    assert roi_mask.ravel().tolist() == [0, 0, 1, 1, 2, 2]
    boxed = cams.cam_to_pseudo_label(cam, cls_label, jnp.array([[0, 1, 1, 5]]), **VOC)
    assert boxed.ravel().tolist() == [255, 0, 255, 255, 255, 255]


def test_labels_of_the_present_classes_are_those_of_all():
    rng = np.random.default_rng(3)
    cam = jnp.asarray(rng.random((3, 6, 5, 9), dtype=np.float32))
    cls_label = jnp.zeros((3, 9)).at[[0, 0, 1], [8, 2, 4]].set(1)
    box = jnp.array([[0, 6, 1, 5]] * 3)
    class_ids, present = cams.present_classes(cls_label, 3)
    assert class_ids.shape == (3, 3)
    assert class_ids[0, :2].tolist() == [2, 8]
    assert class_ids[1, 0] == 4
    some = cams.of_classes(cam, class_ids)
    np.testing.assert_array_equal(some[0, ..., 1], cam[0, ..., 8])
    assert present.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    label = cams.cam_to_pseudo_label(some, present, box, **VOC)
    expected = cams.cam_to_pseudo_label(cam, cls_label, box, **VOC)
    assert set(np.unique(expected)) == {0, 3, 5, 9, 255}
    np.testing.assert_array_equal(cams.to_class_labels(label, class_ids), expected)
    assert cams.present_classes(cls_label, 20)[0].shape == (3, 9)


def test_affinity_by_hand():
    affinity = cams.label_to_affinity(jnp.array([[[1, 1], [0, 255]]]))
    expected = [[255, 1, 0, 255], [1, 255, 0, 255], [0, 0, 255, 255], [255, 255, 255, 255]]
    assert affinity[0].tolist() == expected


@pytest.mark.parametrize(
    ("pixels", "tokens"),
    [
        ((0, 64, 0, 64), (0, 4, 0, 4)),
        ((7, 41, 8, 40), (0, 3, 0, 2)),
        ((9, 57, 24, 25), (1, 4, 1, 2)),
    ],
)
def test_box_to_tokens_keeps_tokens_with_centre_inside(pixels, tokens):
    box = jnp.array([pixels])
    assert cams.box_to_tokens(box, 16)[0].tolist() == list(tokens)
    centres = np.asarray(cams.inside_box(box, (64, 64)))[0, 8::16, 8::16]
    inside = cams.inside_box(cams.box_to_tokens(box, 16), (4, 4))[0]
    np.testing.assert_array_equal(inside, centres)


def test_mirror_and_scales_of_a_known_cam():
    # The CAM is the image's first two channels, so the mirror must be undone and the maximum kept.
    def cam_fn(images):
        return images[..., :2], -images[..., :2]

    rng = np.random.default_rng(1)
    image = jnp.asarray(rng.random((1, 8, 8, 3), dtype=np.float32))
    cam, aux_cam = cams.multi_scale_cams(cam_fn, image, scales=(1.0,))
    np.testing.assert_allclose(cam, cams.normalize_cam(image[..., :2]), rtol=1e-6)
    np.testing.assert_array_equal(aux_cam, np.zeros_like(aux_cam))
    twice, _ = cams.multi_scale_cams(cam_fn, image, scales=(1.0,), unscaled=cam_fn(image))
    np.testing.assert_array_equal(cam, twice)
    # What the caller has is taken as it is, and at scale 1 alone.
    unscaled = (10 * image[..., :2], image[..., :2])
    given = cams.multi_scale_cams(cam_fn, image, scales=(1.0,), unscaled=unscaled)
    for value, maps in zip(given, unscaled, strict=True):
        np.testing.assert_allclose(value, cams.normalize_cam(maps), rtol=1e-5)
    half = [
        cams.multi_scale_cams(cam_fn, image, scales=(0.5,), unscaled=chosen)[0]
        for chosen in (None, unscaled)
    ]
    np.testing.assert_array_equal(*half)
    assert float(cam.min()) >= 0
    assert float(cam.max()) < 1
