"""The demo, shortened: training on image labels gives maps that no rule of colours gives."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]
TURN = 24  # The step at which all losses are in force.
SHORTENED = {
    "total_steps": 56,
    "warmup_steps": 10,
    "loss_weights.ptc": ((0, 0.0), (TURN, 0.2)),
    "loss_weights.ctc": ((0, 0.0), (TURN, 0.1)),
    "loss_weights.seg": ((0, 0.0), (TURN, 0.1)),
    "loss_weights.reg": ((0, 0.0), (TURN, 0.05)),
}


def test_it_learns(tmp_path):
    flags = [f"--config.{key}={value}" for key, value in SHORTENED.items()]
    command = [sys.executable, "-m", "toco_jax.main", "--config=configs/shapes.py"]
    subprocess.run(
        [*command, f"--workdir={tmp_path}", *flags],
        cwd=REPOSITORY,
        # Here optimised programs pay: the steps take longer than their compilation.
        env=os.environ | {"XLA_FLAGS": ""},
        check=True,
    )
    results = json.loads((tmp_path / "results.json").read_text())
    baselines = results["baselines"]
    assert results["images"] == 200
    assert baselines["colour"] > baselines["all_background"] > 10
    for name in ("seg_miou", "cam_miou", "aux_cam_miou"):
        assert results[name] > baselines["colour"], name
