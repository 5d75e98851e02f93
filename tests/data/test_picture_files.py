"""Pictures that would fill the memory, or have another program run, are not opened."""

import io
import os
import pathlib
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from toco_jax.data import labels, photos, picture_files
from toco_jax.data.folders.class_folders import mask_folders
from toco_jax.data.photos import PhotoError
from toco_jax.inference import inputs
from toco_jax.runtime.errors import DataError


def png(width, height, colour=2, compressed=b""):
    """The beginning of a PNG of that size, without its pixels; `compressed` stands for them."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", compressed or zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 30_000, 2**31 - 1])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_many_pixels_are_refused_by_training_and_prediction_alike(tmp_path, side):
    path = tmp_path / "x.png"
    path.write_bytes(png(side, side))
    for read, error in (
        (photos.read_photo, PhotoError),
        (labels.load_photo, DataError),
        (lambda path: labels.read_mask(path, 20), DataError),
    ):
        tracemalloc.start()
        with pytest.raises(error, match=r"x\.png .*pixels.*set TOCO_MAX_PIXELS in the envir"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
        tracemalloc.stop()


def test_one_variable_moves_the_limit_for_all(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.new("P", (20, 10)).save(path)
    monkeypatch.setenv("TOCO_MAX_PIXELS", "199")
    with pytest.raises(PhotoError, match="20 x 10 pixels are more than the 199 that are read"):
        photos.read_photo(path)
    with pytest.raises(DataError, match=r"mask .*x\.png .*20 x 10 pixels are more than the 199"):
        labels.read_mask(path, 20)
    with pytest.raises(DataError, match=r"image .*x\.png .*20 x 10 pixels are more than the 199"):
        labels.load_photo(path)
    monkeypatch.setenv("TOCO_MAX_PIXELS", "200")
    assert photos.read_photo(path)[0].shape == labels.load_photo(path).pixels.shape == (10, 20, 3)
    assert labels.read_mask(path, 20).shape == (10, 20)


def test_a_limit_above_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    monkeypatch.setenv("TOCO_MAX_PIXELS", str(30_000**2))
    with picture_files.open_picture(
        io.BytesIO(png(30_000, 30_000, compressed=bytes(3_000_000)))
    ) as picture:
        assert picture.size == (30_000, 30_000)


@pytest.mark.parametrize("value", ["0", "-1", "many", "1e9", "9" * 5000])
def test_a_limit_that_is_none(monkeypatch, value):
    monkeypatch.setenv("TOCO_MAX_PIXELS", value)
    with pytest.raises(
        PhotoError, match=r"TOCO_MAX_PIXELS='.* is not a number of pixels"
    ) as caught:
        photos.decode_photo(png(1, 1))
    assert len(str(caught.value)) < 300


def test_no_picture_runs_a_program(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    (tmp_path / "x.png").write_bytes(script)
    assert Image.open(io.BytesIO(script)).format == "EPS"
    with pytest.raises(PhotoError, match="its format is unknown or damaged"):
        photos.read_photo(tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot be decoded"):
        labels.read_mask(tmp_path / "x.png", 20)


def test_what_only_opencv_reads_is_measured_first(tmp_path, monkeypatch):
    path = tmp_path / "x.tif"
    assert cv2.imwrite(str(path), np.full((4, 6, 3), 0.5, np.float32))
    assert picture_files.tiff_size(path.read_bytes()) == (6, 4)
    monkeypatch.setenv("TOCO_MAX_PIXELS", "23")
    with pytest.raises(PhotoError, match="6 x 4 pixels are more than the 23"):
        photos.read_photo(path)
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        picture_files.tiff_size(content[:end])
    # A format whose size cannot be looked up without its pixels.
    (tmp_path / "x.ras").write_bytes(struct.pack(">8I", 0x59A66A95, 2, 2, 8, 4, 1, 0, 0) + b"1234")
    with pytest.raises(PhotoError, match="its format is unknown or damaged"):
        photos.read_photo(tmp_path / "x.ras")


def test_a_picture_with_transparency_needs_no_copies_of_its_size():
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 1000, 4), np.uint8)
    tracemalloc.start()
    found = photos.as_rgb(pixels)
    assert tracemalloc.get_traced_memory()[1] < 30e6  # 6 of them for the result
    tracemalloc.stop()
    colour, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    expected = np.rint(alpha * colour + (1 - alpha) * 255)
    np.testing.assert_array_equal(found, expected)
    deep = pixels.astype(np.uint16) * 257 - (pixels > 0)
    np.testing.assert_array_equal(photos.as_rgb(deep[..., :3]), np.rint(deep[..., :3] / 257))


def test_a_zero_byte_in_a_path():
    with pytest.raises(PhotoError, match=r"cannot be read as a picture \(embedded null byte"):
        photos.read_photo("a\0b.png")
    with pytest.raises(DataError, match="cannot be read"):
        labels.load_photo(pathlib.Path("a\0b.png"))


def test_links_to_what_never_ends_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.png").symlink_to("/dev/zero")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    for name in ("x.png", "pipe"):
        with pytest.raises(DataError, match=rf"image .*{name} cannot be read \(a pipe or a device"):
            labels.load_photo(tmp_path / name)
    os.close(writer)


def test_a_folder_of_such_pictures_can_be_listed(tmp_path):
    (tmp_path / "a.png").write_bytes(png(30_000, 30_000, colour=0))
    (tmp_path / "b.png").write_bytes(b"")
    files = {f"m/{name}": tmp_path / f"{name}.png" for name in "ab"}
    assert mask_folders(files | {f"{name}": tmp_path / f"{name}.jpg" for name in "ab"}) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/hostname\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'/>",
        b"",
    ],
)
def test_lists_of_other_files_are_no_videos(tmp_path, monkeypatch, content):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("FFmpeg was asked"))
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(PhotoError, match=r"x\.mp4 cannot be read as a video"):
        list(inputs.video_frames(tmp_path / "x.mp4", every=1))


def test_the_limit_holds_for_videos(tmp_path, monkeypatch):
    path = tmp_path / "x.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (32, 16))
    video.write(np.zeros((16, 32, 3), np.uint8))
    video.release()
    assert len(list(inputs.video_frames(path, every=1))) == 1
    monkeypatch.setenv("TOCO_MAX_PIXELS", "511")
    with pytest.raises(PhotoError, match=r"x\.avi: 32 x 16 pixels are more than the 511"):
        list(inputs.video_frames(path, every=1))


def refused_without_memory(path, message):
    """Has a picture be refused as a photo and as a mask."""
    tracemalloc.start()
    with pytest.raises(PhotoError, match=rf"{path.name} .*{message}.* damaged or cut off"):
        photos.read_photo(path)
    with pytest.raises(DataError, match=rf"mask .*{path.name} .*{message}"):
        labels.read_mask(path, 20)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        png(9, 4_000_000, colour=0).ljust(400, b"\0"),
        # What follows the pixels does not hold them.
        png(9, 4_000_000, colour=0).ljust(40_000, b"\0"),
        # Pixels of 24 bits in fewer bytes than one bit of each would take.
        png(9, 4_000_000, compressed=bytes(10_000)),
    ],
)
def test_a_png_that_cannot_hold_its_pixels_takes_no_memory(tmp_path, content):
    (tmp_path / "x.png").write_bytes(content)
    refused_without_memory(tmp_path / "x.png", "announces 9 x 4000000 pixels, for which it has")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_the_plainest_picture_is_the_smallest_for_its_pixels(tmp_path, mode):
    Image.new(mode, (1000, 1000)).save(tmp_path / "x.png", optimize=True)
    assert photos.read_photo(tmp_path / "x.png")[0].shape == (1000, 1000, 3)
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate"):
        Image.new(mode, (1000, 1000)).save(tmp_path / "x.tif", compression=compression)
        with picture_files.open_picture(tmp_path / "x.tif") as picture:
            assert picture.size == (1000, 1000)


def tiff(rows, per_strip, compression=1):
    """A grey TIFF of 9 columns and so many rows, of which one strip of 200 bytes is there."""
    entries = {256: 9, 257: rows, 258: 8, 259: compression, 262: 1, 273: 122, 277: 1}
    entries |= {278: per_strip, 279: 200}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    start = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return start + directory + bytes(4) + bytes(200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(4_000_000, 8), "announces 4,000,000 rows and holds 8"),
        (tiff(4_000_000, 4_000_000), "announces 9 x 4000000 pixels, for which it has not"),
        (tiff(4_000_000, 4_000_000, compression=8), "announces 9 x 4000000 pixels, for which"),
    ],
)
def test_a_tiff_that_cannot_hold_its_pixels_takes_no_memory(tmp_path, content, message):
    (tmp_path / "x.tif").write_bytes(content)
    refused_without_memory(tmp_path / "x.tif", message)
    (tmp_path / "x.tif").write_bytes(tiff(8, 8))
    assert photos.read_photo(tmp_path / "x.tif")[0].shape == (8, 9, 3)


def test_a_part_of_a_png_that_ends_beyond_the_file_takes_no_memory():
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(file, "png")
    content = bytearray(file.getvalue() + b"what programs append")
    assert photos.decode_photo(bytes(content)).pixels.shape == (8, 9, 3)
    content[33] |= 0x10  # the length of the pixels
    with pytest.raises(PhotoError, match=r"a part of it announces 268,435,\d+ bytes, more than"):
        photos.decode_photo(bytes(content))


def test_a_mask_with_a_damaged_note_is_read_as_its_image_is(tmp_path):
    # EXIF that ends within its first entry.
    note = b"eXIfMM\0*\0"
    chunk = struct.pack(">I", len(note) - 4) + note + struct.pack(">I", zlib.crc32(note))
    file = io.BytesIO()
    Image.new("L", (5, 4), 3).save(file, "png")
    content = file.getvalue()[:33] + chunk + file.getvalue()[33:]
    (tmp_path / "x.png").write_bytes(content)
    assert photos.read_photo(tmp_path / "x.png")[0].shape == (4, 5, 3)
    np.testing.assert_array_equal(labels.read_mask(tmp_path / "x.png", 20), np.full((4, 5), 3))
