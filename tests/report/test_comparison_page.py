"""Runs side by side: which are seeds of one configuration, and what becomes of them."""

import numpy as np
import pytest
from stored_runs import blocks_in, make_run, shown_in

from toco_jax.cli import commands
from toco_jax.report import comparison_page, curves


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / f"a{seed}", seed=seed) for seed in range(3)]
    runs.insert(1, make_run(folder / "b", temperature=0.7, steps=(10,)))
    return comparison_page.write(runs, folder / "out.html")


def test_seeds_of_one_configuration_are_one_row(page):
    result, differences, runs = blocks_in(page, "table")
    group, other = result["rows"]
    assert group[0].endswith("a0 and 2 more") and group[1] == "3"
    assert group[2] == "43.0 (42.0 to 44.0)"
    assert other[0].endswith("/b") and other[2] == "41.0"
    assert differences["rows"] == [["temperature", "0.5", "0.7"]]
    assert [row[0].rsplit("/", 1)[1] for row in runs["rows"]] == ["a0", "a1", "a2", "b"]


def test_curves_of_seeds_are_mean_and_band(page):
    by_title = {chart["title"]: chart["series"] for chart in blocks_in(page, "chart")}
    seeds, other = by_title["total"]
    assert seeds["x"][0] == 1 and seeds["y"][0] == 4.0
    assert (seeds["low"][0], seeds["high"][0]) == (3.0, 5.0)
    assert "low" not in other
    assert by_title["segmentation"][0]["high"] == [43.0, 44.0]
    assert [(one["name"][-1], one["colour"]) for one in by_title["total"]] == [("e", 0), ("b", 1)]


def test_classes_and_pictures_stand_beside_each_other(page):
    classes = blocks_in(page, "grouped")[0]
    assert classes["iou"][classes["names"].index("background")] == [50.0, 50.0]
    assert classes["iou"][classes["names"].index("cat")] == [None, None]
    pictures = blocks_in(page, "pictures")
    assert pictures[0]["title"] == "Segmentations"
    assert all(len(block["panels"]) == 4 and block["steps"] == [] for block in pictures)


def test_bands_of_runs_of_other_steps():
    one, other = ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0]), ([2, 4, 6], [0.0, 2.0, 4.0])
    found = curves.band("x", [one, other])
    assert found["x"] == [2, 3, 4]
    assert (found["low"], found["y"], found["high"]) == ([0, 1, 2], [1, 2, 3], [2, 3, 4])


def test_long_curves_are_means_of_their_steps():
    steps, values = list(range(1, 10_001)), np.random.default_rng(0).random(10_000).tolist()
    x, y = curves.thinned((steps, values))
    assert len(x) <= 200 and (x[0], x[-1], y[0], y[-1]) == (1, 10_000, values[0], values[-1])
    assert (np.diff(x) > 0).all()
    assert y[1:-1].std() < 0.1 and abs(y.mean() - np.mean(values)) < 0.02


def test_the_command_writes_one_page_or_a_comparison(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(tmp_path / name)
    commands.run("report", ["a"])
    commands.run("report", ["a", "b"])
    commands.run("report", ["a", "--out", "pages/one.html"])
    assert capsys.readouterr().out.split() == ["a/report.html", "comparison.html", "pages/one.html"]
    assert shown_in(tmp_path / "comparison.html")["title"] == "2 runs"
    assert shown_in(tmp_path / "pages" / "one.html")["title"].endswith("/a")
    with pytest.raises(SystemExit, match=r"error: nothing is not a run"):
        commands.run("report", ["a", "nothing"])
