"""The predict command: what is written, alignment, broken files, the Segmenter behind it."""

import base64
import errno
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from stored_runs import blocks_in
from tiny_run import compilation_cache, make_run, photo

import toco_jax
from toco_jax import predict
from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES, palette
from toco_jax.inference.native import network_of
from toco_jax.inference.segmenter import Segmentation, Segmenter, best_label
from toco_jax.run import runs
from toco_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("predict")
    with compilation_cache():
        yield make_run(folder / "run", voc_config, folder)


@pytest.fixture(scope="module")
def segmenter(run):
    return Segmenter(run, multi_scale=False, batch_size=4)


def test_package_is_imported_without_jax():
    code = "import sys, toco_jax; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert toco_jax.Segmenter is Segmenter
    with pytest.raises(AttributeError, match="Segmentor"):
        toco_jax.Segmentor  # noqa: B018


def test_one_image_or_many(segmenter, tmp_path):
    images = [photo((24, 36), 0), photo((20, 30), 1)]
    masks = segmenter(images)
    assert [mask.shape for mask in masks] == [(24, 36), (20, 30)]
    assert all(mask.dtype == np.uint8 for mask in masks)
    np.testing.assert_array_equal(segmenter(images[0]), masks[0])
    np.testing.assert_array_equal(segmenter(Image.fromarray(images[1])), masks[1])
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(segmenter(tmp_path / "a.png"), masks[0])
    stacked = segmenter(np.stack([images[0]] * 2))
    np.testing.assert_array_equal(stacked, [masks[0]] * 2)
    assert segmenter.class_names == VOC_CLASSES


def test_large_images_are_segmented_scaled(segmenter):
    large = photo((96, 144), 3)
    assert segmenter.max_side == 36
    (_, result) = next(segmenter.segment([large], lambda image: {"image": image}))
    assert result.segmented_at == (24, 36)
    assert result.mask.shape == (96, 144)
    small = cv2.resize(large, (36, 24), interpolation=cv2.INTER_AREA)
    # Every fourth pixel of the large mask is near a pixel of the small one.
    assert (result.mask[2::4, 2::4] == segmenter(small)).mean() > 0.9


def test_best_label_equals_argmax_of_the_resized_scores():
    scores = np.random.default_rng(0).standard_normal((6, 7, 5)).astype(np.float32)
    expected = cv2.resize(scores, (21, 30)).argmax(axis=-1)
    np.testing.assert_array_equal(best_label(scores, (30, 21)), expected)
    np.testing.assert_array_equal(best_label(np.zeros((2, 2, 3), np.float32), (2, 2)), 0)


def test_overlay_is_aligned_to_the_pixel():
    image = np.full((60, 250, 3), 100, np.uint8)
    mask = np.zeros((60, 250), np.uint8)
    mask[17:40, 101:203] = 8  # cat
    picture = np.asarray(predict.overlay_picture(image, mask, ("background", *VOC_CLASSES)))
    assert picture.shape[1] == 250 and picture.shape[0] > 60
    changed = (picture[:60] != 100).any(axis=-1)
    np.testing.assert_array_equal(changed, mask == 8)
    expected = np.rint(0.4 * 100 + 0.6 * palette()[8].astype(float))
    np.testing.assert_array_equal(picture[20, 150], expected)
    legend = picture[60:].reshape(-1, 3)
    assert (legend == palette()[8]).all(axis=1).any()


@pytest.fixture(scope="module")
def predicted(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(photo((24, 36), 0)).save(folder / "cat.png")
    Image.fromarray(photo((48, 72), 1)).save(folder / "large.png")
    (folder / "broken.jpg").write_bytes(b"nothing")
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (36, 24))
    for seed in range(3):
        writer.write(photo((24, 36), seed))
    writer.release()
    out = folder / "out"
    arguments = [str(folder), f"--checkpoint={run}", f"--out={out}", "--every=2"]
    arguments += ["--format=coco,ultralytics"]
    with pytest.raises(SystemExit) as stopped:
        commands.run("predict", [*arguments, "--threshold=0.5", "--single_scale"])
    return stopped.value.code, out, json.loads((out / "predictions.json").read_text())


