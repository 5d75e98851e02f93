"""Masks in the formats of other tools: read back, by the tool's reader or one here, they are equal.

Each test writes as the commands do, through `MaskWriter`.
"""

import json
import pathlib

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis.extra import numpy as hnp
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from tiny_run import photo

from toco_jax.inference.formats import writer
from toco_jax.inference.formats.components import column_runs, components, packed_runs
from toco_jax.inference.formats.outlines import polygons
from toco_jax.inference.formats.pictures import Picture, Task
from toco_jax.runtime.errors import UserError

NAMES = ("Straße: nass, glatt", "big  cat", '"quoted" #1', "猫")
UNCERTAIN = 255

# Of pycocotools' own, with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# Labels of few values in many small patches: holes, corners that touch, single pixels.
MASKS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 0, 1, 1, 4, UNCERTAIN]),
)
RING = np.pad(np.zeros((3, 3), np.uint8), 2, constant_values=1)
CHECKS = np.indices((6, 7)).sum(axis=0).astype(np.uint8) % 2


def picture_of(mask, name="deep/a", file_name="deep/a.jpg", **changed):
    mask = np.asarray(mask, np.uint8)
    given = {"path": pathlib.Path("a.jpg"), "read": lambda: photo(mask.shape, 0)}
    return Picture(name=name, file_name=file_name, mask=mask, **(given | changed))


def written(folder, name, pictures, **changed):
    """The folder of a format after all pictures were written, the last one first."""
    masks = writer.MaskWriter(name, folder / name, Task(NAMES, folder=folder / name, **changed))
    for number, picture in reversed(list(enumerate(pictures))):
        masks.add(number, picture)
        masks.save()
    return folder / name


def certain(mask):
    return np.where(mask == UNCERTAIN, 0, mask)


@given(MASKS)
@example(RING)
@example(CHECKS)
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
    broken = {"path": tmp_path / "broken.jpg", "read": lambda: pixels}
    pictures.append(picture_of(np.zeros((4, 6)), "broken.jpg", **broken))
    images = written(tmp_path, "ultralytics", pictures) / "images" / "train"
    for name in ("plain.jpg", "plain.png"):
        copied = images / f"{name}{pathlib.Path(name).suffix}"
        assert copied.read_bytes() == (tmp_path / name).read_bytes()
    for name in ("turned.jpg", "clear.png", "broken.jpg"):
        np.testing.assert_array_equal(np.asarray(Image.open(images / f"{name}.png")), pixels)


@pytest.mark.parametrize("name", writer.FORMATS)
def test_no_picture_at_all(tmp_path, name):
    masks = writer.MaskWriter(name, tmp_path / name, Task(NAMES))
    masks.save()
    for path in (tmp_path / name).glob("*.json"):
        json.loads(path.read_text())


def test_formats_by_name():
    assert writer.parse("coco, png,ultralytics,coco") == ("coco", "ultralytics")
    with pytest.raises(UserError, match="--format has 'cocoa', which is no format: use png, ult"):
        writer.parse("coco,cocoa")
