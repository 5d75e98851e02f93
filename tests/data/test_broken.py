"""Broken data: each case names its fault in one sentence, in training and in the check."""

import itertools
import json
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
from data.conftest import small_config, write_mask

from toco_jax.data import check, open_configured, pipeline
from toco_jax.runtime.errors import DataError

LISTS = ("ImageSets", "Segmentation")


def truncate(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def progressive(path):
    """A truncated progressive JPEG, of which some decoders make a blurred picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(path, progressive=True)
    truncate(path)


def bomb(path):
    """A PNG whose header announces 60,000 x 60,000 pixels."""
    cv2.imwrite(str(path), np.zeros((2, 2, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    path.write_bytes(content)


def voc_image(name):
    return lambda root: root / "JPEGImages" / f"2007_{name:06d}.jpg"


def voc_mask(name):
    return lambda root: root / "SegmentationClassAug" / f"2007_{name:06d}.png"


def voc_xml(name):
    return lambda root: root / "Annotations" / f"2007_{name:06d}.xml"


def voc_list(name):
    return lambda root: root.joinpath(*LISTS, f"{name}.txt")


def write(content):
    return lambda path: path.write_bytes(content)


def picture(mode, size=(20, 12)):
    return lambda path: PIL.Image.new(mode, size).save(path)


VOC = [
    # What is broken, how, and what is said about it.
    ("zero bytes", voc_image(1), write(b""), r"image .*1\.jpg \(0 bytes\) cannot be decoded; repl"),
    ("no image", voc_image(1), write(b"<html>404</html>"), r"\(16 bytes\) cannot be decoded"),
    ("truncated JPEG", voc_image(1), truncate, r"1\.jpg .* cannot be decoded; .*'2007_000001' out"),
    ("truncated progressive", voc_image(3), progressive, r"3\.jpg .* cannot be decoded"),
    (
        "truncated PNG",
        voc_image(1),
        lambda p: (
            picture("RGB")(p.with_suffix(".png")),
            p.with_suffix(".png").rename(p),
            truncate(p),
        ),
        r"1\.jpg .* cannot be decoded",
    ),
    (
        "image absent",
        voc_image(1),
        lambda p: p.unlink(),
        r"image .*1\.jpg is missing; add the file",
    ),
    ("image is a folder", voc_image(1), lambda p: (p.unlink(), p.mkdir()), "cannot be read .*; ch"),
    ("val image broken", voc_image(2), write(b"\xff\xd8"), r"2\.jpg \(2 bytes\) cannot be decoded"),
    (
        "images absent",
        lambda r: r / "JPEGImages",
        shutil.rmtree,
        "has no folder JPEGImages; unpack",
    ),
    ("devkit absent", lambda r: r, shutil.rmtree, "is not a folder; give the devkit's"),
    ("lists absent", lambda r: r.joinpath(*LISTS), shutil.rmtree, "has no folder ImageSets"),
    (
        "val list absent",
        voc_list("val"),
        lambda p: p.unlink(),
        r"split 'val' has no list .*val\.txt",
    ),
    ("val list empty", voc_list("val"), write(b"\n \n"), "split 'val' is empty"),
    (
        "old-style list",
        voc_list("val"),
        write(b"/JPEGImages/2007_000002.jpg /Seg/2.png\n"),
        "has the line '/JPEGImages/.*', .*; write one image name a line",
    ),
    (
        "name twice",
        voc_list("val"),
        write(b"2007_000002\n2007_000002\n"),
        "'2007_000002' twice; keep",
    ),
    (
        "list in another encoding",
        voc_list("val"),
        write("2007_000002 é\n".encode("latin1")),
        "cannot be read as",
    ),
    (
        "listed but absent",
        voc_list("train_aug"),
        write(b"2007_000001\n2007_000009\n"),
        r"annotation .*9\.xml is missing; .* '2007_000009' out of the split",
    ),
    ("XML absent", voc_xml(1), lambda p: p.unlink(), r"annotation .*1\.xml is missing"),
    ("XML cut off", voc_xml(1), truncate, r"annotation .*1\.xml is malformed XML"),
    (
        "unknown class",
        voc_xml(1),
        write(b"<annotation><object><name>yak</name></object></annotation>"),
        "names an object 'yak', which is none of the 20 classes",
    ),
    ("mask absent", voc_mask(2), lambda p: p.unlink(), "mask .*2.png is missing"),
    ("mask zero bytes", voc_mask(2), write(b""), r"mask .*2\.png \(0 bytes\) cannot be decoded"),
    ("mask truncated", voc_mask(2), truncate, r"mask .*2\.png .* cannot be decoded; replace"),
    (
        "mask in RGB",
        voc_mask(2),
        picture("RGB"),
        "mask .* is stored as RGB, not as palette indices",
    ),
    ("mask of 16 bits", voc_mask(2), picture("I;16"), "mask .* is stored as I;16"),
    (
        "mask of another size",
        voc_mask(2),
        picture("P", (12, 20)),
        "mask .* is 12 x 20 pixels but im",
    ),
    (
        "unknown index",
        voc_mask(2),
        lambda p: write_mask(p, np.full((12, 20), 21, np.uint8)),
        r"mask .* holds the value 21, but labels are 0\.\.20 and 255",
    ),
    ("mask bomb", voc_mask(2), bomb, r"mask .*2\.png .* cannot be decoded"),
]
FOLDER = [
    ("image bomb", lambda r: r / "0.png", bomb, r"image .*0\.png .* cannot be decoded"),
    (
        "label file cut off",
        lambda r: r / "labels.csv",
        write(b"0.png,cat\n1.png"),
        "is not `file,la",
    ),
    (
        "no label",
        lambda r: r / "labels.csv",
        write(b"0.png,cat\n4.png,cat\n"),
        "no entry for image '1'",
    ),
    (
        "label file binary",
        lambda r: r / "labels.csv",
        write(b"\xff\xfe\x00"),
        r"labels\.csv cannot be re",
    ),
    (
        "label file a folder",
        lambda r: r / "labels.csv",
        lambda p: (p.unlink(), p.mkdir()),
        "lies in no class folder, and there are no labels",
    ),
    (
        "unknown label",
        lambda r: r / "classes.txt",
        write(b"cat\n"),
        "'dog' is none of the 1 class ",
    ),
    (
        "listed but absent",
        lambda r: r / "3.png",
        lambda p: p.unlink(),
        r"image .*/3 is missing; add",
    ),
    (
        "twice by ending",
        lambda r: r / "3.jpg",
        write(b"x"),
        r"same name without ending; rename one",
    ),
    ("empty list", lambda r: r / "train.txt", write(b""), "split 'train' is empty"),
]
COCO = [
    ("not prepared", lambda r: r / "prepared", shutil.rmtree, r"run toco prepare coco --root"),
    (
        "index cut off",
        lambda r: r / "prepared" / "train2014.npz",
        truncate,
        "cannot be read .*; remove",
    ),
    (
        "mask absent",
        lambda r: next((r / "prepared" / "masks" / "val2014").glob("*.png")),
        lambda p: p.unlink(),
        "mask .* is missing",
    ),
]


def read_all(config):
    """What training and its evaluation read."""
    train = open_configured(config, part="train", masks=False)
    val = open_configured(config, part="val", masks=True)
    batches = pipeline.train_batches(
        train, seed=0, start_step=0, batch_size=4, crop_size=16, as_published=False, num_threads=2
    )
    for _ in itertools.islice(batches, -(-2 * len(train) // 4)):
        pass
    batches.close()
    list(pipeline.eval_batches(val, batch_size=4, size=16, num_threads=2))


def assert_named(config, message):
    with pytest.raises(DataError, match=message) as caught:
        read_all(config)
    assert "\n" not in str(caught.value)
    _, problems = check.check(config, threads=2, show=lambda _, states: list(states))
    fatal = [problem.message for problem in problems if problem.fatal]
    assert str(caught.value) in fatal


def configured(name, root):
    config = small_config(name)
    config.data.root = str(root)
    return config


@pytest.fixture
def coco(tmp_path):
    """A prepared COCO of one image in train and one in val."""
    (tmp_path / "prepared" / "masks" / "val2014").mkdir(parents=True)
    for part in ("train2014", "val2014"):
        (tmp_path / part).mkdir()
        cv2.imwrite(str(tmp_path / part / "x.jpg"), np.zeros((8, 9, 3), np.uint8))
        labels = np.zeros((1, 80), np.uint8)
        np.savez_compressed(tmp_path / "prepared" / f"{part}.npz", names=["x"], labels=labels)
    write_mask(tmp_path / "prepared" / "masks" / "val2014" / "x.png", np.zeros((8, 9), np.uint8))
    return tmp_path


CASES = [
    pytest.param(source, maker, *harm, id=f"{source}: {what}")
    for source, maker, cases in (
        ("voc", "devkit", VOC),
        ("folder", "photos", FOLDER),
        ("coco", "coco", COCO),
    )
    for what, *harm in cases
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("source", "maker", "where", "harm", "message"), CASES)
def test_broken_data_is_named(request, source, maker, where, harm, message):
    root = request.getfixturevalue(maker)
    config = configured(source, root)
    read_all(config)
    harm(where(root))
    assert_named(config, message)


def test_a_label_that_lists_vectors_without_class_names(photos):
    (photos / "labels.csv").unlink()
    vectors = {f"{i}.png": [1, 0] for i in range(6)}
    (photos / "labels.json").write_text(json.dumps(vectors))
    config = configured("folder", photos)
    assert_named(config, r"name no class; write class names, or list them in .*classes\.txt")
    (photos / "classes.txt").write_text("cat\ndog\n")
    read_all(config)