def test_a_broken_file_is_named_and_the_rest_is_done(predicted):
    code, _, found = predicted
    assert code == 1
    assert [entry["file"].rsplit("/", 1)[-1] for entry in found["failed"]] == ["broken.jpg"]
    assert "broken.jpg" in found["failed"][0]["error"]
    names = [entry["mask"] for entry in found["images"]]
    assert names == [
        *("masks/cat.png", "masks/clip/000000.png", "masks/clip/000002.png", "masks/large.png")
    ]


def test_predictions_say_what_the_files_show(predicted, segmenter):
    _, out, found = predicted
    assert found["classes"] == ["background", *VOC_CLASSES]
    entries = {entry["mask"]: entry for entry in found["images"]}
    cat, large = entries["masks/cat.png"], entries["masks/large.png"]
    assert large["notes"] == ["segmented at 36 x 24, mask at 72 x 48"] and cat["notes"] == []
    for entry in found["images"]:
        picture = Image.open(out / entry["mask"])
        assert picture.mode == "P" and list(picture.size) == entry["size"]
        mask = np.asarray(picture)
        shares = {
            found["classes"][label]: share
            for label, share in zip(*np.unique(mask, return_counts=True), strict=True)
        }
        assert shares.keys() == entry["pixel_shares"].keys()
        for label, count in shares.items():
            np.testing.assert_allclose(entry["pixel_shares"][label], count / mask.size, atol=1e-6)
        above = [label for label, score in entry["class_scores"].items() if score >= 0.5]
        assert entry["predicted"] == above and set(entry["cams"]) == set(above)
        for path in (entry["overlay"], *entry["cams"].values()):
            assert (out / path).is_file()
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / cat["mask"])), segmenter(photo((24, 36), 0))
    )
    assert any(entry["cams"] for entry in found["images"])


def test_the_page_shows_what_was_segmented(predicted):
    _, out, found = predicted
    (block,) = blocks_in(out / "predictions.html", "photos")
    names = [shown["name"] for shown in block["photos"]]
    assert names == ["cat.png", "clip.avi", "clip.avi", "large.png"]
    for shown, entry in zip(block["photos"], found["images"], strict=True):
        mask = np.asarray(Image.open(out / entry["mask"]))
        small = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["mask"]))))
        np.testing.assert_array_equal(small[..., 0], mask)
        thumb = Image.open(io.BytesIO(base64.b64decode(shown["thumb"])))
        assert list(thumb.size) == entry["size"]
        assert (shown["overlay"], shown["file"]) == (entry["overlay"], entry["mask"])
        assert all(name in shown["note"] for name in entry["predicted"])
    assert [shown["original"] for shown in block["photos"]] == [
        *("../cat.png", None, None, "../large.png")
    ]
    assert set(block["present"]) == {
        block["labels"].index([name, colour])
        for name, colour in block["labels"]
        if any(name in entry["pixel_shares"] for entry in found["images"])
    }


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_masks_for_other_tools_are_those_of_the_index_pngs(predicted):
    _, out, found = predicted
    masks = [np.asarray(Image.open(out / entry["mask"])) for entry in found["images"]]
    coco = json.loads((out / "coco" / "annotations.json").read_text())
    assert [category["name"] for category in coco["categories"]] == list(VOC_CLASSES)
    files = ["cat.png", "images/clip/000000.png", "images/clip/000002.png", "large.png"]
    assert [image["file_name"] for image in coco["images"]] == files
    for k, (entry, mask) in enumerate(zip(found["images"], masks, strict=True), start=1):
        drawn = np.zeros_like(mask)
        for annotation in coco["annotations"]:
            label = annotation["category_id"]
            if annotation["image_id"] == k:
                drawn += label * coco_mask.decode(annotation["segmentation"])
                assert annotation["score"] == entry["class_scores"][VOC_CLASSES[label - 1]]
        np.testing.assert_array_equal(drawn, mask)
    frame = np.asarray(Image.open(out / "coco" / files[2]))
    assert np.abs(frame.astype(int) - photo((24, 36), 2)[..., ::-1]).mean() < 10  # by MJPG
    for entry, mask in zip(found["images"], masks, strict=True):
        path = out / "ultralytics" / entry["mask"].replace("masks/", "masks/train/")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), mask)


