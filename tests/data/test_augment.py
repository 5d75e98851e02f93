import itertools
import math

import cv2
import numpy as np
import PIL.Image
import pytest
from PIL import ImageEnhance, ImageFilter, ImageOps

from toco_jax.data import augment

DRAWS = 2000


def _assert_rate(hits: int, rate: float, draws: int = DRAWS) -> None:
    """Within 4.5 standard deviations of the binomial (exactly, for a rate of 0 or 1)."""
    assert abs(hits - rate * draws) <= 4.5 * math.sqrt(rate * (1 - rate) * draws)


def _assert_uniform(values, low: float, high: float) -> None:
    values = np.asarray(values)
    span = high - low
    assert low <= values.min() < low + 0.02 * span
    assert high - 0.02 * span < values.max() <= high
    assert abs(values.mean() - (low + high) / 2) < 4.5 * span / math.sqrt(12 * values.size)


@pytest.fixture
def spy(monkeypatch):
    """spy("blur") -> list of the arguments of every later call of `augment.blur`."""

    def install(name):
        calls, function = [], getattr(augment, name)

        def recorded(*args, **kwargs):
            calls.append((args, kwargs))
            return function(*args, **kwargs)

        monkeypatch.setattr(augment, name, recorded)
        return calls

    return install


@pytest.fixture
def photo():
    """Smooth colours with some noise, 90 x 120."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
    noise = rng.normal(0, 6, (90, 120, 3))
    smooth = cv2.resize(coarse, (120, 90), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def _views(image, rng, *, size=8, as_published=False, **kwargs):
    return augment.make_views(image, rng, crop_size=size, as_published=as_published, **kwargs)


# One operation at a time, against Pillow, which defines them in the published code.


def _difference(ours, pillow) -> np.ndarray:
    return np.abs(ours.astype(int) - np.asarray(pillow).astype(int))


@pytest.mark.parametrize("factor", [0.6, 0.83, 1.0, 1.17, 1.4])
def test_brightness_contrast_saturation_equal_pillow_to_a_level(photo, factor):
    picture = PIL.Image.fromarray(photo)
    for ours, theirs in (
        (augment.adjust_brightness, ImageEnhance.Brightness),
        (augment.adjust_contrast, ImageEnhance.Contrast),
        (augment.adjust_saturation, ImageEnhance.Color),
    ):
        # 1 for truncation against rounding, and one more for the grey level times |1 - factor|.
        assert _difference(ours(photo, factor), theirs(picture).enhance(factor)).max() <= 2


def test_grey_and_solarise_equal_pillow(photo):
    picture = PIL.Image.fromarray(photo)
    grey = picture.convert("L").convert("RGB")
    assert _difference(augment.to_grey(photo), grey).max() <= 1
    np.testing.assert_array_equal(augment.solarise(photo), ImageOps.solarize(picture, 128))


@pytest.mark.parametrize("shift", [-0.1, -0.03, 0.0, 0.06, 0.1])
def test_hue_equals_pillow_nearly(photo, shift):
    hue, saturation, value = PIL.Image.fromarray(photo).convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(shift * 256) % 256)
    channels = (PIL.Image.fromarray(turned), saturation, value)
    expected = PIL.Image.merge("HSV", channels).convert("RGB")
    assert _difference(augment.adjust_hue(photo, shift), expected).mean() <= 1.2


def test_hue_turns_by_hand():
    red = np.full((1, 1, 3), (240, 0, 0), np.uint8)
    assert augment.adjust_hue(red, 1 / 3)[0, 0].argmax() == 1
    assert augment.adjust_hue(red, -1 / 3)[0, 0].argmax() == 2
    grey = np.full((1, 1, 3), 77, np.uint8)
    np.testing.assert_array_equal(augment.adjust_hue(grey, 0.1), grey)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.3, 2.0])
def test_blur_is_a_gaussian_and_pillow_nearly(photo, sigma):
    blurred = augment.blur(photo, sigma)
    pillow = PIL.Image.fromarray(photo).filter(ImageFilter.GaussianBlur(sigma))
    assert _difference(blurred, pillow).mean() <= 1  # Pillow's is three box blurs
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    assert np.abs(augment.blur(point, sigma)[..., 0] - 255 * kernel).max() <= 1.5


def test_resize_shrinks_without_aliasing(photo):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = augment.resize(stripes, 32, 21)
    assert shrunk.shape == (32, 21, 3)
    assert np.abs(shrunk.astype(int) - 128).max() <= 45  # plain interpolation gives 0 to 255
    means = photo.reshape(30, 3, 40, 3, 3).mean(axis=(1, 3))  # [30, 40, 3]
    assert np.abs(augment.resize(photo, 30, 40) - means).max() <= 1
    pillow = PIL.Image.fromarray(photo).resize((200, 150), PIL.Image.Resampling.BILINEAR)
    assert _difference(augment.resize(photo, 150, 200), pillow).max() <= 2


def test_resize_treats_each_side_on_its_own(photo):
    both = augment.resize(photo, 45, 200, enlarge=cv2.INTER_CUBIC)
    one = cv2.resize(photo, (120, 45), interpolation=cv2.INTER_AREA)
    one = cv2.resize(one, (200, 45), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(both, one)
    np.testing.assert_array_equal(augment.resize(photo, 90, 120), photo)


# Rates and ranges over many draws.


@pytest.mark.parametrize("as_published", [False, True])
def test_rates_of_the_three_views(spy, monkeypatch, as_published):
    spies = [spy(name) for name in ("colour_jitter", "to_grey", "blur", "solarise")]
    photometric, made = augment.photometric, []

    def counted(image, rng, **rates):
        before = np.array([len(calls) for calls in spies])
        view = photometric(image, rng, **rates)
        made.append((view, np.array([len(calls) for calls in spies]) - before))
        return view

    monkeypatch.setattr(augment, "photometric", counted)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    rng = np.random.default_rng(1)
    counts = {"image": 0, "view2": 0, "local": 0}
    for _ in range(DRAWS):
        views = _views(image, rng, as_published=as_published)
        for view, calls in made:
            counts[next(name for name in counts if views[name] is view)] += calls
        made.clear()

    for name, blur, solarise in (("image", 1, 0), ("view2", 0.1, 0.2), ("local", 0.5, 0)):
        jitters, greys, blurs, solarised = counts[name].tolist()
        _assert_rate(jitters, 0.8)
        _assert_rate(greys - jitters, 0.2)  # each jitter makes one grey image for its saturation
        _assert_rate(blurs, blur)
        _assert_rate(solarised, solarise)
    _assert_uniform([args[1] for args, _ in spies[2]], 0.1, 2.0)


def test_jitter_strengths_and_order(spy, monkeypatch):
    order = []
    spies = {n: spy(f"adjust_{n}") for n in ("brightness", "contrast", "saturation", "hue")}
    for name in spies:
        inner = getattr(augment, f"adjust_{name}")
        monkeypatch.setattr(
            augment,
            f"adjust_{name}",
            lambda image, value, inner=inner, name=name: order.append(name) or inner(image, value),
        )
    rng = np.random.default_rng(2)
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    for _ in range(DRAWS):
        augment.colour_jitter(image, rng)
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.6, 1.4)}
    ranges |= {"saturation": (0.8, 1.2), "hue": (-0.1, 0.1)}
    for name, calls in spies.items():
        _assert_uniform([args[1] for args, _ in calls], *ranges[name])
    orders = [tuple(order[i : i + 4]) for i in range(0, 4 * DRAWS, 4)]
    for permutation in itertools.permutations(ranges):
        _assert_rate(orders.count(permutation), 1 / 24)


@pytest.mark.parametrize("scale_range", [(0.5, 2.0), (0.9, 1.1)])
def test_rescaling(spy, scale_range):
    calls = spy("resize")
    rng = np.random.default_rng(3)
    image = np.zeros((200, 100, 3), np.uint8)
    for _ in range(DRAWS):
        augment.base_crop(image, rng, crop_size=4, scale_range=scale_range)
    sizes = np.array([args[1:] for args, _ in calls])
    _assert_uniform(sizes[:, 0] / 200, *scale_range)
    assert np.abs(sizes[:, 0] - 2 * sizes[:, 1]).max() <= 1


def test_flip_rate():
    rng = np.random.default_rng(4)
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)  # [2, 2, 3]
    flips = [augment.random_flip(image, rng) for _ in range(DRAWS)]
    mirrored = [np.array_equal(f, image[:, ::-1]) for f in flips]
    assert all(m or np.array_equal(f, image) for f, m in zip(flips, mirrored, strict=True))
    _assert_rate(sum(mirrored), 0.5)


@pytest.mark.parametrize(("side", "size"), [(9, 4), (4, 9)])
def test_crop_offsets_are_uniform_and_the_box_tells_them(side, size):
    rng = np.random.default_rng(5)
    image = np.arange(1, side * side + 1, dtype=np.uint8).reshape(side, side)  # [side, side]
    image = np.stack([image] * 3, axis=-1)
    offsets = []
    for _ in range(DRAWS):
        crop, (y0, y1, x0, x1) = augment.random_crop(image, rng, size=size)
        assert crop.shape == (size, size, 3)
        assert (
            np.count_nonzero(crop)
            == np.count_nonzero(crop[y0:y1, x0:x1])
            == crop[y0:y1, x0:x1].size
        )
        if side > size:
            assert (y0, y1, x0, x1) == (0, size, 0, size)
            offsets.append(divmod(int(crop[0, 0, 0]) - 1, side))
        else:
            np.testing.assert_array_equal(crop[y0:y1, x0:x1], image)
            offsets.append((int(y0), int(x0)))
    for offset in itertools.product(range(6), range(6)):
        _assert_rate(offsets.count(offset), 1 / 36)


def test_random_rectangles():
    rng = np.random.default_rng(6)
    drawn = np.array([augment.random_rectangle(900, 1000, rng) for _ in range(DRAWS)], float)
    top, left, height, width = drawn.T
    area, ratio = height * width / 9e5, width / height
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 900).all() and (left + width <= 1000).all()
    assert 0.4 - 2e-3 < area.min() < 0.41 and 0.97 < area.max() <= 1.0
    assert 0.75 - 2e-3 < ratio.min() < 0.76 and 1.32 < ratio.max() < 4 / 3 + 2e-3
    # Small rectangles always fit, so among them the ratio's logarithm and the offsets are uniform.
    small = area < 0.6
    assert abs(np.log(ratio[small]).mean()) < 4.5 * math.log(16 / 9) / math.sqrt(12 * small.sum())
    for offset, room in ((top, 900 - height), (left, 1000 - width)):
        place = (offset / np.maximum(room, 1))[small]
        assert abs(place.mean() - 0.5) < 4.5 / math.sqrt(12 * small.sum())


@pytest.mark.parametrize(
    ("size", "rectangle"),
    [((1000, 9), (494, 0, 12, 9)), ((9, 1000), (0, 494, 9, 12)), ((1, 1), (0, 0, 1, 1))],
)
def test_rectangle_where_none_fits_is_the_largest_central_one(size, rectangle):
    rng = np.random.default_rng(7)
    assert augment.random_rectangle(*size, rng) == rectangle


def test_second_view_is_bicubic_and_from_the_whole_image(spy, photo):
    calls = spy("resize")
    rng = np.random.default_rng(8)
    shares = []
    for _ in range(DRAWS // 4):
        assert augment.random_resized_crop(photo, rng, size=8).shape == (8, 8, 3)
        (part, *size), kwargs = calls.pop()
        assert size == [8, 8] and kwargs == {"enlarge": cv2.INTER_CUBIC}
        assert np.shares_memory(part, photo)
        shares.append(part.size / photo.size)
    assert 0.39 < min(shares) < 0.41 and 0.95 < max(shares) <= 1


# What the views have to do with one another.


def _marker(view):
    """Column and row of the middle of a grey-on-black square; None near the border."""
    bright = view.astype(float).sum(axis=2)
    bright -= bright.min()
    if bright.max() < 30:
        return None
    bright[bright < bright.max() / 4] = 0
    rows, columns = np.nonzero(bright)
    if min(rows.min(), columns.min()) < 3 or max(rows.max(), columns.max()) > 60:
        return None
    return np.average([columns, rows], axis=1, weights=bright[rows, columns])


def _marker_pairs(as_published):
    image = np.zeros((60, 70, 3), np.uint8)
    image[20:27, 45:52] = 220
    rng = np.random.default_rng(9)
    for _ in range(600):
        views = _views(image, rng, size=64, as_published=as_published)
        pair = _marker(views["image"]), _marker(views["local"])
        if pair[0] is not None and pair[1] is not None and abs(pair[0][0] - 31.5) > 3:
            yield pair


def test_marker_is_at_the_same_place_in_view_1_and_the_local_source():
    pairs = list(_marker_pairs(as_published=False))
    assert len(pairs) > 200
    assert max(np.abs(first - local).max() for first, local in pairs) < 0.5
    columns = np.array([first[0] for first, _ in pairs])
    assert 0.3 < (columns < 31.5).mean() < 0.7  # the shared flip happens


def test_marker_is_mirrored_half_of_the_time_as_published():
    pairs = list(_marker_pairs(as_published=True))
    mirrored = 0
    for first, local in pairs:
        assert abs(first[1] - local[1]) < 0.5  # rows are never mirrored
        same = abs(first[0] - local[0]) < 0.5
        assert same or abs(first[0] + local[0] - 63) < 0.5
        mirrored += not same
    assert len(pairs) > 200
    _assert_rate(mirrored, 0.5, len(pairs))


def _box_of(view):
    rows, columns = np.nonzero(view.any(axis=(1, 2)))[0], np.nonzero(view.any(axis=(0, 2)))[0]
    return [rows[0], rows[-1] + 1, columns[0], columns[-1] + 1]


@pytest.mark.parametrize("as_published", [False, True])
def test_valid_box_is_the_image_within_the_padding(monkeypatch, as_published):
    """White images without colour changes: what is not black is image."""
    monkeypatch.setattr(augment, "photometric", lambda image, rng, **rates: image)
    rng = np.random.default_rng(10)
    image = np.full((40, 30, 3), 255, np.uint8)
    stale = padded = full = 0
    for _ in range(DRAWS):
        views = _views(image, rng, size=48, as_published=as_published)
        box = views["valid_box"].tolist()
        for name in ("image", "local"):
            drawn = _box_of(views[name])
            y0, y1, x0, x1 = drawn
            assert views[name][y0:y1, x0:x1].min() == 255  # a full rectangle
            mirror = [y0, y1, 48 - x1, 48 - x0]
            assert box == drawn or (as_published and box == mirror)
            stale += box != drawn
        padded += box != [0, 48, 0, 48]
        full += box == [0, 48, 0, 48]
    assert padded > 0.5 * DRAWS and full > 0.1 * DRAWS
    assert stale > 0.2 * DRAWS if as_published else stale == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 500), (33, 17)])
@pytest.mark.parametrize("as_published", [False, True])
def test_any_image_size_gives_full_views(size, as_published):
    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    before = image.copy()
    for _ in range(20):
        views = _views(image, rng, size=16, as_published=as_published)
        assert set(views) == {"image", "view2", "local", "valid_box"}
        for name in ("image", "view2", "local"):
            assert views[name].shape == (16, 16, 3) and views[name].dtype == np.uint8
        assert views["valid_box"].dtype == np.int32 and views["valid_box"].shape == (4,)
        y0, y1, x0, x1 = views["valid_box"]
        assert 0 <= y0 < y1 <= 16 and 0 <= x0 < x1 <= 16
    np.testing.assert_array_equal(image, before)


def test_views_are_a_function_of_the_generator(photo):
    one, same = (_views(photo, np.random.default_rng(12), size=32) for _ in range(2))
    other = _views(photo, np.random.default_rng(13), size=32)
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one["view2"], other["view2"])
