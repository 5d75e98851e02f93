"""`report.html` of stored runs: what it shows, what it leaves out, how large it gets."""

import json
import shutil
import subprocess
import sys

import pytest
from stored_runs import (
    CLASSES,
    HOSTILE,
    blocks_in,
    evaluation_at,
    make_run,
    scores_at,
    shown_in,
    write,
)

from toco_jax.report import run_page
from toco_jax.run.records import CheckpointError


def test_the_result_comes_first_with_its_protocol(tmp_path):
    page = run_page.write(make_run(tmp_path / "run"))
    (cards,) = blocks_in(page, "cards")
    assert shown_in(page)["sections"][0]["blocks"][0] == cards
    assert [(card["name"], card["value"]) for card in cards["items"]] == [
        ("segmentation", "42.0"),
        ("CAM", "43.0"),
        ("auxiliary CAM", "44.0"),
    ]
    assert all("32, single scale" in card["note"] for card in cards["items"])
    assert "finished: step 20 of 20" in shown_in(page)["about"]


def test_curves_are_those_of_the_metrics(tmp_path):
    run = make_run(tmp_path / "run")
    losses, scores, rate, speed = blocks_in(run_page.write(run), "chart")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for chart, prefix, names in (
        (losses, "", {"total": "total", "cls": "cls"}),
        (scores, "val/", {"seg_miou": "segmentation", "cam_miou": "CAM"}),
    ):
        by_name = {series["name"]: series for series in chart["series"]}
        for key, name in names.items():
            logged = [(line["step"], line[prefix + key]) for line in lines if prefix + key in line]
            shown = [*zip(by_name[name]["x"], by_name[name]["y"], strict=True)]
            assert shown == [(step, pytest.approx(value, rel=1e-4)) for step, value in logged]
    assert rate["series"][0]["y"][0] == 1e-4
    assert speed["series"][0]["y"] == [101.0, 106.0, 111.0, 116.0]


def test_pictures_of_every_evaluation_and_of_the_extreme_images(tmp_path):
    run = make_run(tmp_path / "run")
    gallery, worst, best = blocks_in(run_page.write(run), "pictures")
    assert gallery["steps"] == [10, 20]
    assert [image["name"] for image in gallery["images"]] == ["one", "two"]
    drawn = [evaluation_at(step)["pictures"]["samples"][0] for step in (10, 20)]
    pictures = gallery["images"][0]["pictures"]
    assert pictures["CAM"] == [one["CAM"] for one in drawn] and drawn[0]["CAM"] != drawn[1]["CAM"]
    assert pictures["image"] == drawn[1]["image"]
    assert ["cat", "#800000"] in gallery["legend"]
    assert (worst["images"][0]["name"], best["images"][0]["name"]) == ("one", "two")
    assert worst["images"][0]["note"].startswith("3.0 %")


def test_what_made_the_run_is_told(tmp_path):
    run = make_run(tmp_path / "run")
    change = {"step": 10, "time": "now", "changed": {"log_every": [1, 2]}}
    (run / "config_changes.jsonl").write_text(json.dumps(change) + "\n")
    page = run_page.write(run)
    facts = dict(row for block in blocks_in(page, "facts") for row in block["rows"])
    assert facts["command"] == "toco train x data.root='a b'"
    assert (facts["sha256"], facts["jax"], facts["data.val_split"]) == ("abc123", "0.10.2", '"val"')
    assert facts["most memory of a device"] == "1.00 GiB"
    assert ["10", "now", '{"log_every": [1, 2]}'] in [
        row for block in blocks_in(page, "table") for row in block["rows"]
    ]


def test_scores_of_evaluate_and_published_ones_stand_beside(tmp_path):
    data = {"source": "voc", "train_split": "train_aug", "val_split": "val"}
    run = make_run(tmp_path / "run", data=data)
    evaluated = scores_at(20)
    evaluated["rows"] = [evaluated["rows"][0] | {"protocol": "native+crf", "description": "CRF"}]
    write(run / "evaluation.json", evaluated)
    rows = [row for block in blocks_in(run_page.write(run), "table") for row in block["rows"]]
    assert ["segmentation", "42.0", "CRF", "80.0", "90.0", "val, 4 images", "20"] in rows
    crf = "native, multi-scale, CRF"
    assert ["segmentation", crf, "42.0", "69.8", "71.1"] in rows
    assert ["CAM", "448, single scale, no CRF", "-", "70.5", "72.3"] in rows
    shutil.rmtree(run)
    other = blocks_in(run_page.write(make_run(run)), "table")
    assert not any("published" in head for block in other for head in block["head"])