def test_masks_for_other_tools_are_never_overwritten(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), f"--out={tmp_path}/out", "--format=coco"]
    assert quickly(monkeypatch, arguments)[0] == 0
    assert f"masks for coco: {tmp_path}/out/coco\n" in capsys.readouterr().out
    corrected = tmp_path / "out" / "coco" / "annotations.json"
    corrected.write_text("by hand")
    code, _ = quickly(monkeypatch, arguments)
    assert "out/coco is there already, perhaps with masks that were corrected" in code
    assert corrected.read_text() == "by hand"
    assert quickly(monkeypatch, arguments[:-1])[0] == 0


def test_names_that_a_format_cannot_hold_are_refused_before_anything_is_written(
    tmp_path, monkeypatch
):
    save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), f"--out={tmp_path}/out", "--format=coco,cvat"]
    code, found = quickly(monkeypatch, arguments, names=("cat: wild",))
    assert "--format=cvat ends the name of a class at a colon, and there is 'cat: wild'" in code
    assert found is None and list((tmp_path / "out").iterdir()) == []
    assert quickly(monkeypatch, [*arguments[:-1], "--format=coco"], names=("cat: wild",))[0] == 0


def test_masks_from_cams_hold_predicted_classes_only(run):
    from_cam = Segmenter(run, source="aux_cam", batch_size=4, threshold=0.4)
    (_, result) = next(from_cam.segment([photo((24, 36), 0)], lambda image: {"image": image}))
    assert set(np.unique(result.mask)) <= {0, *(result.classes + 1)}
    assert len(np.unique(result.mask)) > 1


@pytest.mark.parametrize("source", ["seg", "cam", "aux_cam"])
def test_masks_are_those_of_the_maps(run, source):
    """Of scale 1 alone, pixel by pixel; classes are those above the threshold."""
    segmenter = Segmenter(run, source=source, multi_scale=False, batch_size=4, threshold=0.7)
    image = photo((24, 36), 3)
    (_, result) = next(segmenter.segment([image], lambda image: {"image": image}))
    network = network_of(runs.load(run), batch_size=4, seg_scales=(1.0,), cam_scales=(1.0,))
    (maps,) = network.start([network.prepare(image)])()
    scores = 1 / (1 + np.exp(-maps.cls_logits.astype(np.float64)))
    np.testing.assert_allclose(result.class_scores, scores, rtol=1e-5)
    assert 0 < len(result.classes) < 20
    np.testing.assert_array_equal(result.classes, np.flatnonzero(scores >= 0.7))
    if source == "seg":
        expected = maps.seg_logits().argmax(axis=-1)
        assert result.cams is None
    else:
        cam = maps.cam_of(source, result.classes)
        expected = np.where(cam.max(-1) > 0.5, result.classes[cam.argmax(axis=-1)] + 1, 0)
        np.testing.assert_allclose(result.cams, maps.cam_of("cam", result.classes), atol=1e-6)
    assert len(np.unique(expected)) > 1
    assert (result.mask == expected).mean() > 0.99  # equal values may round to either side


def test_shrunk_images_are_averages(segmenter, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: None)  # as where it cannot be told
    stripes = np.zeros((96, 144, 3), np.uint8)
    stripes[::4] = 200
    jobs = [stripes, np.full((96, 144, 3), 50, np.uint8)]
    results = [next(segmenter.segment([job], lambda image: {"image": image}))[1] for job in jobs]
    assert results[0].segmented_at == (24, 36)
    np.testing.assert_allclose(results[0].class_scores, results[1].class_scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.jpg", "--checkpoint=nowhere"], "nowhere"),
        (["x.jpg", "--checkpoint={run}", "--threshold=2"], "threshold=2"),
        (["x.jpg", "--checkpoint={run}", "--max_side=0"], "max_side=0"),
    ],
)
def test_mistakes_are_one_sentence(run, tmp_path, arguments, message):
    arguments = [argument.format(run=run) for argument in arguments]
    with pytest.raises(SystemExit, match="error: ") as stopped:
        commands.run("predict", [*arguments, f"--out={tmp_path}"])
    assert message in str(stopped.value)


