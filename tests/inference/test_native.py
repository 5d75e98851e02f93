"""Padded passes against unpadded ones, the published multi-scale logits, batching by frame."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from reference_weights import reference_state_dict

from toco_jax.inference import native
from toco_jax.inference.buckets import Buckets
from toco_jax.inference.native import SEG_SCALES, NativeNetwork, resize_map
from toco_jax.inference.stream import stream
from toco_jax.models.backbones import BACKBONES, Backbone
from toco_jax.models.network import ToCo, normalize
from toco_jax.weights.published import params_from_reference

PATCH = 4
CROP = 48  # frames of 40 x 54, 54 x 40 and 54 x 54 pixels
ONE_SCALE = {"crop_size": CROP, "cam_scales": (1.0,), "seg_scales": (1.0,)}
# On, one pixel off and far off every border, a patch and less, very long ones; many of equal whole
# patches, since the unpadded network is compiled once for each number of those.
SIZES = [
    *((40, 54), (39, 54), (40, 53), (41, 54), (40, 55), (54, 40), (53, 40), (54, 39), (55, 40)),
    *((54, 54), (53, 53), (54, 41), (41, 41), (40, 40), (43, 43), (36, 52), (36, 55)),
    *((4, 4), (5, 7), (1, 1), (3, 54), (54, 2), (17, 31), (31, 17)),
    *((9, 150), (150, 9), (65, 33)),
]


@pytest.fixture(scope="module")
def tiny():
    model = ToCo(Backbone(24, 1, 2, PATCH), 3, aux_layer=-1, grid=6, decoder_width=8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, PATCH, PATCH, 3)))["params"]
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


def picture(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def run(network, images):
    """Maps of the images, in their order."""
    with ThreadPoolExecutor(2) as pool:
        jobs = range(len(images))
        read = lambda i: {"i": i, "image": images[i]}  # noqa: E731
        found = {record["i"]: maps for record, maps in stream(network, jobs, read, pool)}
    return [found[i] for i in jobs]


def test_padded_equals_unpadded(tiny, monkeypatch):
    (model, params), traced = tiny, []

    def recorded(images):
        traced.append((images.shape[1] // PATCH, images.shape[2] // PATCH))
        return normalize(images)

    monkeypatch.setattr(native, "normalize", recorded)
    network = NativeNetwork(model, params, batch_size=4, devices=jax.devices()[:1], **ONE_SCALE)
    images = [picture(size, seed) for seed, size in enumerate(SIZES)]
    # A program a size: most of the test's time would go into optimising them.
    quick = {"xla_backend_optimization_level": 0}
    alone = jax.jit(lambda p, x: model.apply({"params": p}, normalize(x)), compiler_options=quick)
    for image, maps in zip(images, run(network, images), strict=True):
        height, width = image.shape[:2]
        if min(height, width) < PATCH:
            continue  # enlarged to a patch, see below
        # The network reads whole patches, of which the mirror image's are others.
        whole = np.s_[: height // PATCH * PATCH, : width // PATCH * PATCH]
        pair = np.stack([image[whole], image[:, ::-1][whole]])
        out = jax.device_get(alone(params, pair))
        logits = out["seg_logits"]
        np.testing.assert_allclose(maps.seg[0], logits[0] + logits[1, :, ::-1], atol=1e-4)
        np.testing.assert_allclose(maps.cls_logits, out["cls_logits"][0], atol=1e-4)
        for name in ("cam", "aux_cam"):
            straight, mirrored = getattr(maps, name)[0]
            np.testing.assert_allclose(straight, out[name][0], atol=1e-4)
            np.testing.assert_allclose(mirrored, out[name][1, :, ::-1], atol=1e-4)
    # Each shape is compiled once.
    assert sorted(traced) == sorted(network.shapes)


def test_images_below_a_patch_are_enlarged(tiny):
    model, params = tiny
    network = NativeNetwork(model, params, **ONE_SCALE)
    dot, filled = run(network, [np.full((1, 1, 3), 90, np.uint8), np.full((4, 4, 3), 90, np.uint8)])
    np.testing.assert_array_equal(dot.seg[0], filled.seg[0])
    assert dot.seg_logits().shape == (1, 1, 4)
    assert np.isfinite(dot.cam_of("cam", np.array([0, 2]))).all()
    assert filled.cam_of("cam", np.array([], int)).shape == (4, 4, 0)


def test_batches_do_not_mix_images(tiny):
    model, params = tiny
    images = [picture(size, seed) for seed, size in enumerate([(30, 50), (50, 30)] * 5)]
    network = NativeNetwork(model, params, batch_size=4, **ONE_SCALE)
    together = run(network, images)
    for image, maps in zip(images, together, strict=True):
        (single,) = run(network, [image])
        np.testing.assert_allclose(maps.seg_logits(), single.seg_logits(), atol=1e-5)


def test_maps_of_more_classes_than_opencv_has_channels():
    values = np.random.default_rng(0).standard_normal((3, 4, 300), np.float32)
    whole = resize_map(values, (7, 9))
    assert whole.shape == (7, 9, 300)
    for channel in (0, 127, 128, 255, 256, 299):
        (alone,) = np.moveaxis(resize_map(values[..., [channel]], (7, 9)), -1, 0)
        np.testing.assert_allclose(whole[..., channel], alone, rtol=0, atol=1e-6)


def test_nine_shapes_for_all_photos():
    buckets = Buckets(448, 16, (0.5, 1.0, 1.25, 1.5))
    sizes = [(h, w) for h in range(1, 501, 7) for w in range(1, 501, 7)] + [(500, 500)]
    frames = {size: buckets.frame(size) for size in sizes}
    assert set(frames.values()) == {(375, 500), (500, 375), (500, 500)}
    shapes = set()
    for scale in (0.5, 1.0, 1.25, 1.5):
        for size, frame in frames.items():
            shape, grid = buckets.shape(frame, scale), buckets.grid(size, scale)
            assert grid[0] <= shape[0] and grid[1] <= shape[1]
            shapes.add(shape)
    assert len(shapes) <= 9
    # The common sizes waste little.
    assert buckets.shape((375, 500), 1.0) == buckets.grid((375, 500), 1.0) == (23, 31)
    assert buckets.shape((500, 375), 1.5) == buckets.grid((500, 375), 1.5) == (46, 35)


@pytest.mark.parametrize("size", [(501, 20), (20, 501), (100, 1500), (3000, 40)])
def test_odd_images_have_a_frame_of_their_own(size):
    buckets = Buckets(448, 16, (1.0, 1.5))
    frame = buckets.frame(size)
    assert frame[0] - size[0] in range(128) and frame[1] - size[1] in range(128)
    for scale in (1.0, 1.5):
        shape, grid = buckets.shape(frame, scale), buckets.grid(size, scale)
        assert grid[0] <= shape[0] and grid[1] <= shape[1]


def test_multi_scale_logits_as_published(golden):
    data = golden("cam_utils")
    spec = BACKBONES["deit_tiny"]
    state_dict = reference_state_dict(spec.width, spec.depth)
    params, _ = params_from_reference(state_dict, backbone="deit_tiny", num_classes=20)
    network = NativeNetwork(
        ToCo(spec, num_classes=20),
        params,
        crop_size=224,
        cam_scales=(1.0, 0.5, 1.5),
        devices=jax.devices()[:1],
    )
    image = np.moveaxis(data["b160x208/image_u8"][0], 0, -1)
    (maps,) = run(network, [image])
    logits = np.moveaxis(maps.seg_logits(), -1, 0)[:, ::4, ::4]
    noise = float(data["f32_maxabs/b160x208/msc_seg"])
    np.testing.assert_allclose(logits, data["b160x208/msc_seg"][0], rtol=0, atol=10 * noise)
    for name, field in (("cam", "cam"), ("aux_cam", "cam_aux")):
        cam = np.moveaxis(maps.cam_of(name, np.arange(20)), -1, 0)[:, ::2, ::4]
        noise = float(data[f"f32_maxabs/b160x208/{field}"])
        np.testing.assert_allclose(cam, data[f"b160x208/{field}"][0], rtol=0, atol=10 * noise)
    assert len(maps.seg) == len(SEG_SCALES)