def test_a_run_before_its_first_evaluation_has_a_page(tmp_path):
    run = make_run(tmp_path / "run", is_finished=False)
    shutil.rmtree(run / "evaluations")
    (run / "metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    page = run_page.write(run)
    assert "not finished: step 1 of 20" in shown_in(page)["about"]
    assert blocks_in(page, "text")[0]["text"] == "There is no evaluation yet."


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scores": {"rows": [{"predictor": "seg"}]}}, "a row has no name"),
        ({"scores": 5}, "it holds no scores"),
        (
            {"pictures": {"samples": [{"name": "x", "classes": []}]}},
            "image of an image is no picture",
        ),
        ({"pictures": None}, "it is no evaluation"),
    ],
)
def test_a_damaged_evaluation_is_left_out_with_a_remark(tmp_path, changes, reason):
    run = make_run(tmp_path / "run")
    write(run / "evaluations" / "10.json", evaluation_at(10) | changes)
    page = run_page.write(run)
    assert blocks_in(page, "pictures")[0]["steps"] == [20]
    (remark,) = shown_in(page)["remarks"]
    assert "10.json is left out" in remark and reason in remark


def test_a_picture_is_nothing_but_a_picture(tmp_path):
    run, entry = make_run(tmp_path / "run"), evaluation_at(20)
    entry["pictures"]["samples"][0]["CAM"] = '/9j/" onerror="alert(1)'
    write(run / "evaluations" / "20.json", entry)
    assert "the CAM of an image is no picture" in shown_in(run_page.write(run))["remarks"][0]


def test_what_is_no_run_is_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no config\.json; give the folder of a run"):
        run_page.write(tmp_path)


def test_names_of_users_cannot_leave_the_values(tmp_path):
    run = make_run(tmp_path / "run", names=(HOSTILE, "dog\udcff"), backbone="</script><b>&")
    text = (page := run_page.write(run)).read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert "onerror=window" not in text.replace("\\u003cimg src=x onerror=window.hacked=1", "")
    shown = shown_in(page)
    assert "</script><b>&" in shown["about"]
    assert HOSTILE in blocks_in(page, "classes")[0]["rows"][0]["names"]


def test_a_long_run_of_many_classes_stays_below_8_mb(tmp_path):
    names = tuple(f"class {'x' * 20} {k}" for k in range(100))
    run = make_run(tmp_path / "run", names=names, steps=(1, 2, 5000), total_steps=5000)
    entry = evaluation_at(1, CLASSES, images=[f"image {k}" for k in range(8)])
    for one in entry["pictures"]["samples"]:
        one.update(dict.fromkeys(("image", "truth", "CAM", "pseudo label"), "A" * 8000))
    text = json.dumps(entry)
    for step in range(10, 5000, 100):
        (run / "evaluations" / f"{step}.json").write_text(text)
    assert sum(path.stat().st_size for path in (run / "evaluations").iterdir()) > 12_000_000
    page = run_page.write(run)
    assert page.stat().st_size < 8_000_000
    assert blocks_in(page, "pictures")[0]["steps"][-1] == 5000
    assert len(blocks_in(page, "pictures")[0]["steps"]) > 3
    for chart in blocks_in(page, "chart"):
        for series in chart["series"]:
            assert len(series["x"]) <= 300
    matrix = blocks_in(page, "classes")[0]["rows"][0]["matrix"]
    assert len(matrix["shares"]) == 64 and "37 classes" in matrix["note"]


def test_a_page_needs_no_jax():
    program = "import sys\nfrom toco_jax.report import comparison_page, run_page\n"
    program += "sys.exit('jax' in sys.modules or 'orbax' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