class Quick:
    """Stands in for the segmenter: every class with "a" in its name is seen, nothing compiled."""

    step, max_side = 0, 100

    def __init__(self, names, stop=None):
        self.class_names, self._stop = names, stop

    def segment(self, jobs, read):
        for job in jobs:
            if (record := read(job)) is None:
                continue
            if self._stop and record["path"].name == "stop.png":
                raise self._stop
            height, width = record["image"].shape[:2]
            seen = np.array([k for k, name in enumerate(self.class_names) if "a" in name], int)
            cams = np.zeros((height, width, len(seen)), np.float32)
            scores = np.ones(len(self.class_names), np.float32)
            mask = np.zeros((height, width), np.uint8)
            yield record, Segmentation(mask, scores, seen, cams, (height, width))


def quickly(monkeypatch, arguments, names=("cat", "dog"), stop=None):
    """Exit code, predictions.json."""
    monkeypatch.setattr(predict, "Segmenter", lambda *_, **__: Quick(names, stop))
    out = next(a for a in arguments if a.startswith("--out=")).removeprefix("--out=")
    code = 0
    try:
        commands.run("predict", [*map(str, arguments), "--checkpoint=run"])
    except SystemExit as stopped:
        code = stopped.code
    path = pathlib.Path(out) / "predictions.json"
    return code, json.loads(path.read_text()) if path.is_file() else None


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo((8, 12), 0)).save(path)
    return path


def files_of(found):
    return [f for e in found["images"] for f in (e["mask"], e["overlay"], *e["cams"].values())]


