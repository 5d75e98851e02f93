"""Steps that are not finite change nothing, are reported, and end the run or do not."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import stand_in_run
from stand_in_run import GOOD, INFINITE_SLOPE, NAN_LOSS, STEEP

from toco_jax.config import LOSS_TERMS
from toco_jax.method import toco
from toco_jax.method.phases import phase_at
from toco_jax.run import saved
from toco_jax.runtime.sharding import make_mesh
from toco_jax.training import step
from toco_jax.training.failures import MOST_IN_A_ROW, Failures, TrainingError


@pytest.mark.parametrize("broken", [NAN_LOSS, STEEP, INFINITE_SLOPE])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(
    tiny_config, monkeypatch, broken, devices
):
    config, mesh = tiny_config(**{"machine.shard_optimizer": devices == 2}), make_mesh(devices)
    monkeypatch.setattr(toco, "make_loss_fn", stand_in_run.make_loss_fn)
    train_step = step.make_train_step(config, None, mesh, phase_at(config, 0), num_present=4)

    def after(state, label):
        # Of two devices one has such images.
        batch = stand_in_run.labelled(GOOD)
        batch["cls_label"][-4 // devices :] = label
        state, terms = train_step(jax.tree.map(jax.numpy.copy, state), batch)
        return state, float(terms[step.LEFT_OUT])

    # After the warm-up, in which the first step has a rate of 0.
    began = dataclasses.replace(stand_in_run.initial(config), step=jax.numpy.int32(2))
    began = step.place_state(config, began, mesh)
    first, left_out = after(began, GOOD)
    assert left_out == 0
    assert (first.params["encoder"]["w"] != began.params["encoder"]["w"]).all()
    assert (first.extra["proj_head"]["w"] != began.extra["proj_head"]["w"]).any()
    second, left_out = after(first, broken)
    assert left_out == 1
    assert second.step == 4
    stayed = dataclasses.replace(first, step=second.step)
    assert jax.tree.all(jax.tree.map(lambda new, old: (new == old).all(), second, stayed))
    assert jax.tree.map(lambda x: x.sharding, second) == jax.tree.map(lambda x: x.sharding, stayed)
    assert after(second, GOOD)[1] == 0


def test_the_run_stops_and_goes_on_without_that_batch_if_told_so(tiny_config, tmp_path, capsys):
    with pytest.raises(TrainingError, match=r"step 7: cls=nan, total=nan .*image 7; see.*7\.json"):
        stand_in_run.train(tiny_config(), tmp_path, {7: NAN_LOSS})
    report = json.loads((tmp_path / "failures" / "7.json").read_text())
    assert report["step"] == 7
    assert report["images"] == ["image 7"]
    assert report["terms"] == {"cls": "nan", "total": "nan"}
    assert report["what"].startswith("step 7: cls=nan")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]

    stand_in_run.train(tiny_config(on_nan="skip"), tmp_path, {7: NAN_LOSS})
    assert "step 7: cls=nan, total=nan is not finite" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11))
    assert [line for line in lines if len(line) != 3] == [{"step": 7, "left_out": 1.0}]
    params = saved.load_run(tmp_path)[1]["params"]
    assert np.isfinite(params["encoder"]["w"]).all()


def test_gradients_alone_are_named(tiny_config, tmp_path):
    with pytest.raises(TrainingError, match="step 1: all loss terms are finite, but a gradient"):
        stand_in_run.train(tiny_config(), tmp_path, {1: INFINITE_SLOPE})


MANY = (
    r".*left out, as were those of the 9 steps before, for the images image \d+; see .*"
    r"such steps in a row are no chance: .* change a value and add --override"
)


@pytest.mark.parametrize("at", [1, 4])
def test_many_in_a_row_end_the_run(tiny_config, tmp_path, at):
    broken = {at + i: NAN_LOSS for i in range(MOST_IN_A_ROW)}
    config = tiny_config(on_nan="skip", total_steps=20)
    with pytest.raises(TrainingError, match=f"step {at + 9}: {MANY}"):
        stand_in_run.train(config, tmp_path, broken)
    assert len([*(tmp_path / "failures").iterdir()]) == MOST_IN_A_ROW
    del broken[at + 4]
    stand_in_run.train(config, tmp_path / "other", broken)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"cls": 1, "seg": np.nan}], "seg=nan.*; cls is finite.* from seg or"),
        ([{"cls": np.nan, "seg": np.inf}], "step 1: .*the first step.* compute_dtype='float32'"),
        ([{"cls": 1, "seg": 1}, {"cls": np.nan, "seg": np.nan}], "those of step 1.*learning_rate"),
    ],
)
def test_where_a_nan_came_from(tmp_path, steps, message):
    assert set(steps[0]) < set(LOSS_TERMS)
    failures = Failures(tmp_path, "stop")
    *good, last = ({**values, "total": sum(values.values())} for values in steps)
    for i, values in enumerate(good):
        failures.check(i + 1, ["a"], values, left_out=False)
    with pytest.raises(TrainingError, match=message) as caught:
        failures.check(len(steps), ["a"], last, left_out=True)
    assert "images a;" in str(caught.value)
    assert ("learning_rate" in str(caught.value)) == ("learning_rate" in message)
