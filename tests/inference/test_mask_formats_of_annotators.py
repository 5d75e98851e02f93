"""Masks for CVAT, Label Studio and labelme: read back, as their readers do, they are equal."""

import base64
import io
import json
import zipfile
from urllib.parse import unquote
from xml.etree import ElementTree

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from PIL import Image
from pycocotools import mask as coco_mask
from segmented_pictures import (
    CVAT_NAMES,
    MASKS,
    NAMES,
    RING,
    certain,
    picture_of,
    written,
)
from tiny_run import photo

from toco_jax.inference.formats import writer
from toco_jax.inference.formats.components import components
from toco_jax.inference.formats.pictures import Task
from toco_jax.runtime.errors import UserError

# Of pycocotools' own, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(st.lists(MASKS, min_size=1, max_size=3))
@example([np.ones((1, 20000), np.uint8)])  # of two runs
def test_label_studio_regions(tmp_path_factory, masks):
    pictures = [
        picture_of(mask, f"{k}", file_name=f"Fotos 1/ä{k}.jpg", scores=np.full(4, 0.25))
        for k, mask in enumerate(masks)
    ]
    folder = written(tmp_path_factory.mktemp("x"), "label_studio", pictures, model="run at step 3")
    tasks = json.loads((folder / "predictions.json").read_text())
    for k, (task, mask) in enumerate(zip(tasks, masks, strict=True)):
        image = task["data"]["image"]
        assert unquote(image) == f"/data/local-files/?d=Fotos 1/ä{k}.jpg" and image.isascii()
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "run at step 3"
        read = np.zeros(mask.shape, np.uint8)
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == mask.shape
            assert (region["type"], region["score"]) == ("brushlabels", 0.25)
            (name,) = region["value"]["brushlabels"]
            channels = runs_of_label_studio(region["value"]["rle"]).reshape(*mask.shape, 4)
            assert set(np.unique(channels)) <= {0, 255} and (channels.T[3] == channels.T).all()
            read += (NAMES.index(name) + 1) * (channels[..., 3] == 255).astype(np.uint8)
        np.testing.assert_array_equal(read, certain(mask))


def runs_of_label_studio(content):
    """The values of a stream of bits, by the description in Label Studio's converter."""
    bits = "".join(f"{byte:08b}" for byte in content)
    place = 0

    def read(number):
        nonlocal place
        place += number
        return int(bits[place - number : place], 2)

    length, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < length:
        is_run, number = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * number if is_run else [read(word) for _ in range(number)]
    assert len(values) == length and len(bits) - place < 8
    return np.array(values)


def test_label_studio_knows_the_names_and_polygons(tmp_path):
    mask = np.pad(RING, ((0, 0), (3, 0)))
    folder = written(tmp_path, "label_studio", [picture_of(mask)], polygons=True)
    config = ElementTree.parse(folder / "config.xml").getroot()
    (labels,) = config.findall("PolygonLabels")
    assert [label.get("value") for label in labels] == list(NAMES)
    assert labels[0].get("background") == "#800000"
    (task,) = json.loads((folder / "predictions.json").read_text())
    control = {"from_name": labels.get("name"), "to_name": config.find("Image").get("name")}
    read = np.zeros(mask.shape, int)
    for region in task["predictions"][0]["result"]:
        assert region.items() >= (control | {"type": "polygonlabels"}).items()
        assert region["value"]["polygonlabels"] == [NAMES[0]] and region["value"]["closed"]
        corners = np.array(region["value"]["points"]) * np.array(mask.shape[::-1]) / 100
        np.testing.assert_allclose(corners, corners.round(), atol=1e-9)
        read += coco_mask.decode(coco_mask.frPyObjects([corners.ravel()], *mask.shape))[..., 0]
    np.testing.assert_array_equal(read, mask)


