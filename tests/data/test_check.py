import json
import pathlib
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import PIL.Image
from data import faulty_folder
from data.conftest import small_config, write_mask

from toco_jax.data import check, check_report, open_configured


def run(config):
    return check.check(config, threads=2, show=lambda _, states: list(states))


def test_a_sound_folder_has_no_problem(config):
    splits, problems = run(config)
    assert problems == []
    assert {part: len(split.images) for part, split in splits.items()} == {"train": 4, "val": 2}
    assert splits["train"].labels.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert splits["val"].images["4"].size == (16, 24)
    assert check.write_clean_list(splits["train"], problems) == "'train' is clean"


def test_every_problem_is_found_at_once(config, photos):
    (photos / "1.png").write_bytes(b"")
    write_mask(photos / "masks" / "4.png", np.full((16, 24), 7, np.uint8))
    write_mask(photos / "masks" / "5.png", np.full((16, 24), 1, np.uint8))
    write_mask(photos / "masks" / "0.png", np.zeros((3, 3), np.uint8))
    shutil.copy(photos / "4.png", photos / "2.png")
    labels = (photos / "labels.csv").read_text().replace("3.png,dog\n", "")
    (photos / "labels.csv").write_text(labels)
    _, problems = run(config)
    found = {(p.kind, p.split, p.name, p.fatal, p.unusable) for p in problems}
    assert found == {
        ("image", "train", "1", True, True),
        ("label", "train", "3", True, True),
        ("mask", "val", "4", True, True),
        ("mask", "train", "0", False, False),  # training reads no masks
        ("mask shows more", "val", "5", False, False),
        ("label says more", "val", "5", False, False),
        ("in both splits", "train", "2", False, True),
        ("equal files", "", "", False, False),
        ("images without a label", "", "", False, False),
        ("class without images", "", "", False, False),  # 1 and 3 were the dogs
    }
    said = {p.kind: p.message for p in reversed(problems)}
    assert "masks/5.png shows cat, which the label lacks" in said["mask shows more"]
    assert "5 is labelled dog, which mask" in said["label says more"]
    assert "training image 2 is the same picture as 4 of 'val'" in said["in both splits"]


def test_clean_lists_can_be_trained_on(config, photos):
    test_every_problem_is_found_at_once(config, photos)
    splits, problems = run(config)
    said = [check.write_clean_list(split, problems) for split in splits.values()]
    assert said[0] == f"{photos}/train_clean.txt: 1 of 4 images; use the split 'train_clean'"
    config.data.train_split, config.data.val_split = "train_clean", "val_clean"
    _, problems = run(config)
    assert [p.kind for p in problems if p.fatal] == []
    assert open_configured(config, part="train", masks=False).names == ("0",)
    assert open_configured(config, part="val", masks=True).names == ("5",)


def test_clean_lists_of_a_devkit(devkit):
    config = small_config("voc")
    config.data.root = str(devkit)
    (devkit / "JPEGImages" / "2007_000001.jpg").write_bytes(b"")
    splits, problems = run(config)
    check.write_clean_list(splits["train"], problems)
    path = devkit / "ImageSets" / "Segmentation" / "train_aug_clean.txt"
    assert path.read_text() == "2007_000003\n"
    config.data.train_split = "train_aug_clean"
    assert open_configured(config, part="train", masks=False).names == ("2007_000003",)


def test_broken_training_images_do_not_stop_a_run_that_skips(config, photos):
    (photos / "1.png").write_bytes(b"")
    config.data.on_error = "skip"
    _, problems = run(config)
    assert [(p.kind, p.fatal) for p in problems] == [("image", False)]
    (photos / "4.png").write_bytes(b"")  # evaluation leaves nothing out
    assert [p.fatal for p in run(config)[1]] == [False, True]


def test_classes_that_do_not_fit(config, photos):
    config.num_classes = 3
    _, problems = run(config)
    assert {p.message for p in problems if p.fatal} == {
        f"num_classes=3, but {part} has 2 classes; use num_classes=2" for part in ("train", "val")
    }
    config.num_classes = 0
    (photos / "classes.txt").write_text("cat\ndog\nyak\n")
    _, problems = run(config)
    assert [(p.kind, p.fatal) for p in problems] == [("class without images", False)]
    assert "class 'yak' has no training image" in problems[0].message


def test_masks_of_training_images_may_be_missing(devkit):
    config = small_config("voc")
    config.data.root = str(devkit)
    names = devkit / "ImageSets" / "Segmentation" / "train_aug.txt"
    names.write_text("2007_000001\n2007_000003\n")
    for name in ("2007_000001", "2007_000003"):
        (devkit / "SegmentationClassAug" / f"{name}.png").unlink()
    assert not any(p.fatal or "mask" in p.kind for p in run(config)[1] if p.split == "train_aug")
    config.loss_weights.sup = ((0, 1.0),)
    (message,) = [p.message for p in run(config)[1] if p.fatal]
    assert message.startswith("2 of the 2 images of 'train_aug' have no mask, and the loss term")


