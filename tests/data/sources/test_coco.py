import json
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest

from toco_jax import data
from toco_jax.cli import commands
from toco_jax.data import labels
from toco_jax.data.build import coco_instances, coco_masks, coco_regions
from toco_jax.data.classes import COCO_CLASSES, palette
from toco_jax.data.sources import coco
from toco_jax.runtime.errors import DataError

pycocotools = pytest.importorskip("pycocotools.coco")
rle = pytest.importorskip("pycocotools.mask")

# Of pycocotools against numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NUM = 20  # images a part; every seventh has no annotation
ANNOTATED = NUM - len(range(6, NUM, 7))


def polygon(rng, height, width):
    centre = rng.uniform(0, (width, height))
    angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
    radius = rng.uniform(4, 25, 7)
    corners = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.clip(corners, 0, (width, height)).round(2).ravel().tolist()


def segmentation(kind, rng, height, width):
    """(what `segmentation` holds, iscrowd): polygons, run lengths, compressed run lengths."""
    if kind < 3:
        return [polygon(rng, height, width) for _ in range(1 + kind)], 0
    region = np.zeros((height, width), np.uint8, order="F")
    y, x = rng.integers(0, (height - 12, width - 12))
    region[y : y + 12, x : x + 12] = 1
    if kind == 3:
        code = rle.encode(region)
        return {"size": code["size"], "counts": code["counts"].decode()}, 0
    flat = np.concatenate([[0], region.ravel(order="F"), [2]])
    ends = np.flatnonzero(np.diff(flat))
    return {"size": [height, width], "counts": np.diff(np.r_[0, ends]).tolist()}, 1