def test_every_result_has_a_file_of_its_own_within_out(tmp_path, monkeypatch):
    names = ("big cat", "cat", "big_cat", "../../x a", "/a", "Cat", "a" * 300, "\u732b a")
    for name in ("img.png", "img_big.png", "a.jpg", "a.png", "clip/000000.png"):
        save(tmp_path / "in" / name)
    writer = cv2.VideoWriter(
        str(tmp_path / "in" / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (32, 24)
    )
    writer.write(photo((24, 32), 0))
    writer.release()
    out = tmp_path / "deep" / "er" / "out"
    code, found = quickly(monkeypatch, [str(tmp_path / "in"), f"--out={out}"], names)
    assert code == 0
    files = files_of(found)
    assert len(files) == len(set(map(str.casefold, files))) == 6 * (2 + len(names))
    for file in files:
        assert (out / file).is_file() and (out / file).resolve().is_relative_to(out)
    there = [str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()]
    assert sorted(there) == sorted([*files, "predictions.json", "predictions.html"])
    assert not list(tmp_path.glob("x*")) and not list((tmp_path / "deep").glob("*.jpg"))


def test_a_second_time_into_a_folder_of_the_pictures(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png")
    arguments = [str(tmp_path), f"--out={tmp_path}/out"]
    first, again = (quickly(monkeypatch, arguments)[1] for _ in range(2))
    assert [e["mask"] for e in first["images"]] == ["masks/a.png"]
    assert again == first
    assert "out/masks are left out" in capsys.readouterr().err


def test_files_of_others_are_not_overwritten(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    truth = save(tmp_path / "masks" / "a.png").read_bytes()
    code, found = quickly(monkeypatch, [str(tmp_path / "a.png"), f"--out={tmp_path}"])
    assert "masks is there already and is not of this command" in code and found is None
    assert (tmp_path / "masks" / "a.png").read_bytes() == truth
    word = str(tmp_path / "masks" / "*.png")
    code, found = quickly(monkeypatch, [word, f"--out={tmp_path}"])
    assert "lies among the results of --out=" in code and found is None


def test_out_that_cannot_be_written_is_told_before_the_network_is_loaded(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    code, _ = quickly(monkeypatch, [str(tmp_path / "a.png"), f"--out={tmp_path}/a.png/out"])
    assert code.startswith("error: cannot write to the folder") and "give another --out" in code


def test_a_full_disk_ends_it_in_one_sentence_and_a_long_name_does_not(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    written = predict.write_mask

    def fails(number):
        def write(path, mask):
            if path.name == "a.png":
                raise OSError(number, os.strerror(number))
            written(path, mask)

        return write

    monkeypatch.setattr(predict, "write_mask", fails(errno.ENAMETOOLONG))
    code, found = quickly(monkeypatch, [str(tmp_path), f"--out={tmp_path}/out"])
    assert code == 1 and [e["mask"] for e in found["images"]] == ["masks/b.png"]
    assert found["failed"][0]["file"].endswith("a.png")
    monkeypatch.setattr(predict, "write_mask", fails(errno.ENOSPC))
    code, found = quickly(monkeypatch, [str(tmp_path), f"--out={tmp_path}/out"])
    assert code.startswith("error: --out=") and "No space left" in code
    assert not found["complete"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError("a defect")])
def test_what_was_segmented_is_never_lost(tmp_path, monkeypatch, stop):
    for name in ("a.png", "stop.png"):
        save(tmp_path / name)
    arguments = [str(tmp_path), f"--out={tmp_path}/out", "--format=coco"]
    if isinstance(stop, KeyboardInterrupt):
        assert quickly(monkeypatch, arguments, stop=stop)[0] == 130
    else:
        with pytest.raises(RuntimeError, match="a defect"):
            quickly(monkeypatch, arguments, stop=stop)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [e["mask"] for e in found["images"]] == ["masks/a.png"] and not found["complete"]
    coco = json.loads((tmp_path / "out" / "coco" / "annotations.json").read_text())
    assert [image["file_name"] for image in coco["images"]] == ["a.png"]
    shutil.rmtree(tmp_path / "out" / "coco")
    code, found = quickly(monkeypatch, arguments)
    assert code == 0 and found["complete"] and len(found["images"]) == 2


def test_words_that_name_nothing_fail_and_the_rest_is_done(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), str(tmp_path / "*.gif")]
    code, found = quickly(monkeypatch, [*words, f"--out={tmp_path}/out"])
    assert code == 1 and len(found["images"]) == 1
    assert found["failed"] == [
        {"file": words[1], "error": f"the pattern {words[1]} matches no file"}
    ]


def test_a_damaged_video_fails_and_keeps_its_frames(tmp_path, monkeypatch):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for seed in range(40):
        writer.write(photo((48, 64), seed))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, found = quickly(monkeypatch, [str(path), f"--out={tmp_path}/out"])
    assert code == 1 and 1 < len(found["images"]) < 40
    assert "of the 40 frames that it announces" in found["failed"][0]["error"]


PROGRAM = """
import sys
from test_predict import Quick
from toco_jax import predict
from toco_jax.cli import commands
predict.Segmenter = lambda *_, **__: Quick(("cat", "dog"))
commands.start("predict")
"""


def test_odd_file_names_and_a_reader_that_leaves_lose_nothing(tmp_path):
    """The whole command, as `LC_ALL=C python -m toco_jax.predict ... | head -1`."""
    odd = os.fsdecode(b"a\xff.png")
    for k in range(30):
        save(tmp_path / "in" / f"{k}.png")
    os.rename(tmp_path / "in" / "0.png", tmp_path / "in" / odd)
    out = tmp_path / "out"
    path = ":".join([str(pathlib.Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "in"), f"--out={out}"]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONIOENCODING": "utf-8:strict"}
    with subprocess.Popen(
        [*command, "--checkpoint=x"], stdout=subprocess.PIPE, bufsize=0, env=environment
    ) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait() == 0
    found = json.loads((out / "predictions.json").read_text())
    assert len(found["images"]) == 30 and found["complete"]
    entry = next(e for e in found["images"] if "\udcff" in e["file"])
    assert (out / entry["mask"]).is_file()


def test_options_out_of_range_are_no_defects(run):
    with pytest.raises(UserError, match="source='depth'"):
        Segmenter(run, source="depth")
    with pytest.raises(UserError, match=r"crf refines the decoder's mask, .* made from 'cam'"):
        Segmenter(run, source="cam", crf=True)
