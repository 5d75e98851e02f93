"""Every way a photo may be stored gives the same upright RGB."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from toco_jax.data import photos
from toco_jax.data.labels import read_bytes
from toco_jax.runtime.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def picture():
    """24 x 40 pixels, flat patches, so that lossy formats keep it."""
    return np.repeat(np.repeat(RNG.integers(0, 256, (3, 5, 3), np.uint8), 8, 0), 8, 1)


def read(path):
    image, notes = photos.read_photo(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return image, notes


UNDO = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", UNDO)
def test_exif_rotation(tmp_path, picture, orientation, ending):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"turned.{ending}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    stored = Image.fromarray(np.ascontiguousarray(UNDO[orientation](picture)))
    stored.save(path, exif=exif, **options.get(ending, {}))
    np.testing.assert_allclose(read(path)[0], picture, atol=2 if ending == "jpg" else 0)
    photo = photos.decode_photo(path.read_bytes())
    assert photo.orientation == orientation
    mask = picture[..., 0] // 13
    np.testing.assert_array_equal(photos.turned(UNDO[orientation](mask), orientation), mask)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("value", [b"\x09\0", b"\0\0"])
def test_an_exif_note_without_sense_turns_nothing(tmp_path, picture, value):
    note = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + value + bytes(6)
    for exif in (note, note[:12], b"\0\x01garbage"):
        Image.fromarray(picture).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + exif)
        assert photos.decode_photo((tmp_path / "x.jpg").read_bytes()).orientation == 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:2:0"}], ids=str)
def test_jpegs_have_the_pixels_that_pillow_finds(tmp_path, mode, options):
    for size in ((33, 17), (8, 1), (64, 48)):
        noise = RNG.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(noise).convert(mode).save(tmp_path / "x.jpg", **options)
        with Image.open(tmp_path / "x.jpg") as picture:
            np.testing.assert_array_equal(read(tmp_path / "x.jpg")[0], picture.convert("RGB"))


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.float32([[0, 0.25, 1]]), 1),
        (np.float32([[0, 100, 255]]), 255),
        (np.int32([[0, 100, 255]]), 255),
        (np.int32([[0, 300, 65535]]), 65535),
        (np.uint16([[0, 100, 255]]), 255),
        (np.uint16([[0, 2000, 4000]]), 4095),  # a camera of 12 bits
    ],
)
def test_the_range_of_deep_pictures_is_found_and_named(tmp_path, values, white):
    Image.fromarray(values).save(tmp_path / "x.tif")
    image, notes = read(tmp_path / "x.tif")
    np.testing.assert_array_equal(image[..., 0], np.rint(values / white * 255))
    assert [f"of which {white} counts as white" in note for note in notes] == [True][
        : white < 65535
    ]


def test_deep_colour_of_12_bits_and_of_fractions(tmp_path, picture):
    deep = picture[..., ::-1].astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    cv2.imwrite(str(tmp_path / "deep.tif"), deep)
    cv2.imwrite(str(tmp_path / "float.tif"), picture[..., ::-1].astype(np.float32) / 255)
    for name, white in (("deep.png", 4095), ("deep.tif", 4095), ("float.tif", 1)):
        image, (note,) = read(tmp_path / name)
        np.testing.assert_allclose(image, picture, atol=1)
        assert f"of which {white} counts as white" in note


def deep_tiff(pixels, orientation):
    """Colours `[H, W, 3]` of 16 bits as a TIFF, which Pillow does not write."""
    height, width, _ = pixels.shape
    data = 8 + 2 + 12 * 10 + 4 + 6
    tags = [(256, width), (257, height), (258, data - 6), (259, 1), (262, 2), (273, data)]
    tags += [(274, orientation), (277, 3), (278, height), (279, pixels.nbytes)]
    rows = [struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, value) for tag, value in tags]
    header = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(rows)
    return header + struct.pack("<I3H", 0, 16, 16, 16) + pixels.astype("<u2").tobytes()


def deep_png(pixels, orientation):
    """Colours `[H, W, 3]` of 16 bits as a PNG with an EXIF note."""
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    note = b"eXIf" + struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x112, 3, 1, orientation, 0)
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    return content[:33] + chunk + content[33:]  # behind the signature and IHDR


@pytest.mark.parametrize("orientation", UNDO)
@pytest.mark.parametrize("encode", [deep_tiff, deep_png])
def test_exif_rotation_of_deep_colour(picture, encode, orientation):
    stored = np.ascontiguousarray(UNDO[orientation](picture)).astype(np.uint16) * 257
    photo = photos.decode_photo(encode(stored, orientation))
    np.testing.assert_array_equal(photo.pixels, picture)
    assert photo.orientation == orientation


@pytest.mark.parametrize(
    "values", [np.float32([[-1, 2]]), np.float32([[0, np.nan]]), np.int32([[0, 70_000]])]
)
def test_numbers_that_are_no_brightness_are_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(photos.PhotoError, match=r"x\.tif .* which are no brightness; save it with"):
        read(tmp_path / "x.tif")


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


def test_lab(tmp_path, picture):
    Image.fromarray(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB), "LAB").save(tmp_path / "scan.tif")
    assert np.abs(read(tmp_path / "scan.tif")[0].astype(int) - picture).mean() < 2


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


@pytest.mark.skipif(photos.READS_HEIF, reason="pillow-heif is installed")
def test_a_phones_picture_names_the_package_that_reads_it(tmp_path):
    (tmp_path / "x.jpg").write_bytes(bytes(3) + b"\x18ftypheic" + bytes(60))
    with pytest.raises(photos.PhotoError, match=r"x\.jpg cannot .* pip install pillow-heif\)"):
        photos.read_photo(tmp_path / "x.jpg")


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_damaged_files_are_broken(tmp_path, ending):
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / f"whole.{ending}")
    content = (tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / f"half.{ending}").write_bytes(content[: len(content) * 3 // 4])
    with pytest.raises(photos.PhotoError, match=rf"half\.{ending}"):
        photos.read_photo(tmp_path / f"half.{ending}")


def test_a_png_whose_checksum_is_wrong_is_broken(tmp_path):
    noise = RNG.integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    content = bytearray((tmp_path / "x.png").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(photos.PhotoError, match=r"x\.png cannot be read"):
        photos.read_photo(tmp_path / "x.png")


def test_arrays_that_are_no_images_are_refused():
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4)):
        with pytest.raises(ValueError, match="an image"):
            photos.as_rgb(wrong)


def test_a_pipe_is_refused_not_waited_for(tmp_path):
    path = tmp_path / "a.jpg"
    os.mkfifo(path)
    with pytest.raises(photos.PhotoError, match=r"a\.jpg cannot be read .*a pipe or a device"):
        photos.read_photo(path)
    with pytest.raises(DataError, match=r"mask .*a\.jpg cannot be read \(a pipe or a device"):
        read_bytes(path, "mask")


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.uint32])
def test_colours_of_rare_depths_keep_their_order_or_are_refused(dtype):
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 3))
    values[0, 0] = 255
    stored = values / 255 if dtype == np.float64 else values
    encoded = cv2.imencode(".tif", stored.astype(dtype))[1].tobytes()  # as BGR
    np.testing.assert_array_equal(photos.decode_photo(encoded).pixels, values[..., ::-1])
    if dtype != np.float64:
        encoded = cv2.imencode(".tif", (stored * 2**20).astype(dtype))[1].tobytes()
        with pytest.raises(photos.PhotoError, match="which are no brightness"):
            photos.decode_photo(encoded)
