"""Masks in the formats of other tools, read back by their readers or by one here, are the same."""

import json
import pathlib

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import example, given
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from segmented_pictures import (
    CHECKS,
    CVAT_NAMES,
    MASKS,
    NAMES,
    RING,
    UNCERTAIN,
    certain,
    picture_of,
    written,
)
from tiny_run import photo

from toco_jax.cli.verbs import predict
from toco_jax.inference.formats import writer
from toco_jax.inference.formats.components import column_runs, components, packed_runs
from toco_jax.inference.formats.outlines import polygons
from toco_jax.inference.formats.pictures import Task
from toco_jax.runtime.errors import UserError

# Of pycocotools' own, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(MASKS)
@example(RING)
@example(CHECKS)
@example(np.pad([[0], [1], [1], [0]], 1, constant_values=1).astype(np.uint8))  # two holes
@example(np.pad([[0, 1, 1], [0, 1, 0], [0, 1, 1]], 1, constant_values=1).astype(np.uint8))
def test_polygons_cover_exactly_the_pixels(mask):
    inside = mask == 1
    found = polygons(inside)
    drawn = np.zeros(inside.shape, int)
    for corners in found:
        sides = np.roll(corners, -1, axis=0) - corners
        assert ((sides == 0).sum(axis=1) == 1).all()  # along the pixels' edges, corner to corner
        flat = [corners.ravel().astype(float).tolist()]
        drawn += coco_mask.decode(coco_mask.frPyObjects(flat, *inside.shape))[..., 0]
    np.testing.assert_array_equal(drawn, inside)


def test_pixels_that_touch_by_a_corner_have_polygons_of_their_own():
    for inside in (CHECKS == 1, CHECKS == 0):
        squares = polygons(inside)
        assert len(squares) == inside.sum()
        assert all(np.ptp(corners, axis=0).tolist() == [1, 1] for corners in squares)


@given(MASKS)
@example(np.ones((3, 4), np.uint8))
@example(np.pad(np.ones((5000, 1), np.uint8), 1))
def test_runs_are_those_of_pycocotools(mask):
    for part in components(mask, 4):
        whole = np.zeros(mask.shape, np.uint8, order="F")
        left, top, width, height = part.box
        whole[top : top + height, left : left + width] = part.inside
        expected = coco_mask.encode(whole)
        assert packed_runs(column_runs(part, *mask.shape)) == expected["counts"].decode()
        assert part.area == coco_mask.area(expected)
        assert part.box == coco_mask.toBbox(expected).tolist()


@pytest.mark.parametrize("as_polygons", [False, True])
def test_coco_as_pycocotools_reads_it(tmp_path_factory, as_polygons):
    @given(MASKS, MASKS)
    def check(first, second):
        pictures = [
            picture_of(first, scores=np.array([0.1, 0.2, 0.3, 0.4])),
            picture_of(second, name="b", file_name="b.png"),
        ]
        folder = written(tmp_path_factory.mktemp("x"), "coco", pictures, polygons=as_polygons)
        coco = COCO(folder / "annotations.json")
        assert [category["name"] for category in coco.cats.values()] == list(NAMES)
        for image, picture in zip(coco.imgs.values(), pictures, strict=True):
            assert image["file_name"] == picture.file_name
            assert (image["height"], image["width"]) == picture.mask.shape
            mask = np.zeros(picture.mask.shape, np.uint8)
            for annotation in coco.imgToAnns[image["id"]]:
                inside = coco.annToMask(annotation)
                assert not mask[inside > 0].any()
                assert isinstance(annotation["segmentation"], list) is as_polygons
                assert (annotation["area"], annotation["iscrowd"]) == (inside.sum(), 0)
                mask += annotation["category_id"] * inside
                label = annotation["category_id"]
                score = None if picture.scores is None else label / 10
                assert annotation.get("score") == score
            np.testing.assert_array_equal(mask, certain(picture.mask))

    check()


