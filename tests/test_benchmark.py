import json

import pytest

from toco_jax import benchmark


def test_pipeline_writes_a_table_and_json(tmp_path, capsys):
    path = tmp_path / "pipeline.json"
    arguments = ["--images", "2", "--size", "64", "--repeats", "1", "--json", str(path)]
    benchmark.main(["pipeline", *arguments])
    content = json.loads(path.read_text())
    ours, uint8, published = content["rows"]
    assert ours["times ours"] == 1 and min(published["times ours"], uint8["times ours"]) > 1
    for row in content["rows"]:
        assert row["ms per image"] == pytest.approx(1000 / row["images per CPU-second"])
    assert "64 px views of 500 x 375 JPEGs" in " ".join(capsys.readouterr().out.split())


def test_medians_takes_turns_after_a_warm_up():
    calls, clock = [], iter((5.0, 1.0, 7.0, 2.0, 6.0, 9.0))
    works = {name: lambda name=name: calls.append(name) for name in "ab"}

    def measure(work):
        work()
        return next(clock)

    assert benchmark.medians(works, repeats=3, measure=measure) == {"a": 6.0, "b": 2.0}
    assert "".join(calls) == "ab" + "ababab"


def test_the_test_files_are_500_by_375():
    import cv2
    import numpy as np

    for content in benchmark.jpegs(2):
        assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape == (375, 500, 3)
        assert 50_000 < len(content) < 200_000
