"""The evaluation of a whole split: protocols, resumption, shares, what is written beside."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import XLA_FLAGS
from PIL import Image
from stored_runs import blocks_in
from tiny_run import PHOTOS, compilation_cache, make_devkit, make_run

from toco_jax import evaluate, evaluation
from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES, palette
from toco_jax.evaluation import evaluator, metrics, scoring, shares
from toco_jax.inference.segmenter import Segmenter
from toco_jax.run.checkpoints import CheckpointError
from toco_jax.runtime.outputs import OutputError


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("evaluate")
    with compilation_cache():
        yield make_run(folder / "run", voc_config, make_devkit(folder))


def evaluated(run, *arguments):
    options = commands.read("evaluate", [f"--checkpoint={run}", *arguments])
    return evaluate.score(options)


@pytest.fixture(scope="module")
def results(run):
    return evaluated(run, "--protocol=32,native", "--batch_size=4")


def rows_of(results):
    return {(row["predictor"], row["protocol"]): row for row in results["rows"]}


def test_results_are_written_with_their_protocol(run, results):
    assert json.loads((run / "evaluation.json").read_text()) == results
    assert not list(run.glob(".evaluation*"))
    rows = rows_of(results)
    assert set(rows) == {(p, q) for p in ("seg", "cam", "aux_cam") for q in ("32", "native")}
    assert results["images"] == len(PHOTOS)
    described = {row["protocol"]: row["description"] for row in results["rows"]}
    assert described["native"] == "native, multi-scale"
    assert described["32"].startswith("32, single scale")
    counted = sum((h - 2) * w for _, (h, w), _ in PHOTOS)  # two rows of 255 are ignored
    for row in rows.values():
        assert np.sum(row["confusion"]) == counted
        same_pass = rows["seg", row["protocol"]]
        assert row["cls_f1"] == same_pass["cls_f1"]
        assert row["iou"]["sheep"] is None and row["iou"]["cat"] is not None
        present = [value for value in row["iou"].values() if value is not None]
        np.testing.assert_allclose(row["miou"], np.mean(present))
        np.testing.assert_allclose(row["miou_all_classes"], np.sum(present) / 21)


def test_the_page_shows_all_protocols(run, results):
    page = run / "evaluation.html"
    cards = [card["value"] for card in blocks_in(page, "cards")[0]["items"]]
    shown = ["-" if row["miou"] is None else f"{row['miou']:.1f}" for row in results["rows"]]
    assert cards == shown[:3]
    everything, published, worst, best = (block["rows"] for block in blocks_in(page, "table"))
    assert [row[1] for row in everything] == shown
    assert ["segmentation", "native, multi-scale, CRF", "-", "69.8", "71.1"] in published
    assert all(
        row["worst"][0]["name"] in line[2] for row, line in zip(results["rows"], worst, strict=True)
    )
    assert best[0][2].startswith(results["rows"][0]["best"][0]["name"])
    names = {name for name, _, _ in PHOTOS}
    for row in results["rows"]:
        ends = row["worst"] + row["best"]
        assert {image["name"] for image in ends} == names
        mious = [image["miou"] for image in [*row["worst"][:2], *row["best"][1::-1]]]
        assert mious == sorted(mious)
    # Those of `evaluate` are in the report of the run, too.
    assert [row[1] for row in blocks_in(run / "report.html", "table")[0]["rows"]] == shown


def test_scores_at_the_top_say_their_protocol_whatever_the_order(run, results, tmp_path):
    turned = evaluated(run, "--protocol=native,32", "--batch_size=4", f"--out={tmp_path}")
    rows = rows_of(results)
    assert rows["seg", "native"]["cls_f1"] != rows["seg", "32"]["cls_f1"]
    for found in (results, turned):
        assert found["protocol"] == "32"
        assert found["cls_f1"] == rows["seg", "32"]["cls_f1"]
        for predictor in ("seg", "cam", "aux_cam"):
            assert found[f"{predictor}_miou"] == rows[predictor, "32"]["miou"]


def test_baselines_and_the_mean_of_some_labels_stand_beside(
    run, results, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")  # where no cell takes two lines
    words = ("--baselines", "--labels", "background", "cat", f"--out={tmp_path}")
    found = evaluated(run, "--protocol=32,native", "--batch_size=4", *words)
    rows, plain = rows_of(found), rows_of(results)
    made = {"labels_miou", "seconds"}
    for key, row in plain.items():
        assert {name: rows[key][name] for name in rows[key].keys() - made} == row
        iou = row["iou"]
        assert rows[key]["labels_miou"] == (iou["background"] + iou["cat"]) / 2
    for protocol in ("32", "native"):
        scores = {name: row["miou"] for (name, by), row in rows.items() if by == protocol}
        assert scores["seg"] < scores["seg_of_tags"] < scores["token_truth"]
        assert rows["background", protocol]["iou"]["cat"] == 0
    assert found["labels"] == ["background", "cat"]
    out = capsys.readouterr().out
    assert "mIoU, 2 labels chosen" in out and "truth at token" in out
    with pytest.raises(evaluation.EvaluationError, match="--labels: 'cat' is given twice"):
        evaluation.evaluate(run, labels=["cat", "cat"])


def test_from_python_it_returns_the_same_and_prints_and_writes_nothing(run, results, capfd):
    before = sorted(run.rglob("*"))
    found = evaluation.evaluate(run, protocols=("32", "native"), batch_size=4)
    assert capfd.readouterr() == ("", "")
    assert sorted(run.rglob("*")) == before
    assert found | {"seconds": 0} == results | {"seconds": 0}
    assert json.loads(json.dumps(found)) == found


def test_from_python_mistakes_are_exceptions(run, tmp_path):
    for options, message in (
        ({"protocols": ("32", "naitve")}, "'naitve', which is no protocol: use .* such as 32"),
        ({"protocols": ()}, "--protocol is empty"),
        ({"extras": evaluation.Extras(refine="pra")}, "--refine=pra is unknown: use par or crf"),
    ):
        with pytest.raises(evaluation.EvaluationError, match=message):
            evaluation.evaluate(run, **options)
    with pytest.raises(CheckpointError, match="is not a run"):
        evaluation.evaluate(tmp_path)


def test_native_segmentation_is_what_the_segmenter_gives(run, results):
    segmenter = Segmenter(run, batch_size=4, max_side=100)
    root = pathlib.Path(run).parent / "VOCdevkit" / "VOC2012"
    names = [name for name, _, _ in PHOTOS]
    masks = segmenter([root / "JPEGImages" / f"{name}.jpg" for name in names])
    confusion = np.zeros((21, 21), np.int64)
    for name, mask in zip(names, masks, strict=True):
        truth = np.asarray(Image.open(root / "SegmentationClassAug" / f"{name}.png"))
        confusion += metrics.confusion_matrix(truth, mask, 21)
    assert (confusion.sum(axis=0) > 0).sum() > 1
    np.testing.assert_array_equal(confusion, rows_of(results)["seg", "native"]["confusion"])


def test_interrupted_evaluation_goes_on(run, results, tmp_path, monkeypatch, capsys):
    class Interrupted(shares.Progress):
        count = 0

        def __call__(self):
            Interrupted.count += 1
            if Interrupted.count == len(PHOTOS) + 3:  # in the second pass
                raise KeyboardInterrupt

    arguments = ("--protocol=32,native", "--batch_size=4", f"--out={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(shares, "Progress", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(run, *arguments)
    assert not (tmp_path / "evaluation.json").exists()
    capsys.readouterr()
    again = evaluated(run, *arguments)
    printed = capsys.readouterr().out
    assert "32: 6 of 6 images are done" in printed
    assert "native: 3 of 6 images are done" in printed
    assert again["rows"] == results["rows"]
    assert again["cls_f1"] == results["cls_f1"]
    assert not list(tmp_path.glob(".evaluation*"))


def stopped_after(number, run, monkeypatch, *arguments):
    """An evaluation that is interrupted at an image."""

    class Interrupted(shares.Progress):
        def __call__(self):
            self._done += 1
            if self._done == number:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shares, "Progress", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluated(run, *arguments)


def test_corrected_masks_are_counted_after_an_interruption(
    run, results, tmp_path, monkeypatch, capsys
):
    root = shutil.copytree(run.parent / "VOCdevkit" / "VOC2012", tmp_path / "devkit")
    arguments = ("--protocol=32", "--batch_size=4", f"--root={root}", f"--out={tmp_path / 'out'}")
    path = root / "SegmentationClassAug" / f"{PHOTOS[0][0]}.png"
    right = path.read_bytes()
    Image.new("P", PHOTOS[0][1][::-1]).save(path)
    stopped_after(5, run, monkeypatch, *arguments)
    path.write_bytes(right)
    capsys.readouterr()
    rows = rows_of(evaluated(run, *arguments))
    assert "counted anew" in capsys.readouterr().out
    expected = rows_of(results)
    for predictor in ("seg", "cam", "aux_cam"):
        assert rows[predictor, "32"]["confusion"] == expected[predictor, "32"]["confusion"]


@pytest.fixture
def folder_run(run, tmp_path):
    """The run as one that was trained on a folder, with VOC's names; a folder of the photos whose
    classes are fewer and numbered otherwise.
    """
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "classes.json").write_text(json.dumps(VOC_CLASSES))
    devkit, root = run.parent / "VOCdevkit" / "VOC2012", tmp_path / "folder"
    config = json.loads((copy / "config.json").read_text())
    config["data"] |= {"source": "folder", "root": str(root)}
    (copy / "config.json").write_text(json.dumps(config))
    own = ("cat", "dog", "person")
    table = np.arange(256, dtype=np.uint8)
    for k, name in enumerate(own):
        table[VOC_CLASSES.index(name) + 1] = k + 1
    (root / "masks").mkdir(parents=True)
    for name, _, _ in PHOTOS:
        shutil.copy(devkit / "JPEGImages" / f"{name}.jpg", root)
        mask = np.asarray(Image.open(devkit / "SegmentationClassAug" / f"{name}.png"))
        Image.fromarray(table[mask]).save(root / "masks" / f"{name}.png")
    labels = [f"{name}.jpg,{';'.join(classes)}" for name, _, classes in PHOTOS]
    (root / "labels.csv").write_text("\n".join(["file,labels", *labels]) + "\n")
    (root / "val.txt").write_text("\n".join(name for name, _, _ in PHOTOS) + "\n")
    return copy, root


def test_another_root_is_scored_by_the_runs_names(folder_run, results, capsys):
    copy, root = folder_run
    rows = rows_of(evaluated(copy, "--protocol=32", "--batch_size=4", f"--root={root}"))
    assert "has cat, dog, person: numbered as in" in capsys.readouterr().out
    expected = rows_of(results)
    for predictor in ("seg", "cam", "aux_cam"):
        assert rows[predictor, "32"]["confusion"] == expected[predictor, "32"]["confusion"]
        assert rows[predictor, "32"]["iou"] == expected[predictor, "32"]["iou"]


def test_pseudo_labels_of_another_root_are_numbered_as_it_is(folder_run, tmp_path):
    copy, root = folder_run
    (root / "train.txt").write_text((root / "val.txt").read_text())
    evaluated(
        copy,
        *("--split=train", "--protocol=native", "--batch_size=4"),
        *(f"--pseudo_labels={tmp_path / 'labels'}", "--format=png,ultralytics,coco"),
    )
    own, written = ("cat", "dog", "person"), set()
    for name, _, classes in PHOTOS:
        found = set(np.unique(np.asarray(Image.open(tmp_path / "labels" / f"{name}.png"))).tolist())
        assert found <= {0, 255, *(own.index(c) + 1 for c in classes)}
        written |= found
    assert written & {1, 2, 3}
    ultralytics = tmp_path / "labels" / "ultralytics"
    assert '\n  3: "person"\n' in (ultralytics / "data.yaml").read_text()
    for name, _, _ in PHOTOS:
        label = np.asarray(Image.open(tmp_path / "labels" / f"{name}.png"))
        mask = np.asarray(Image.open(ultralytics / "masks" / "train" / f"{name}.png"))
        np.testing.assert_array_equal(mask, label)
        image = (ultralytics / "images" / "train" / f"{name}.jpg").read_bytes()
        assert image == (root / f"{name}.jpg").read_bytes()
    coco = json.loads((tmp_path / "labels" / "coco" / "annotations.json").read_text())
    assert [category["name"] for category in coco["categories"]] == list(own)
    assert [image["file_name"] for image in coco["images"]] == [f"{n}.jpg" for n, *_ in PHOTOS]
    with pytest.raises(OutputError, match=r"coco is there already.*another --pseudo_labels"):
        evaluated(
            copy,
            *("--split=train", "--protocol=native", "--format=coco"),
            f"--pseudo_labels={tmp_path / 'labels'}",
        )


def test_classes_that_the_run_does_not_know_are_refused_by_name(folder_run):
    copy, root = folder_run
    text = (root / "labels.csv").read_text().replace("dog", "yak")
    (root / "labels.csv").write_text(text)
    with pytest.raises(SystemExit, match=r"not trained on \(yak; it knows aeroplane"):
        commands.run("evaluate", [f"--checkpoint={copy}", "--protocol=32"])
    names = [f"part {k}" for k in range(20)]
    (copy / "classes.json").write_text(json.dumps(names))
    with pytest.raises(SystemExit, match=r"--submission is for VOC's classes.*part 0"):
        commands.run("evaluate", [f"--checkpoint={copy}", "--submission"])


@pytest.mark.parametrize("option", ["--out", "--pseudo_labels"])
def test_a_folder_that_takes_no_file_is_refused_before_any_image(run, monkeypatch, option):
    monkeypatch.setattr(shares, "count_split", None)
    with pytest.raises(SystemExit, match=f"error: cannot write to the folder /proc .*{option}"):
        commands.run("evaluate", [f"--checkpoint={run}", "--protocol=native", f"{option}=/proc"])


def test_a_folder_in_the_place_of_the_scores_is_refused_before_any_image(run, tmp_path):
    (tmp_path / "evaluation.json").mkdir()
    with pytest.raises(OutputError, match=r"evaluation\.json is a folder, .* another --out"):
        evaluation.evaluate(run, out=tmp_path)


def test_results_outlast_what_goes_wrong_afterwards(run, results, tmp_path, monkeypatch, capsys):
    arguments = ("--protocol=32", "--batch_size=4", f"--out={tmp_path}")
    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "write_atomically", None)
        with pytest.raises(TypeError):
            evaluated(run, *arguments)
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "print_tables", None)
        with pytest.raises(TypeError):
            evaluated(run, *arguments)
    assert "32: 6 of 6 images are done" in capsys.readouterr().out
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["rows"][0]["confusion"] == rows_of(results)["seg", "32"]["confusion"]


def test_an_interruption_is_one_line(run, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(shares, "count_split", stop)
    with pytest.raises(SystemExit) as stopped:
        commands.run("evaluate", [f"--checkpoint={run}", "--protocol=32"])
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "stopped; the same command goes on where it was\n"


def test_counts_of_another_evaluation_are_not_used(run, results, tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shares.Progress, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluated(run, "--protocol=32", "--limit=5", f"--out={tmp_path}")
    capsys.readouterr()
    fewer = evaluated(run, "--protocol=32", "--limit=4", f"--out={tmp_path}")
    assert "are done" not in capsys.readouterr().out
    assert fewer["images"] == 4


def test_two_processes_give_the_matrix_of_one(run, results, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": XLA_FLAGS,
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
    }
    command = [sys.executable, "-m", "toco_jax.evaluate", f"--checkpoint={run}", "--distributed"]
    command += ["--protocol=32,native", f"--out={tmp_path}"]
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(printed)
    shared = json.loads((tmp_path / "evaluation.json").read_text())
    assert shared["images"] == len(PHOTOS)
    for key, row in rows_of(results).items():
        assert rows_of(shared)[key]["confusion"] == row["confusion"], key


def test_train_split_sweeps_thresholds_and_writes_what_was_asked(run, tmp_path, capsys):
    out, labels = tmp_path / "out", tmp_path / "labels"
    found = evaluated(
        run,
        *("--split=train", "--protocol=native", "--save_probs", "--batch_size=4"),
        *(f"--out={out}", f"--pseudo_labels={labels}"),
    )
    printed = capsys.readouterr().out
    for name in ("cam", "aux_cam"):
        row = rows_of(found)[name, "native"]
        sweep = row["sweep"]
        # The configured threshold of 0.5 is one of the sweep's.
        at = sweep["thresholds"].index(0.5)
        np.testing.assert_allclose(sweep["miou"][at], row["miou"])
        assert sweep["best_miou"] == max(sweep["miou"]) >= row["miou"]
    assert "best threshold" in printed and "configured threshold 0.5" in printed
    for name, size, classes in PHOTOS:
        with np.load(out / "probs" / "native" / f"{name}.npz") as stored:
            probs = stored["probs"]
        assert probs.dtype == np.float16 and probs.shape == (*size, 21)
        np.testing.assert_allclose(probs.astype(np.float32).sum(-1), 1, atol=1e-2)
        picture = Image.open(labels / f"{name}.png")
        assert picture.mode == "P" and picture.size == size[::-1]
        assert picture.getpalette()[:768] == palette().reshape(-1).tolist()
        allowed = {0, 255, *(VOC_CLASSES.index(label) + 1 for label in classes)}
        assert set(np.unique(np.asarray(picture))) <= allowed


def test_crf_is_a_row_of_its_own(run, tmp_path, capsys):
    found = evaluated(
        run,
        *("--protocol=native,crf", "--limit=3", "--num_threads=1", "--crf_classes=3"),
        *("--batch_size=4", f"--out={tmp_path}"),
    )
    rows = rows_of(found)
    assert rows["seg", "native+crf"]["description"] == (
        "native, multi-scale, CRF (approximate: top_k=3)"
    )
    assert ("cam", "native+crf") not in rows
    native, refined = (np.array(rows["seg", p]["confusion"]) for p in ("native", "native+crf"))
    assert native.sum() == refined.sum()
    assert (native != refined).any()
    printed = capsys.readouterr().out
    assert "network compiled for 3 shapes" in printed and "CRF" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol=naitve"], "'naitve'"),
        (["--protocol=7"], "'7', and a patch has 8 pixels"),
        (["--protocol=32", "--pseudo_labels=x"], "needs native"),
        (["--format=coco"], "--format=coco is for pseudo labels: give their folder as --pseudo"),
        (["--split=test", "--protocol=32"], "test"),
        (["--root=/nowhere", "--protocol=32"], "/nowhere"),
        (["--mask_foreground=255", "--protocol=32"], "data of one class, not of 20"),
    ],
)
def test_mistakes_are_one_sentence(run, arguments, message):
    with pytest.raises(SystemExit, match="error: ") as stopped:
        commands.run("evaluate", [f"--checkpoint={run}", *arguments])
    assert message in str(stopped.value)