@pytest.fixture(scope="session")
def fake_coco(tmp_path_factory):
    """Official files of 40 small images: polygons, run lengths, crowds, overlaps, empty ones."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    categories = [
        {"id": i, "name": n} for i, n in zip(coco.CATEGORY_IDS, COCO_CLASSES, strict=True)
    ]
    for part, offset in (("train2014", 0), ("val2014", 1000)):
        (root / part).mkdir()
        images, annotations = [], []
        for k in rng.permutation(NUM).tolist():
            height, width = (int(v) for v in rng.integers(40, 70, 2))
            name = f"COCO_{part}_{offset + k:012d}.jpg"
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            cv2.imwrite(str(root / part / name), pixels)
            images.append({"id": offset + k, "file_name": name, "height": height, "width": width})
            for _ in range(0 if k % 7 == 6 else int(rng.integers(1, 6))):
                code, crowd = segmentation(int(rng.integers(5)), rng, height, width)
                annotations.append(
                    {
                        "id": offset * 100 + len(annotations) + 1,
                        "image_id": offset + k,
                        "category_id": int(rng.choice(coco.CATEGORY_IDS)),
                        "iscrowd": crowd,
                        "segmentation": code,
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def prepared(fake_coco):
    commands.run("prepare", ["coco", "--root", str(fake_coco), "--workers", "0"])
    return fake_coco


def open_split(root, split="train", masks=True, **options):
    return data.open_source("coco", root=root, split=split, masks=masks, **options)


def expected_mask(api, image):
    """Slowly, by pycocotools alone: pixel by pixel, the smallest object there, 255 under a crowd
    where there is no other."""
    found = api.loadAnns(api.getAnnIds(imgIds=[image["id"]]))
    layers = [(api.annToMask(a).astype(bool), a) for a in found]
    mask = np.zeros((image["height"], image["width"]), int)
    for y, x in np.ndindex(*mask.shape):
        here = [(inside.sum(), -a["id"], a) for inside, a in layers if inside[y, x]]
        objects = [entry for entry in here if not entry[2]["iscrowd"]]
        if objects:
            smallest = min(objects, key=lambda entry: entry[:2])[2]
            mask[y, x] = coco.CATEGORY_IDS.index(smallest["category_id"]) + 1
        elif here:
            mask[y, x] = 255
    return mask


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_and_labels_equal_pycocotools(prepared, split, capsys):
    part = coco.PARTS[split]
    api = pycocotools.COCO(str(prepared / "annotations" / f"instances_{part}.json"))
    capsys.readouterr()
    source = open_split(prepared, split)
    annotated = {a["image_id"] for a in api.dataset["annotations"]}
    assert len(source) == len(annotated) == ANNOTATED
    records = {record["name"]: record for record in (source[i] for i in range(len(source)))}
    crowds = overlaps = 0
    for image_id in sorted(annotated):
        image = api.imgs[image_id]
        record = records[image["file_name"].removesuffix(".jpg")]
        expected = expected_mask(api, image)
        np.testing.assert_array_equal(record["mask"], expected)
        assert record["mask"].dtype == np.uint8
        found = api.loadAnns(api.getAnnIds(imgIds=[image_id]))
        ids = {a["category_id"] for a in found}
        assert set(np.flatnonzero(record["cls_label"])) == {coco.CATEGORY_IDS.index(i) for i in ids}
        crowds += (expected == 255).any()
        overlaps += any(
            (api.annToMask(a) & api.annToMask(b)).any() for a in found for b in found if a is not b
        )
    assert crowds > 3 and overlaps > 3  # the rules were put to the test
    assert list(source.names) == sorted(source.names)


def test_categories_are_the_official_ones():
    assert len(coco.CATEGORY_IDS) == 80 and coco.CATEGORY_IDS[-1] == 90
    by_name = dict(zip(COCO_CLASSES, coco.CATEGORY_IDS, strict=True))
    known = {"person": 1, "stop sign": 13, "backpack": 27, "bottle": 44, "banana": 52}
    known |= {"dining table": 67, "toilet": 70, "tv": 72, "book": 84, "toothbrush": 90}
    assert {name: by_name[name] for name in known} == known


def test_smaller_objects_lie_on_top_and_crowds_below():
    def item(number, label, crowd, y0, y1, x0, x1):
        corners = [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
        return {"id": number, "label": label, "crowd": crowd, "segmentation": [corners]}

    objects = [
        item(1, 3, False, 4, 8, 4, 8),
        item(2, 5, False, 0, 12, 0, 12),
        item(3, 7, True, 0, 16, 0, 6),
    ]
    mask = coco_masks.draw_mask(objects, (16, 20))
    assert (mask[5, 5], mask[2, 2], mask[14, 2], mask[14, 15]) == (3, 5, 255, 0)
    np.testing.assert_array_equal(mask, coco_masks.draw_mask(objects[::-1], (16, 20)))
    twins = [item(4, 9, False, 0, 4, 0, 4), item(5, 8, False, 0, 4, 0, 4)]
    assert coco_masks.draw_mask(twins[::-1], (16, 20))[1, 1] == 8  # annotated later


def test_points_and_lines_cover_nothing():
    thing = {"id": 1, "label": 3, "crowd": False}
    for degenerate in ([], [[1.0, 1.0]], [[1.0, 1.0, 6.0, 6.0]]):
        assert not coco_masks.draw_mask([thing | {"segmentation": degenerate}], (8, 9)).any()
    square = [1.0, 1.0, 4.0, 1.0, 4.0, 4.0, 1.0, 4.0]
    both = coco_masks.draw_mask([thing | {"segmentation": [[0.0, 0.0, 8.0, 8.0], square]}], (8, 9))
    assert both.any() and not both[5:].any()


def test_preparing_again_is_free_and_goes_on_where_it_was_stopped(fake_coco, tmp_path):
    def states(workers=0):
        return list(coco_masks.prepare_part(fake_coco, tmp_path, "val2014", workers=workers))

    count = ANNOTATED
    assert states() == [(0, count), (count, count)]
    whole = {path.name: path.read_bytes() for path in tmp_path.rglob("*.p*g")}
    assert states() == [(0, 0)]
    masks = sorted((tmp_path / "masks" / "val2014").glob("*.png"))
    (tmp_path / "val2014.npz").unlink()
    for path in masks[:3]:
        path.unlink()
    masks[5].touch()
    assert states(workers=2) == [(count - 3, count), (count, count)]  # processes give the same
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.p*g")} == whole


def test_other_annotations_start_over(fake_coco, tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    path = root / "annotations" / "instances_val2014.json"
    shutil.copy(fake_coco / "annotations" / path.name, path)
    out = root / "prepared"
    list(coco_masks.prepare_part(root, out, "val2014", workers=0))
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:3]
    path.write_text(json.dumps(content))
    list(coco_masks.prepare_part(root, out, "val2014", workers=0))
    left = {a["image_id"] for a in content["annotations"]}
    assert len(list((out / "masks" / "val2014").glob("*.png"))) == len(left)
    assert len(open_split(root, "val")) == len(left)


def test_val_part_is_evenly_spaced(prepared, monkeypatch):
    np.testing.assert_array_equal(coco.evenly_spaced(10, 4), [0, 2, 5, 7])
    np.testing.assert_array_equal(coco.evenly_spaced(3, 5), [0, 1, 2])
    full = coco.evenly_spaced(40_137, 5_000)
    assert len(np.unique(full)) == 5_000 and set(np.diff(full)) == {8, 9} and full[-1] < 40_137
    monkeypatch.setattr(coco, "VAL_PART", 5)
    val, part = open_split(prepared, "val"), open_split(prepared, "val_part")
    chosen = coco.evenly_spaced(len(val), 5)
    assert part.names == tuple(val.names[i] for i in chosen)
    np.testing.assert_array_equal(part[2]["mask"], val[int(chosen[2])]["mask"])
    np.testing.assert_array_equal(part.cls_labels, val.cls_labels[chosen])


def test_lists_make_splits(prepared):
    val, train = open_split(prepared, "val"), open_split(prepared, "train")
    path = prepared / "prepared" / "few.txt"
    path.write_text(f"{val.names[3]}.jpg\r\n\r\n{train.names[1]}\r\n")
    few = open_split(prepared, "few")
    assert few.names == (val.names[3], train.names[1])
    np.testing.assert_array_equal(few[0]["mask"], val[3]["mask"])
    np.testing.assert_array_equal(few[1]["image"], train[1]["image"])
    path.write_text("COCO_val2014_000000999999\n")
    with pytest.raises(DataError, match=f"list {path} has 'COCO_.*', which is no annotated image"):
        open_split(prepared, "few")
    path.unlink()
    with pytest.raises(DataError, match=r"unknown split 'few' of COCO: use train, val, val_part"):
        open_split(prepared, "few")


def test_images_may_lie_in_images(prepared, tmp_path):
    shutil.copytree(prepared / "prepared", tmp_path / "prepared")
    shutil.copytree(prepared / "val2014", tmp_path / "images" / "val2014")
    one, two = open_split(prepared, "val")[0], open_split(tmp_path, "val")[0]
    np.testing.assert_array_equal(one["image"], two["image"])


def stored(mask, kind):
    """A label map as ready-made folders store it."""
    ids = np.arange(256, dtype=np.uint8)
    ids[1:81] = coco.CATEGORY_IDS
    if kind == "labels":
        return PIL.Image.fromarray(mask)
    if kind == "ids":
        return PIL.Image.fromarray(ids[mask])
    if kind == "colours":
        return PIL.Image.fromarray(palette()[mask])
    grey = PIL.Image.fromarray(ids[mask] if kind == "grey ids" else mask)
    return grey.convert("RGBA" if kind == "grey RGBA" else "RGB")


@pytest.mark.parametrize("in_parts", [True, False])
@pytest.mark.parametrize("kind", ["labels", "ids", "grey RGBA", "grey ids", "colours"])
def test_ready_made_masks_are_recognised(prepared, tmp_path, kind, in_parts):
    source = open_split(prepared, "val")
    folder = tmp_path / "val2014" if in_parts else tmp_path
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(source.names):
        stored(source[i]["mask"], kind).save(folder / f"{name}.png")
    given = open_split(prepared, "val", mask_folder=str(tmp_path))
    for i in range(len(source)):
        np.testing.assert_array_equal(given[i]["mask"], source[i]["mask"])
    (folder / f"{source.names[0]}.png").unlink()
    some = open_split(prepared, "val", mask_folder=str(tmp_path), partial_masks=True)
    assert some.masks[0] is None and (some[0]["mask"] == 255).all()
    np.testing.assert_array_equal(some[1]["mask"], source[1]["mask"])


def test_masks_that_are_not_recognised_are_refused(prepared, tmp_path):
    source = open_split(prepared, "val")

    def write(picture_of):
        for i, name in enumerate(source.names):
            picture_of(source[i]["mask"]).save(tmp_path / f"{name}.png")

    def refused(message):
        with pytest.raises(DataError, match=message):
            open_split(prepared, "val", mask_folder=str(tmp_path))

    write(lambda mask: PIL.Image.fromarray((mask + 3).astype(np.uint8)))
    refused(r"not recognised. As labels 0\.\.80: .*; as official ids 1\.\.90: .*Run toco prepare")
    write(lambda mask: PIL.Image.fromarray(np.repeat(mask[..., None], 2, 2), "LA"))
    refused("is stored as LA; save 8-bit palette PNGs or run")
    with pytest.raises(DataError, match=r"nowhere is not a folder; correct data\.masks or"):
        open_split(prepared, "val", mask_folder="nowhere")


def test_unprepared_folders_say_what_to_run(fake_coco, tmp_path):
    with pytest.raises(DataError, match=rf"{tmp_path}/no is not a folder; give the one that holds"):
        open_split(tmp_path / "no")
    with pytest.raises(
        DataError, match=rf"train2014\.npz is missing: run toco prepare coco --root {tmp_path}"
    ):
        open_split(tmp_path)
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "train2014.npz").write_bytes(b"PK damaged")
    with pytest.raises(DataError, match=r"train2014\.npz cannot be read .*; remove it and run"):
        open_split(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.pop("categories"),
            r"is not an instances file of COCO \(categories is no list\)",
        ),
        (lambda c: c["categories"].pop(), "has 79 categories that are not COCO's 80; give the off"),
        (lambda c: c["annotations"][0].update(image_id=-5), r"annotation \d+: image_id -5 is none"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
            r"image COCO_.*: annotation \d+ has no valid segmentation \(a polygon has an odd",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [3, 3], "counts": [9]}),
            r"annotation \d+ has no valid segmentation",
        ),
    ],
)
def test_damaged_annotations_are_named(fake_coco, tmp_path, change, message):
    content = json.loads((fake_coco / "annotations" / "instances_val2014.json").read_text())
    change(content)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        commands.run("prepare", ["coco", "--root", str(tmp_path), "--workers", "0"])


def test_missing_annotations_are_named(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*holds neither instances_train2014\.json nor"):
        commands.run("prepare", ["coco", "--root", str(tmp_path)])


def test_masks_are_palette_pictures_in_vocs_colours(prepared):
    source = open_split(prepared, "val")
    with PIL.Image.open(source.masks[0]) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(
            np.asarray(picture.convert("RGB")), palette()[source[0]["mask"]]
        )
    np.testing.assert_array_equal(labels.read_mask(source.masks[0], 80), source[0]["mask"])


def instances(**changes):
    """The content of an instances file with one image of 5 x 4 pixels and one object in it."""
    image = {"id": 7, "file_name": "a.jpg", "height": 4, "width": 5}
    square = [1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0]
    item = {"id": 31, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [square]}
    categories = [
        {"id": i, "name": n} for i, n in zip(coco.CATEGORY_IDS, COCO_CLASSES, strict=True)
    ]
    content = {"images": [image], "annotations": [item], "categories": categories}
    for key, value in changes.items():
        {"image": image, "item": item, "content": content}[key].update(value)
    return content


@pytest.fixture
def read_instances(tmp_path):
    """What is read from an instances file's content."""

    def read(content):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return coco_instances.read_annotations(path)

    return read


