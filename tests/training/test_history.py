"""What a run keeps of its evaluations, around a stand-in for the network's pictures."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from stand_in_run import initial
from stored_runs import blocks_in, make_run, scores_at, shown_in

from toco_jax.training import history, samples
from toco_jax.training.history import History


class Evaluator:
    """Draws an image of one colour for each place, and remembers what it was asked for."""

    def __init__(self):
        names = [f"image {k}" for k in range(20)]
        self.source, self.asked = type("Source", (), {"names": names}), []

    def panels(self, state, places):
        self.asked.append(list(places))
        plain, label = np.zeros((30, 400, 3), np.uint8), np.full((30, 400), 300, np.uint16)
        drawn = dict(zip(samples.COLUMNS, (plain, label, plain, label, label), strict=True))
        return [drawn | {"name": self.source.names[i], "classes": ["cat"]} for i in places]


def extended(step):
    """Scores whose rows name their worst and best images."""
    scores = scores_at(step)
    for at, row in enumerate(scores["rows"]):
        row["worst"] = [{"name": f"image {at}", "miou": 1.0}]
        row["best"] = [{"name": f"image {at + 10}", "miou": 99.0}]
    return scores


@pytest.fixture
def state(tiny_config):
    return dataclasses.replace(initial(tiny_config()), step=jnp.int32(10))


def test_an_evaluation_is_kept_with_its_pictures_and_curves(state, tiny_config, tmp_path):
    run, evaluator = make_run(tmp_path / "run", steps=(4, 20)), Evaluator()
    kept = History(tiny_config(), run, evaluator, start_step=6)
    assert [path.name for path in (run / "evaluations").iterdir()] == ["4.json"]
    speeds = [(8, 50.0), (10, 60.0)]
    kept.add(state, extended(10), seconds=3.0, speeds=speeds)
    assert speeds == []
    entry = json.loads((run / "evaluations" / "10.json").read_text())
    assert evaluator.asked == [samples.spread(20), [0, 10]]
    assert [one["name"] for one in entry["pictures"]["worst"]] == ["image 0"]
    # What the run did before it was stopped, and what it has done since.
    assert entry["speed"] == [[1, 101.0], [8, 50.0], [10, 60.0]]
    assert [step for step, _ in entry["learning_rate"]] == [1, 2, 3, 4, 7, 8, 9, 10]
    assert blocks_in(run / "report.html", "pictures")[0]["steps"] == [4, 10]
    assert shown_in(run / "report.html")["remarks"] == []


def test_without_segmentation_the_extreme_images_are_those_of_the_cam(state, tiny_config, tmp_path):
    evaluator, scores = Evaluator(), extended(10)
    scores["rows"] = [row for row in scores["rows"] if row["predictor"] != "seg"]
    kept = History(tiny_config(), make_run(tmp_path / "run"), evaluator, start_step=6)
    kept.add(state, scores, seconds=3.0, speeds=[])
    assert evaluator.asked[1] == [1, 11]


def test_training_goes_on_where_nothing_can_be_kept(
    state, tiny_config, tmp_path, monkeypatch, capsys
):
    def full(path: pathlib.Path, content) -> None:
        raise OSError(28, "No space left on device", str(path))

    run = make_run(tmp_path / "run")
    kept = History(tiny_config(), run, Evaluator(), start_step=20)
    monkeypatch.setattr(history, "write_atomically", full)
    monkeypatch.setattr(history.run_page, "write_atomically", full)
    kept.add(state, extended(10), seconds=3.0, speeds=[])
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" was not")[0] for line in said] == [
        *(f"warning: {run / 'evaluations' / '10.json'}", f"warning: {run / 'report.html'}")
    ]


def test_only_the_first_process_writes(state, tiny_config, tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", steps=(4, 20))
    monkeypatch.setattr(history, "is_first", lambda: False)
    kept = History(tiny_config(), run, Evaluator(), start_step=6)
    kept.add(state, extended(10), seconds=3.0, speeds=[])
    kept.write_report()
    assert {path.name for path in (run / "evaluations").iterdir()} == {"4.json", "20.json"}
    assert not (run / "report.html").exists()


def test_pictures_are_small_and_labels_of_any_number_have_a_colour(state, tiny_config, tmp_path):
    run = make_run(tmp_path / "run")
    History(tiny_config(), run, Evaluator(), start_step=6).add(
        state, extended(10), seconds=3.0, speeds=[]
    )
    path = run / "evaluations" / "10.json"
    assert path.stat().st_size < 100_000
    one = json.loads(path.read_text())["pictures"]["samples"][0]
    assert one["image"].startswith("/9j/") and one["truth"].startswith("iVBOR")
