"""Whatever pictures and classes are called, no result replaces another or leaves its folder."""

import argparse
import itertools
import json
import pathlib
import types

from toco_jax.inference import predictions
from toco_jax.inference.inputs import result_names
from toco_jax.inference.predictions import class_slugs

CLASSES = (
    *("cat", "big cat", "big_cat", "Cat", "../../../../outside", "/etc/x", "a\0b", ".", ""),
    *("x" * 300, "x" * 301, "a/b", "a\\b", "..", "猫", "\x1b[2J", "cat.jpg"),
)
FILES = (
    *("img.png", "img_big.png", "img.cat.png", "img.jpg", "img.cat.jpg", "IMG.png", "img"),
    *("clip.avi", "clip.mp4", "clip/000000.png", "clip.png", "clip.png/000000.png", "clip_/a.png"),
    *("clip.avi_/000000.jpg", "deep/img.png", "..png", "deep/clip.avi"),
)


def test_results_of_any_names():
    slugs = class_slugs(CLASSES)
    relatives = [pathlib.PurePath(name) for name in (*FILES, *FILES[:3])]
    names = []
    for relative, name in zip(relatives, result_names(relatives), strict=True):
        is_clip = relative.suffix in (".avi", ".mp4")
        names += [f"{name}/{k:06}" for k in range(2)] if is_clip else [name]
    written = [f"masks/{name}.png" for name in names] + [
        f"cams/{name}.{slug}.jpg" for name, slug in itertools.product(names, slugs)
    ]
    assert len({path.casefold() for path in written}) == len(written)
    folders = {str(parent) for path in written for parent in pathlib.PurePath(path).parents}
    assert not folders & set(written)
    for path in written:
        assert ".." not in pathlib.PurePath(path).parts and path.isprintable() and "\\" not in path
        assert all(len(part) < 120 for part in pathlib.PurePath(path).parts)


def test_saving_takes_a_small_part_of_the_time_however_many_pictures(tmp_path, monkeypatch):
    """A picture takes a second, and saving takes a second for each hundred of them."""
    clock = {"time": 0.0, "saving": 0.0}

    class Slow:
        def save(self):
            clock["time"] += len(report.entries) / 100
            clock["saving"] += len(report.entries) / 100
            assert len(json.loads(report.path.read_text())["images"]) == len(report.entries)

    time = types.SimpleNamespace(monotonic=lambda: clock["time"])
    monkeypatch.setattr(predictions, "time", time)
    options = argparse.Namespace(out=tmp_path, checkpoint="x", source="seg", threshold=0.5)
    segmenter = types.SimpleNamespace(step=0, class_names=("cat",), max_side=1)
    report = predictions.Report(options, segmenter, [Slow()])
    report.save()
    for k in range(1000):
        clock["time"] += 1
        report.add(999 - k, {"file": str(999 - k), "predicted": [], "notes": []})
    assert 0 < clock["saving"] < 0.06 * clock["time"]
    report.save()
    found = json.loads(report.path.read_text())
    assert [entry["file"] for entry in found["images"]] == [str(k) for k in range(1000)]
    assert not found["complete"] and found["classes"] == ["background", "cat"]