def test_numbers_written_as_text_are_read(read_instances):
    expected = read_instances(instances())
    assert expected[0]["objects"][0]["label"] == COCO_CLASSES.index("dog") + 1
    text = instances(
        image={"id": "7", "height": "4", "width": 5.0, "file_name": "train2014\\a.jpg"},
        item={"id": "31", "image_id": 7, "category_id": "18", "iscrowd": "0"},
    )
    text["categories"] = [{"id": str(c["id"]), "name": c["name"]} for c in text["categories"]]
    assert read_instances(text) == expected
    crowds = [
        read_instances(instances(item={"iscrowd": crowd}))[0]["objects"][0]["crowd"]
        for crowd in (0, 1, "0", "1", False, True, 0.0)
    ]
    assert crowds == [False, True, False, True, False, True, False]
    without = instances()
    del without["annotations"][0]["iscrowd"]
    assert read_instances(without) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": {"iscrowd": "no"}}, "annotation 31: iscrowd is 'no', not 0 or 1"),
        ({"item": {"iscrowd": None}}, "annotation 31: iscrowd is None, not 0 or 1"),
        ({"item": {"image_id": 8}}, "annotation 31: image_id 8 is none of the file's images"),
        ({"item": {"image_id": "x"}}, "annotation 31: image_id is 'x', not a whole number"),
        ({"item": {"category_id": 12}}, "annotation 31: category_id 12 is none of COCO's"),
        ({"item": {"category_id": None}}, "annotation 31: category_id is None, not a whole"),
        ({"item": {"category_id": True}}, "annotation 31: category_id is True, not a whole"),
        ({"item": {"id": 3.5}}, r"annotation number 1: id is 3\.5, not a whole number"),
        ({"image": {"height": 0}}, "image 7: height is 0; it has to be 1 to 65535"),
        ({"image": {"width": 10**9}}, "image 7: width is 1000000000; it has to be 1 to 65535"),
        (
            {"image": {"width": 60_000, "height": 60_000}},
            "image 7: height x width is 60000 x 60000",
        ),
        ({"image": {"width": None}}, "image 7: width is None, not a whole number"),
        ({"image": {"file_name": ""}}, "image 7: file_name is '', no name"),
        ({"image": {"file_name": 5}}, "image 7: file_name is 5, no name"),
        ({"content": {"annotations": []}}, "has no annotation; give the file of a part with some"),
        ({"content": {"annotations": {}}}, "annotations is no list"),
        ({"content": {"images": [3]}}, "images: entry 1 is no object"),
    ],
)
def test_wrong_fields_are_named(read_instances, tmp_path, changes, message):
    with pytest.raises(DataError, match=rf"{tmp_path}/instances\.json.*{message}"):
        read_instances(instances(**changes))


