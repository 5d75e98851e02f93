"""The evaluation command against one written plainly in `slow_evaluator`."""

import itertools
import json

import numpy as np
import pytest
from slow_evaluator import SlowEvaluator, confusions
from slow_step import plain_network
from tiny_run import make_devkit, make_run

from toco_jax.cli import commands
from toco_jax.data import open_source
from toco_jax.run import saved

CAM_SCALES = (1.0, 1.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory, voc_config):
    folder = tmp_path_factory.mktemp("wiring")
    return make_run(folder / "run", voc_config, make_devkit(folder), cam_scales=CAM_SCALES)


@pytest.fixture(scope="module")
def rows(run):
    """Confusion matrices by predictor and protocol, as the command writes them."""
    commands.run("evaluate", [f"--checkpoint={run}", "--protocol=32,native", "--batch_size=4"])
    written = json.loads((run / "evaluation.json").read_text())["rows"]
    return {(row["predictor"], row["protocol"]): np.array(row["confusion"]) for row in written}


@pytest.fixture(scope="module")
def expected(run):
    """The same, plainly."""
    config, state = saved.load_run(run)
    network = plain_network(config, grid=4)
    slow = SlowEvaluator(network, state["params"], cam_scales=CAM_SCALES, bkg_thre=0.5)
    source = open_source("voc", root=config.data.root, split="val", masks=True)
    records = [source[i] for i in range(len(source))]
    by_protocol = {
        "32": confusions(records, lambda record: slow.squashed(record, 32), 21)[0],
        "native": confusions(records, slow.native, 21)[0],
    }
    return {(name, p): matrix for p, found in by_protocol.items() for name, matrix in found.items()}


def test_the_plain_matrices_differ_from_one_another(expected):
    for one, other in itertools.combinations(expected.values(), 2):
        assert np.abs(one - other).sum() > 100


@pytest.mark.parametrize("protocol", ["32", "native"])
@pytest.mark.parametrize("predictor", ["cam", "aux_cam", "seg"])
def test_the_command_counts_what_plain_code_counts(rows, expected, predictor, protocol):
    found, wanted = rows[predictor, protocol], expected[predictor, protocol]
    assert found.sum() == wanted.sum()
    # A pixel on a threshold may fall to either side.
    assert np.abs(found - wanted).sum() <= 4