@given(MASKS)
def test_labelme_shapes(tmp_path_factory, mask):
    folder = tmp_path_factory.mktemp("x")
    pixels = np.full((*mask.shape, 3), 7, np.uint8)
    (folder / "photos").mkdir()
    Image.fromarray(pixels).save(folder / "photos" / "a.png")
    pictures = [
        picture_of(mask, "deep/a", path=folder / "photos" / "a.png"),
        picture_of(mask, "clip/000000", "images/clip/000000.png", path=None),
    ]
    out = written(folder, "labelme", pictures)
    lines = (out / "labels.txt").read_text().splitlines()
    assert lines == ["__ignore__", "_background_", *NAMES]
    for picture in pictures:
        path = out / f"{picture.name}.json"
        content = json.loads(path.read_text())
        assert (content["imageHeight"], content["imageWidth"]) == mask.shape
        if picture.path:
            assert content["imageData"] is None
            assert (path.parent / content["imagePath"]).resolve() == picture.path.resolve()
        else:
            image = Image.open(io.BytesIO(base64.b64decode(content["imageData"])))
            np.testing.assert_array_equal(np.asarray(image), photo(mask.shape, 0))
        read = np.zeros(mask.shape, np.uint8)
        for shape in content["shapes"]:
            (left, top), (right, bottom) = shape["points"]
            inside = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
            label = NAMES.index(shape["label"]) + 1
            read[top : bottom + 1, left : right + 1] += label * inside.astype(np.uint8)
        np.testing.assert_array_equal(read, certain(mask))


def written_for_cvat(folder, pictures):
    masks = writer.MaskWriter("cvat", folder, Task(CVAT_NAMES, folder=folder))
    for number, picture in enumerate(pictures):
        masks.add(number, picture)
        masks.save()
    return zipfile.ZipFile(folder / "cvat.zip")


def mask_in(archive, name):
    with archive.open(name) as file:
        picture = Image.open(io.BytesIO(file.read()))
        assert picture.mode == "P"
        return np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3)


@given(st.lists(MASKS, min_size=1, max_size=2))
@example([np.kron(np.eye(20), [[1, 0], [0, 0]]).astype(np.uint8), RING])
@example([np.pad(np.tile([[1, 0], [0, 0]], (20, 20)), ((0, 0), (0, 3)), constant_values=4)])
def test_cvat_archive(tmp_path_factory, masks):
    names = ['deep/with space, "quoted"', "b"]
    pictures = [picture_of(mask, name) for mask, name in zip(masks, names, strict=False)]
    with written_for_cvat(tmp_path_factory.mktemp("x") / "cvat", pictures) as archive:
        assert archive.testzip() is None
        lines = archive.read("labelmap.txt").decode().splitlines()[1:]
        fields = [line.split(":") for line in lines]
        assert [field[0] for field in fields] == ["background", *CVAT_NAMES]
        colours = [[int(value) for value in field[1].split(",")] for field in fields]
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert listed == names[: len(masks)]
        for name, mask in zip(names, masks, strict=False):
            read, palette = mask_in(archive, f"SegmentationClass/{name}.png")
            np.testing.assert_array_equal(read, certain(mask))
            assert palette[: len(colours)].tolist() == colours
            instances, _ = mask_in(archive, f"SegmentationObject/{name}.png")
            np.testing.assert_array_equal(instances > 0, certain(mask) > 0)
            parts = list(components(mask, 4))
            assert min(len(parts), 254) <= instances.max() <= min(len(parts), 255)
            for number in range(1, instances.max() + 1):
                assert len(np.unique(mask[instances == number])) == 1


def test_cvat_and_unusual_names_of_pictures(tmp_path):
    mask = np.ones((2, 2))
    with written_for_cvat(tmp_path / "cvat", [picture_of(mask, "a\udcff")]) as archive:
        assert "SegmentationClass/a\ufffd.png" in archive.namelist()
    for name in ("#a", "a\nb", "a "):
        with pytest.raises(UserError, match="--format=cvat lists pictures by name, and ca"):
            written_for_cvat(tmp_path / "other", [picture_of(mask, name)])
