"""What the words of a command line name: existing files first, one name each, frames by place."""

import os
import pathlib
import unicodedata

import cv2
import numpy as np
import pytest

from toco_jax.data.photos import PhotoError
from toco_jax.inference import inputs


def names_of(*paths):
    return inputs.result_names([pathlib.PurePath(path) for path in paths])


def test_files_folders_and_globs(tmp_path):
    for name in ("a.jpg", "a.PNG", "notes.txt", "deep/a.jpg", "clip.avi", ".hid.jpg", "._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = inputs.find_files([tmp_path])
    named = {str(path.relative_to(tmp_path)): name for path, name in found.files}
    assert named == {"a.PNG": "a.PNG", "a.jpg": "a.jpg", "clip.avi": "clip", "deep/a.jpg": "deep/a"}
    assert found.problems == []
    (remark,) = found.remarks
    assert remark.startswith("2 files passed over") and ".hid.jpg" in remark
    found = inputs.find_files([f"{tmp_path}/*.jpg", f"{tmp_path}/notes.txt"])
    assert [path.name for path, _ in found.files] == ["a.jpg", "notes.txt"]


def test_a_path_that_exists_is_no_pattern(tmp_path):
    for name in ("photo[1].jpg", "photo1.jpg", "[ab]/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name, found in (("photo[1].jpg", "photo[1]"), ("[ab]", "x"), ("photo?.jpg", "photo1")):
        assert [n for _, n in inputs.find_files([tmp_path / name]).files] == [found]


def test_words_that_name_nothing_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.jpg").touch()
    words = ["nowhere/x.jpg", f"{tmp_path}/*.gif", tmp_path / "empty", tmp_path / "a.jpg"]
    found = inputs.find_files(words)
    assert [name for _, name in found.files] == ["a"]
    said = {word: str(error) for word, error in found.problems}
    assert said == {
        "nowhere/x.jpg": "nowhere/x.jpg does not exist",
        f"{tmp_path}/*.gif": f"the pattern {tmp_path}/*.gif matches no file",
        f"{tmp_path}/empty": f"{tmp_path}/empty: no picture or video found there",
    }


def test_earlier_results_are_left_out(tmp_path):
    for name in ("a.jpg", "out/masks/a.png", "out/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = inputs.find_files([tmp_path], results=[tmp_path / "out" / "masks"])
    assert [name for _, name in found.files] == ["a", "out/b"]
    assert found.remarks == [f"the results in {tmp_path}/out/masks are left out"]


def test_results_of_other_calls_are_left_out_too(tmp_path):
    there = ("a.jpg", "x/masks/a.png", "x/cams/deep/a.cat.jpg", "x/b.jpg", "truth/masks/a.png")
    there += ("x/ultralytics/images/train/a.jpg",)
    for name in (*there, "x/predictions.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = inputs.find_files([tmp_path])
    assert [name for _, name in found.files] == ["a", "truth/masks/a", "x/b"]
    assert found.remarks == [
        f"the results in {tmp_path}/x/{name} are left out"
        for name in ("cams", "masks", "ultralytics")
    ]
    named = inputs.find_files([tmp_path / "x" / "masks", tmp_path / "x" / "cams" / "deep"])
    assert [name for _, name in named.files] == ["a", "a.cat"]


def test_files_are_named_within_their_folder_unless_several_share_that(tmp_path):
    there = [tmp_path / name for name in ("in/deep/a.jpg", "in/b.png", "other/b.png", "c.jpg")]
    for path in there:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = inputs.find_files([tmp_path / "in", tmp_path / "other", tmp_path / "c.jpg"])
    names = [found.file_names[path] for path in there]
    assert names == ["deep/a.jpg", f"{tmp_path}/in/b.png", f"{tmp_path}/other/b.png", "c.jpg"]


def test_names_of_results():
    assert names_of("a.jpg", "a.png", "b.jpg") == ["a.jpg", "a.png", "b"]
    assert names_of("a.jpg", "A.png") == ["a.jpg", "A.png"]
    assert names_of("clip.avi", "clip/000000.png") == ["clip.avi", "clip/000000"]
    assert names_of("clip.avi", "clip.mp4", "clip.png") == ["clip.avi", "clip.mp4", "clip"]
    assert names_of("x.jpg", "x.jpg", "x.jpg") == ["x", "x~2", "x~3"]
    assert names_of("a.png/b.jpg", "a.jpg") == ["a.png_/b", "a"]


@pytest.mark.parametrize(
    "paths",
    [
        ("a.jpg", "a.png", "a.jpg.png", "a.png.jpg", "A.JPG"),
        ("x~2.jpg", "x.jpg", "x.jpg", "x~2.png"),
        ("clip.png.avi", "clip.png", "clip.png_/000000.jpg", "clip.avi", "clip/a.jpg"),
        ("a.png/b.jpg", "a.png_/b.jpg", "a.jpg", "a.png.mp4"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
    ],
)
def test_no_result_overwrites_another(paths):
    files, folders = set(), set()
    for path, name in zip(paths, names_of(*paths), strict=True):
        ending = "/000000.png" if inputs.is_video(pathlib.PurePath(path)) else ".png"
        # A file system may tell neither case nor the ways to write a letter apart.
        result = pathlib.PurePath(unicodedata.normalize("NFC", name + ending).casefold())
        assert result not in files
        files.add(result)
        folders |= set(result.parents)
    assert len(files) == len(paths) and not files & folders


def write_video(path, count=20, code="MJPG"):
    """Frames whose red says which one they are."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 5, (64, 48))
    for number in range(count):
        frame = np.random.default_rng(number).integers(0, 40, (48, 64, 3), np.uint8)
        frame[..., 2] = 4 * number + 8
        writer.write(frame)
    writer.release()
    return path.read_bytes()


def level(frame):
    return (float(np.median(frame[..., 0])) - 8) / 4


def test_video_frames(tmp_path):
    write_video(tmp_path / "clip.avi")
    frames = dict(inputs.video_frames(tmp_path / "clip.avi", every=3))
    assert list(frames) == [0, 3, 6, 9, 12, 15, 18]
    for number, frame in frames.items():
        assert frame.shape == (48, 64, 3)
        assert abs(level(frame) - number) < 0.6
    (tmp_path / "broken.avi").write_bytes(b"no video")
    for name in ("broken.avi", "missing.avi"):
        with pytest.raises(PhotoError, match=name):
            list(inputs.video_frames(tmp_path / name, every=1))


@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_a_cut_video_is_damaged(tmp_path, ending):
    path = tmp_path / f"clip.{ending}"
    content = write_video(path)
    path.write_bytes(content[: len(content) // 2])
    frames = []
    with pytest.raises(PhotoError, match=r"is damaged: \d+ of the 20 frames that it announces"):
        frames.extend(n for n, _ in inputs.video_frames(path, every=1))
    frames = []
    with pytest.raises(PhotoError):
        for number, frame in inputs.video_frames(path, every=1):
            frames.append(number)
            assert abs(level(frame) - number) < 0.6
    assert 4 < len(frames) < 12 and frames == list(range(len(frames)))


def test_frames_after_a_hole_have_their_own_numbers(tmp_path):
    path = tmp_path / "clip.mkv"
    content = bytearray(write_video(path, 60))  # in several parts, of which one is broken
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path.write_bytes(content)
    frames = {}
    with pytest.raises(PhotoError, match="is damaged"):
        for number, frame in inputs.video_frames(path, every=1):
            frames[number] = frame
    assert list(frames)[-1] == 59 and len(frames) < 55
    wrong = [number for number, frame in frames.items() if abs(level(frame) - number) > 0.6]
    assert len(wrong) <= 1  # the one at the edge of the hole is half destroyed


def test_a_video_whose_name_is_no_text_is_refused(tmp_path):
    path = pathlib.Path(os.fsdecode(bytes(tmp_path) + b"/clip\xff.avi"))
    path.touch()
    with pytest.raises(PhotoError, match="must be valid UTF-8: rename it"):
        list(inputs.video_frames(path, every=1))
