"""One rule for which files are pictures."""

import os

import pytest
from PIL import Image

from toco_jax.data import image_files, photos


@pytest.fixture
def folder(tmp_path):
    for name in ("a.JPG", "b.jfif", "deep/c.gif", "deep/d.avif", "clip.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(listing, root):
    return [path.relative_to(root).as_posix() for path in listing.files]


def test_every_ending_is_taken_in_capitals_too(folder):
    assert names(image_files.image_files(folder), folder) == [
        "a.JPG",
        "b.jfif",
        "deep/c.gif",
        "deep/d.avif",
    ]
    assert image_files.image_files(folder).passed_over == {}
    endings = (*image_files.IMAGE_ENDINGS, ".mp4")
    assert "clip.mp4" in names(image_files.image_files(folder, endings=endings), folder)


def test_every_ending_can_be_read(tmp_path):
    writers = {".mpo": "MPO", ".dib": "BMP", ".apng": "PNG", ".jpe": "JPEG", ".jfif": "JPEG"}
    for ending in image_files.IMAGE_ENDINGS:
        path = tmp_path / f"x{ending}"
        mode = {".pgm": "L", ".pbm": "1"}.get(ending, "RGB")
        Image.new(mode, (8, 6), 1 if mode == "1" else "white").save(path, writers.get(ending))
        image, _ = photos.read_photo(path)
        assert image.shape == (6, 8, 3) and image.min() >= 250, ending


def test_hidden_files_and_kinds_that_are_not_read_are_named(folder):
    for name in ("._a.JPG", ".hidden.png", "raw.CR2", ".DS_Store"):
        (folder / name).touch()
    listing = image_files.image_files(folder)
    assert len(listing.files) == 4
    hidden, convert = listing.remarks()
    assert convert.startswith(f"1 file passed over: {folder}/raw.CR2, ") and "save them" in convert
    assert hidden.startswith(f"2 files passed over: {folder}/._a.JPG, {folder}/.hidden.png, hid")


def test_hidden_folders_and_those_of_systems_are_not_entered(folder):
    for name in (".cat/t.png", ".git/notes.txt", "@eaDir/t.png", "Lost+Found/t.png"):
        (folder / name).parent.mkdir()
        (folder / name).touch()
    (folder / "@eaDir" / "x.jpg").mkdir()  # a folder of thumbnails
    listing = image_files.image_files(folder)
    assert len(listing.files) == 4
    assert listing.remarks() == [
        f"3 folders passed over: {folder}/.cat, {folder}/@eaDir, {folder}/Lost+Found, hidden or a "
        "system's own, with pictures in them; rename those you need"
    ]


@pytest.mark.skipif(image_files.READS_HEIF, reason="pillow-heif is installed")
def test_pictures_of_phones_name_the_package_that_reads_them(folder):
    (folder / "IMG_1.HEIC").touch()
    (remark,) = image_files.image_files(folder).remarks()
    assert remark == (
        f"1 file passed over: {folder}/IMG_1.HEIC, for which pillow-heif is missing: pip "
        "install pillow-heif"
    )


def test_links_to_folders_are_followed_and_circles_are_not(folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    (store / "x.png").touch()
    os.symlink(store, folder / "linked")
    os.symlink(folder, store / "back")
    os.symlink(store / "gone.png", folder / "gone.png")
    listing = image_files.image_files(folder)
    assert "linked/x.png" in names(listing, folder) and len(listing.files) == 5
    assert sorted(reason.split(" ", 2)[2] for reason in listing.passed_over) == [
        "back to a folder above",
        "to nothing; restore what it links to",
    ]


def test_a_folder_can_be_left_out(folder):
    listing = image_files.image_files(folder, leave_out=[folder / "clip.mp4", f"{folder}/deep/"])
    assert names(listing, folder) == ["a.JPG", "b.jfif"]


def test_the_picture_of_a_name_may_have_any_ending(tmp_path):
    for name in ("a.JPG", "b.jpeg", "b.png", "c.png", "c.jpg", "d.txt", ".e.jpg"):
        (tmp_path / name).touch()
    found = image_files.image_of_each(tmp_path, ["a", "b", "c", "d", "e"])
    assert [path.name for path in found] == ["a.JPG", "b.jpeg", "c.jpg", "d.jpg", "e.jpg"]
    assert image_files.image_of_each(tmp_path / "no", ["a"]) == (tmp_path / "no" / "a.jpg",)
