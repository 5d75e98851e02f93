"""A run that an earlier version made goes on, is loaded and keeps its numbers.

`old_run.tar.gz` is the folder of a tiny run at step 4 of 6; its projection heads are all zeros, so
that it is small. The numbers below are those with which that version went on.
"""

import json
import pathlib
import tarfile

import pytest

from toco_jax.run import runs
from toco_jax.training.loop import train

ARCHIVE = pathlib.Path(__file__).with_name("old_run.tar.gz")
TERMS = {
    5: {"cls": 0.8660896, "cls_aux": 0.7623680, "ctc": 0.8741188, "ptc": 0.3028295}
    | {"reg": -0.000126311, "seg": 1.2116129, "total": 2.2472379},
    6: {"cls": 0.5819376, "cls_aux": 0.6946952, "ctc": 0.2311518, "ptc": 0.3784213}
    | {"reg": -0.000178864, "seg": 0.9681354, "total": 1.5646975},
}


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "run"


def test_goes_on_with_the_same_numbers(old, tiny_config):
    weights = {"loss_weights.ptc": ((0, 0.2),), "loss_weights.ctc": ((0, 0.5),)}
    results = train(tiny_config(max_grad_norm=1.0, total_steps=6, save_every=2, **weights), old)
    lines = [json.loads(line) for line in (old / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line for line in lines if "total" in line}
    assert found.keys() == TERMS.keys()
    for step, terms in TERMS.items():
        assert {name: found[step][name] for name in terms} == pytest.approx(terms, rel=1e-4)
    assert results["step"] == 6
    assert results["cam_miou"] == pytest.approx(18.65, abs=0.3)


def test_is_loaded(old):
    run = runs.load(old)
    assert run.step == 4 and run.class_names[0] == "striped disc"
    assert run.model.compute.dtype == "float32"
