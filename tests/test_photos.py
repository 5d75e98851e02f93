"""Every way a photo may be stored gives the same upright RGB."""

import cv2
import numpy as np
import pytest
from PIL import Image

from toco_jax import photos

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def picture():
    """24 x 40 pixels, flat patches, so that lossy formats keep it."""
    return np.repeat(np.repeat(RNG.integers(0, 256, (3, 5, 3), np.uint8), 8, 0), 8, 1)


def read(path):
    image, notes = photos.read_photo(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return image, notes


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_rotation(tmp_path, picture, orientation):
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(undo(picture))).save(path, exif=exif)
    np.testing.assert_array_equal(read(path)[0], picture)


def test_grey_of_8_and_16_bits(tmp_path, picture):
    grey = picture[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.tif")
    for name in ("grey.png", "deep.png", "deep.tif"):
        np.testing.assert_array_equal(read(tmp_path / name)[0], expected)


def test_colour_of_16_bits(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "deep.png"), picture[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read(tmp_path / "deep.png")[0], picture)


def test_transparency_is_shown_on_white(tmp_path, picture):
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:8] = 0
    alpha[8:16] = 102
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "rgba.png")
    image, _ = read(tmp_path / "rgba.png")
    assert (image[:8] == 255).all()
    expected = 0.4 * picture[8:16].astype(float) + 0.6 * 255
    np.testing.assert_allclose(image[8:16], expected, atol=0.51)
    np.testing.assert_array_equal(image[16:], picture[16:])


def test_palette(tmp_path, picture):
    few = Image.fromarray(picture).quantize(16)
    few.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read(tmp_path / "palette.png")[0], np.asarray(few.convert("RGB")))
    few.save(tmp_path / "clear.png", transparency=int(np.asarray(few)[0, 0]))
    image, _ = read(tmp_path / "clear.png")
    assert (image[:8, :8] == 255).all()
    np.testing.assert_array_equal(image[16:, 32:], np.asarray(few.convert("RGB"))[16:, 32:])


def test_cmyk(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    assert np.abs(read(tmp_path / "print.jpg")[0].astype(int) - picture).mean() < 4


def test_animation_gives_its_first_frame_and_says_so(tmp_path, picture):
    frames = [Image.fromarray(frame) for frame in (picture, picture[:, ::-1], picture[::-1])]
    for name, settings in {"a.gif": {}, "a.webp": {"lossless": True}, "a.png": {}}.items():
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **settings)
        image, notes = read(tmp_path / name)
        assert notes == ["first of 3 frames"]
        assert np.abs(image.astype(int) - picture).mean() < 2


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(photos.PhotoError, match=r"broken\.jpg"):
        photos.read_photo(tmp_path / "broken.jpg")
    with pytest.raises(photos.PhotoError, match=r"missing\.jpg does not exist"):
        photos.read_photo(tmp_path / "missing.jpg")


def test_truncated_file_is_broken(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) - 40])
    with pytest.raises(photos.PhotoError, match=r"half\.jpg"):
        photos.read_photo(tmp_path / "half.jpg")


def test_arrays_that_are_no_images_are_refused():
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4)):
        with pytest.raises(ValueError, match="an image"):
            photos.as_rgb(wrong)