@pytest.mark.parametrize("field", ["image_id", "category_id", "segmentation", "id"])
def test_missing_fields_are_named(read_instances, field):
    content = instances()
    del content["annotations"][0][field]
    which = "number 1" if field == "id" else "31"
    with pytest.raises(DataError, match=rf"instances\.json, annotation {which}: .*{field}"):
        read_instances(content)


def test_images_and_annotations_there_twice_are_named(read_instances):
    content = instances()
    content["images"] *= 2
    with pytest.raises(DataError, match="image 7 is there twice"):
        read_instances(content)
    content["images"] = [
        content["images"][0],
        content["images"][0] | {"id": 8, "file_name": "b/a.png"},
    ]
    with pytest.raises(DataError, match="images 7 and 8 are both called 'a'"):
        read_instances(content)
    content = instances()
    content["annotations"] *= 2
    with pytest.raises(DataError, match="annotation 31 is there twice"):
        read_instances(content)


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (["a", "b"], np.zeros((1, 80)), r"no 0 and 1 of shape \(2, 80\)"),
        (["a"], np.zeros((1, 20)), r"no 0 and 1 of shape \(1, 80\)"),
        (["a"], np.full((1, 80), 2), r"no 0 and 1 of shape \(1, 80\)"),
        (["a", "a"], np.zeros((2, 80)), "no list of different names"),
        ([1, 2], np.zeros((2, 80)), "no list of different names"),
    ],
)
def test_prepared_labels_are_checked(tmp_path, names, labels, message):
    (tmp_path / "prepared").mkdir()
    np.savez(tmp_path / "prepared" / "val2014.npz", names=names, labels=labels)
    for split in ("val", "few"):
        (tmp_path / "prepared" / "few.txt").write_text("a\n")
        with pytest.raises(
            DataError, match=rf"val2014\.npz cannot be read \(.*{message}.*; remove"
        ):
            open_split(tmp_path, split, masks=False)


