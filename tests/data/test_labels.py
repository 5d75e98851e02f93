import numpy as np
import PIL.Image
import pytest

from toco_jax.data import labels, photos
from toco_jax.runtime.errors import DataError


def _picture(mode: str, size=(7, 5)) -> PIL.Image.Image:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return PIL.Image.fromarray(rng.integers(0, 2**16, size[::-1], np.uint16))
    return PIL.Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), np.uint8)).convert(mode)


def test_images_are_read_as_photos_are(tmp_path):
    # Stored lying down, to be turned for looking; half of it transparent.
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    picture = _picture("RGBA")
    picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "x.png", exif=exif)
    image = labels.read_image(tmp_path / "x.png")
    assert image.shape == (7, 5, 3)
    np.testing.assert_array_equal(image, photos.read_photo(tmp_path / "x.png")[0])


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0broken"])
def test_undecodable_image_is_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"image {path} \({len(content)} bytes\) cannot be decode"):
        labels.read_image(path)


def test_missing_and_unreadable_image_are_named(tmp_path):
    with pytest.raises(DataError, match=f"image {tmp_path}/x.jpg is missing; .* 'x' out of the"):
        labels.read_image(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").mkdir()
    with pytest.raises(DataError, match=f"image {tmp_path}/y.jpg cannot be read"):
        labels.read_image(tmp_path / "y.jpg")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_mask_values_are_indices(tmp_path, mode):
    values = np.array([[0, 1, 20], [255, 7, 3]], np.uint8)
    picture = PIL.Image.frombytes(mode, (3, 2), values.tobytes())
    if mode == "P":
        picture.putpalette([200, 10, 10] * 256)
    picture.save(tmp_path / "x.png")
    mask = labels.read_mask(tmp_path / "x.png", 20)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, values)


@pytest.mark.parametrize("mode", ["1", "LA", "RGB", "RGBA", "I;16"])
def test_mask_in_colour_says_what_to_save(tmp_path, mode):
    path = tmp_path / "x.png"
    _picture(mode).save(path)
    with pytest.raises(DataError, match=f"mask {path} is stored as {mode}, .* 8-bit palette PNG"):
        labels.read_mask(path, 20)


def test_broken_masks_are_named(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(DataError, match=f"mask {path} is missing"):
        labels.read_mask(path, 20)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"mask {path} \(10 bytes\) cannot be decoded"):
        labels.read_mask(path, 20)
    _picture("L", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=rf"mask {path} \(1000 bytes\) cannot be decoded"):
        labels.read_mask(path, 20)
    PIL.Image.fromarray(np.array([[0, 21, 255]], np.uint8)).save(path)
    with pytest.raises(DataError, match=rf"mask {path} holds the value 21, but labels are 0\.\.20"):
        labels.read_mask(path, 20)
