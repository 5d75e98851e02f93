import time

import pytest

from toco_jax.data.labelling.lists import image_name
from toco_jax.data.labelling.tools.matching import Finder, path_of
from toco_jax.runtime.errors import DataError


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("a.jpg", "a.jpg"),
        ("C:\\photos\\a.jpg", "C:/photos/a.jpg"),
        ("/data/upload/12/0a1b2c3d-a%20b.jpg", "0a1b2c3d-a b.jpg"),
        ("https://x.org/ls/data/upload/12/0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),
        ("/data/local-files/?d=zoo%2Fcats/a%20b.jpg", "zoo/cats/a b.jpg"),
        ("/data/local-files?d=zoo/a.jpg&x=1", "zoo/a.jpg"),
        ("http://x.org:8080/zoo/a%20b.jpg?sign=a/b.png#c", "x.org:8080/zoo/a b.jpg"),
        ("s3://bucket/zoo/a.jpg", "bucket/zoo/a.jpg"),
        ("azure-blob://box/a.jpg", "box/a.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("50%25.jpg", "50%25.jpg"),
        ("/data/local-files/?" + "&".join("d" * 9 for _ in range(2000)), ""),
    ],
)
def test_paths_in_addresses(address, path):
    assert path_of(address) == path


def found(images, *names):
    finder = Finder(images, names, image_name)
    return [finder.find(name, "file x, task 1,") for name in names]


def test_places_on_other_machines():
    images = ("cats/a", "cats/b", "dogs/a")
    assert found(images, "D:\\zoo\\cats\\a.jpg", "D:\\zoo\\dogs\\a.jpg") == ["cats/a", "dogs/a"]
    assert found(images, "s3://bucket/x/dogs/a.jpg") == ["dogs/a"]
    assert found(images, "../cats/a.jpg") == ["cats/a"]
    assert found(("a", "b"), "https://x.org/y/a.jpg", "/other/b.png") == ["a", "b"]
    assert found(("images/train/a", "images/val/b"), "a.jpg", "b.jpg") == [
        "images/train/a",
        "images/val/b",
    ]
    # Folders that all names share, and that are not there.
    images = ("images/a", "images/b")
    assert found(images, "photos/a.jpg", "photos/b.jpg") == ["images/a", "images/b"]


def test_an_image_that_is_gone_is_no_other_one():
    # cats/b is gone; dogs/b and b are other pictures.
    for images in (("cats/a", "dogs/b"), ("cats/a", "b")):
        assert found(images, "cats/a.jpg", "cats/b.jpg") == ["cats/a", None]
        assert found(images, "/zoo/cats/a.jpg", "/zoo/cats/b.jpg") == ["cats/a", None]
    assert found(("cats/a", "x"), "cats/a.jpg", "wolves/a.jpg") == ["cats/a", None]
    assert found(("a",), "") == [None]


def test_hashes_of_uploads():
    upload = "/data/upload/1/0a1b2c3d-{}"
    assert found(("a", "b"), upload.format("a.jpg")) == ["a"]
    assert found(("0a1b2c3d-a", "a"), upload.format("a.jpg")) == ["0a1b2c3d-a"]
    assert found(("x/my photo (1)",), upload.format("my_photo_1.jpg")) == ["x/my photo (1)"]
    assert found(("images/a",), "images\\0a1b2c3d-a.jpg") == ["images/a"]
    assert found(("my photo",), "my_photo.jpg") == [None]


@pytest.mark.parametrize("name", ["a.jpg", "/data/upload/1/0a1b2c3d-a.jpg"])
def test_ambiguous_names_are_refused(name):
    message = r"file x, task 1, names '.*a\.jpg', which may be any of 2 images \(cats/a, dogs/a\)"
    with pytest.raises(DataError, match=message):
        found(("cats/a", "dogs/a"), name)


def test_long_paths_take_no_time():
    start = time.process_time()
    assert found(("a/" * 2000 + "b",), "x/" * 10**5 + "b.jpg", "/" * 10**6) == [None, None]
    assert time.process_time() - start < 2