def drawn(segmentation, size=(4, 5)):
    item = {"id": 31, "label": 3, "crowd": False, "segmentation": segmentation}
    return coco_masks.draw_mask([item], size)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ([[1, 1, float("nan"), 1, 3, 3]], "coordinate that is no finite number"),
        ([[1, 1, float("inf"), 1, 3, 3]], "coordinate that is no finite number"),
        ([[1, 1, 1e9, 1, 3, 3]], "far outside"),
        ([[1, 1, -1e300, 1, 3, 3]], "far outside"),
        ([[1, 1, 10**400, 1, 3, 3]], "far outside"),
        ([[1, 1, "x", 1, 3, 3]], "not a list of numbers"),
        ([1, 1, 3, 1, 3, 3], "not a list of numbers"),
        ([[[1, 1], [3, 1], [3, 3]]], "not a list of numbers"),
        ([[1, 1, None, 1, 3, 3]], "not a list of numbers"),
        ([[1, 1, 3, 1, 3]], "odd number"),
        ({"size": [4, 5], "counts": [3, 5]}, "run lengths cover 8 of 20 pixels"),
        ({"size": [4, 5], "counts": [3, 50]}, "run lengths cover 53 of 20 pixels"),
        ({"size": [4, 5], "counts": [3, -1, 18]}, "negative or no whole number"),
        ({"size": [4, 5], "counts": [3, 1.5, 15.5]}, "negative or no whole number"),
        (
            {"size": [4, 5], "counts": [2**62, 2**62, 2**62, 2**62, 20]},
            "negative or no whole|cover",
        ),
        ({"size": [4, 5], "counts": [float("inf"), 20]}, "negative or no whole number"),
        ({"size": [4, 5], "counts": "P" * 50}, "number of too many characters"),
        ({"size": [4, 5], "counts": "o" * 50}, "number of too many characters"),
        ({"size": [4, 5], "counts": ["20"]}, "negative or no whole number"),
        ({"size": [4, 5], "counts": [[20]]}, "negative or no whole number"),
        ({"size": [4, 5], "counts": []}, "run lengths cover 0 of 20 pixels"),
        ({"size": [4, 5], "counts": "3"}, "run lengths cover 3 of 20 pixels"),
        ({"size": [4, 5], "counts": "`"}, "ends within a number"),
        ({"size": [4, 5], "counts": "\u00e9"}, "character"),
        ({"size": [4, 5], "counts": 20}, "counts are neither"),
        ({"size": [5, 4], "counts": [20]}, "drawn for 4 x 5 pixels"),
        ({"size": [4], "counts": [20]}, "size"),
        ({"counts": [20]}, "size"),
        ({"size": [4, 5]}, "counts"),
        ("3", "neither polygons nor"),
        (None, "neither polygons nor"),
    ],
)
def test_segmentations_that_cannot_be_drawn_are_named(code, message):
    with pytest.raises(DataError, match=rf"annotation 31 has no valid segmentation \(.*{message}"):
        drawn(code)


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_pycocotools_own(seed):
    rng = np.random.default_rng(seed)
    size = tuple(int(v) for v in rng.integers(1, 60, 2))
    region = (rng.random(size) < rng.random()).astype(np.uint8)
    region[: size[0] // 2] = region[0, 0]  # some long runs
    code = rle.encode(np.asfortranarray(region))
    text = code["counts"].decode()
    for counts in (text, text.encode(), coco_regions.run_lengths(text)):
        np.testing.assert_array_equal(
            drawn({"size": list(size), "counts": counts}, size) > 0, region
        )


def test_polygons_that_reach_over_the_edge_are_cut_off():
    mask = drawn([[-3.0, -3.0, 8.0, -3.0, 8.0, 2.0, -3.0, 2.0]])
    assert mask[:2].all() and not mask[2:].any()