def test_ultralytics_pairs_images_with_masks(tmp_path):
    names = ("a", "a.jpg", "images/images/x", "images~/images/x")
    masks = [np.full((2, 3), label, np.uint8) for label in (0, 1, 4, UNCERTAIN)]
    pictures = [picture_of(mask, name, path=None) for mask, name in zip(masks, names, strict=True)]
    folder = written(tmp_path, "ultralytics", pictures, split="train_aug")
    about = yaml.safe_load((folder / "data.yaml").read_text())
    assert about["names"] == dict(enumerate(["background", *NAMES]))
    assert (about["train"], about["masks_dir"]) == ("images/train_aug", "masks")
    found = []
    for path in sorted((folder / about["train"]).rglob("*.*")):
        # As Ultralytics' `img2label_paths` has it.
        mask_path = "/masks/".join(str(path).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".png"
        found.append(cv2.imread(mask_path, cv2.IMREAD_GRAYSCALE))
        np.testing.assert_array_equal(np.asarray(Image.open(path)), photo((2, 3), 0))
    assert sorted(mask.tolist() for mask in found) == sorted(mask.tolist() for mask in masks)


def test_files_that_tools_would_turn_are_written_anew(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = photo((4, 6), 1)
    saved = {
        "plain.jpg": (pixels, {}),
        "plain.png": (pixels, {}),
        "turned.jpg": (np.rot90(pixels), {"exif": turned}),
        "clear.png": (np.dstack([pixels, pixels[..., 0]]), {}),
    }
    pictures = []
    for file_name, (stored, options) in saved.items():
        path = tmp_path / file_name
        Image.fromarray(np.ascontiguousarray(stored)).save(path, **options)
        changed = {"path": path, "read": lambda: pixels}
        pictures.append(picture_of(np.zeros((4, 6)), path.stem + path.suffix, **changed))
    (tmp_path / "broken.jpg").write_bytes(b"changed since it was read")
    for name in ("broken.jpg", "gone.jpg"):
        changed = {"path": tmp_path / name, "read": lambda: pixels}
        pictures.append(picture_of(np.zeros((4, 6)), name, **changed))
    images = written(tmp_path, "ultralytics", pictures) / "images" / "train"
    for name in ("plain.jpg", "plain.png"):
        copied = images / f"{name}{pathlib.Path(name).suffix}"
        assert copied.read_bytes() == (tmp_path / name).read_bytes()
    for name in ("turned.jpg", "clear.png", "broken.jpg", "gone.jpg"):
        np.testing.assert_array_equal(np.asarray(Image.open(images / f"{name}.png")), pixels)


@given(st.lists(MASKS, min_size=1, max_size=2))
def test_fiftyone_pairs_images_with_masks(tmp_path_factory, masks):
    pictures = [picture_of(mask, f"x/{k}", path=None) for k, mask in enumerate(masks)]
    folder = written(tmp_path_factory.mktemp("x"), "fiftyone", pictures)
    for k, mask in enumerate(masks):
        read = Image.open(folder / "labels" / "x" / f"{k}.png")
        assert read.mode == "L"
        np.testing.assert_array_equal(np.asarray(read), mask)
        image = np.asarray(Image.open(folder / "data" / "x" / f"{k}.png"))
        np.testing.assert_array_equal(image, photo(mask.shape, 0))
    targets = json.loads((folder / "mask_targets.json").read_text())
    assert targets == {str(k): name for k, name in enumerate(["background", *NAMES])}


@given(MASKS)
def test_panoptic_segments(tmp_path_factory, mask):
    folder = written(tmp_path_factory.mktemp("x"), "coco_panoptic", [picture_of(mask)])
    content = json.loads((folder / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert list(names.values()) == [*NAMES, "background"]
    assert [category["isthing"] for category in content["categories"]] == [1] * 4 + [0]
    (annotation,) = content["annotations"]
    (image,) = content["images"]
    assert (annotation["image_id"], image["file_name"]) == (image["id"], "deep/a.jpg")
    colours = np.asarray(Image.open(folder / "panoptic" / annotation["file_name"])).astype(int)
    ids = colours @ [1, 256, 65536]
    read = np.full(mask.shape, UNCERTAIN)
    for segment in annotation["segments_info"]:
        inside = ids == segment["id"]
        left, top, width, height = segment["bbox"]
        assert inside[top : top + height, left : left + width].sum() == segment["area"]
        rows, columns = np.nonzero(inside)
        assert (len(rows), rows.max() - rows.min() + 1) == (segment["area"], height)
        assert np.ptp(columns) + 1 == width and segment["iscrowd"] == 0
        read[inside] = segment["category_id"] % 5  # the background is the fifth
    np.testing.assert_array_equal(read, mask)
    assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("cvat", ["a:b"], "ends the name of a class at a colon, and there is 'a:b': rename"),
        ("cvat", ["#a"], "takes a line that begins with # or white space apart, as of '#a'"),
        ("cvat", [str(k) for k in range(255)], "holds 254 classes at most, and there are 255"),
        ("labelme", ["cat", "__ignore__"], "does not read the name '__ignore__' as it is"),
    ],
)
def test_names_that_a_format_cannot_hold(tmp_path, name, names, message):
    with pytest.raises(UserError, match=f"--format={name} {message}"):
        writer.MaskWriter(name, tmp_path / "out", Task(names))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", writer.FORMATS)
def test_no_picture_at_all(tmp_path, name):
    folder = tmp_path / name
    names = CVAT_NAMES if name == "cvat" else NAMES
    writer.MaskWriter(name, folder, Task(names, folder=folder)).save()
    for path in (tmp_path / name).glob("*.json"):
        json.loads(path.read_text())


def test_formats_by_name():
    listed = predict.__doc__.replace("\n", " ").rpartition(": ")[2]
    assert listed.strip(" .").split(", ") == list(writer.FORMATS)
    assert writer.parse("coco, png,ultralytics,coco") == ("coco", "ultralytics")
    with pytest.raises(UserError, match="--format has 'cocoa', which is no format: use png, ult"):
        writer.parse("coco,cocoa")
    assert writer.parse("cvat,labelme", polygons=True) == ("cvat", "labelme")
    for text in ("png", "ultralytics,cvat"):
        with pytest.raises(UserError, match="--polygons is for coco, label_studio, labelme, and"):
            writer.parse(text, polygons=True)