def test_pairs_and_the_report(config, photos, capsys):
    assert check_report.pairs(np.uint8([[1, 1, 0], [1, 1, 1], [0, 1, 1]])) == [
        (2, 0, 1),
        (2, 1, 2),
        (1, 0, 2),
    ]
    (photos / "1.png").write_bytes(b"")
    splits, problems = run(config)
    about = json.loads(json.dumps(check_report.report(splits, problems)))
    assert about["train"]["classes"] == {"cat": 2, "dog": 1}
    assert (about["train"]["listed"], about["train"]["readable"]) == (4, 3)
    assert about["problems"][0]["name"] == "1"
    check_report.print_splits(splits)
    check_report.print_problems(problems)
    shown = capsys.readouterr().out
    assert "ERROR: image in 'train', 1" in shown and "1.png (0 bytes) cannot be decoded" in shown
    assert "24 x 16" in shown and "classes that occur together: none" in shown


def test_only_a_few_of_many_problems_are_printed(capsys):
    many = [check.Problem("image", "train", str(i), f"image {i} is broken") for i in range(30)]
    check_report.print_problems(many)
    shown = capsys.readouterr().out
    assert shown.count("is broken") == 10 and "... and 20 more; --json=FILE lists all" in shown


def test_command_line(photos, tmp_path):
    root = pathlib.Path(__file__).parents[2]
    command = [sys.executable, "-m", "toco_jax.data.check", f"--config={root}/configs/folder.py"]
    command += [f"--config.data.root={photos}", "--fix", f"--report={tmp_path / 'report.json'}"]

    def call():
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=root
        )

    sound = call()
    assert sound.returncode == 0 and "no problem found" in sound.stdout, sound.stderr
    cv2.imwrite(str(photos / "0.png"), np.zeros((4, 4, 3), np.uint8))
    (photos / "1.png").write_bytes(b"")
    broken = call()
    assert broken.returncode == 1
    assert "training would fail: 1 of 2 problems stop it" in broken.stderr
    assert "train_clean.txt: 3 of 4 images" in broken.stdout
    assert "Traceback" not in broken.stderr
    assert len(json.loads((tmp_path / "report.json").read_text())["problems"]) == 2


def test_images_that_are_not_read_as_they_are_stored_are_remarked(config, photos):
    deep = PIL.Image.fromarray(np.full((16, 24), 4000, np.uint16))
    deep.save(photos / "1.png")
    splits, problems = run(config)
    assert len(splits["train"].images) == 4
    assert [(p.kind, p.name, p.fatal) for p in problems] == [("image not as stored", "1", False)]
    assert problems[0].message == "1: uint16 values up to 4000, of which 4095 counts as white"


def kinds(problems):
    return {(problem.fatal, problem.kind) for problem in problems}


def test_all_faults_of_class_folders_are_found_at_once(tmp_path):
    config = small_config("folder")
    config.data.root = str(faulty_folder.make(tmp_path / "faulty"))
    splits, problems = run(config)
    assert set(splits) == {"train", "val"}
    folder = [p.message for p in problems if p.kind == "folder"]
    starts = (
        r"Train/dog/1\.jpg and .*Train/dog/1\.png have the same name without ending",
        r"only 1 of \d+ images has a text file of the same name \(Train/cat/4\)",
        r"folder .*Train/annotations \(2 pictures\) looks like masks",
        r"all images of folder 'farm' lie in its sub-folders \(goose, hen\)",
        r"class folder 'sheep' has sub-folders named like splits \(val\)",
        r"classes 'Cat' and 'cat' differ only in case",
        r"class 'line\\nbreak' has .* line break",
        r"class 'cat\+dog' may stand for several others",
        r"the masks of .* may count the classes in another order: class 'c10' comes before 'c2'",
    )
    for start in starts:
        assert [m for m in folder if re.search(start, m)], start
    others = [p.message for p in problems if p.kind == "files passed over"]
    for part in ("2 folders passed over: .*Train/.old, .*Train/@eaDir", r"\(labels\.txt\), beside"):
        assert [m for m in others if re.search(part, m)], part
    assert len(folder) == len(starts) and all(p.fatal for p in problems if p.kind == "folder")
    assert kinds(problems) - {(True, "folder")} == {
        (True, "label"),  # a stray image, and one that is a cat and nothing
        (True, "mask"),  # of val
        (True, "image"),
        (False, "files passed over"),
        (False, "sub-folders"),
        (False, "images without a label"),
        (False, "in no split"),
        (False, "background"),
        (False, "equal files"),
        (False, "in both splits"),
        (False, "class without images"),
        (False, "label says more"),
    }


def test_all_faults_of_a_label_file_are_found_at_once(tmp_path):
    config = small_config("folder")
    config.data.root = str(faulty_folder.make(tmp_path / "faulty"))
    config.data.labels = "tags.csv"
    splits, problems = run(config)
    assert set(splits) == {"train", "val"}
    assert {(True, "folder"), (True, "label"), (True, "mask")} <= kinds(problems)
    assert {
        "files passed over",
        "images without a label",
        "labels without an image",
        "masks passed over",
        "background",
        "equal files",
        "in both splits",
        "class without images",
    } <= {kind for fatal, kind in kinds(problems) if not fatal}
    assert splits["train"].source.class_names == ("Cat", "cat", "dog", "yak")
