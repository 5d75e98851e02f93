"""How a step scales over devices, and its plan for devices that are elsewhere."""

import jax
import pytest

from toco_jax.benchmark import (
    plan,
    scaling,
    workload,
)
from toco_jax.config import ConfigError
from toco_jax.runtime.sharding import make_mesh


def test_scaling_counts_the_gradients(run_tiny, tiny_config):
    sizes = {"backbone": "width=16,depth=1,heads=2,patch=8", "aux_layer": -1}
    config = tiny_config(**sizes)
    shapes = workload.abstract_inputs(config, workload.make_model(config), make_mesh())[0].params
    # The gradients of the other parts are zeros in this phase and never sent.
    trained = [shapes[part] for part in ("encoder", "classifier", "aux_classifier")]
    terms = 4 * len(("cls", "cls_aux", "total"))
    exchanged = sum(4 * x.size for x in jax.tree.leaves(trained)) + terms

    tables = run_tiny("scaling", "--devices", 1, 4, "--link_gbytes", "25,100")
    counted, plan = tables.values()
    assert [(row["devices"], row["batch size"]) for row in counted] == [(1, 1), (4, 4)]
    assert [row["all-reduce"] for row in counted] == [0, exchanged]
    for kind in ("all-gather", "reduce-scatter", "all-to-all"):
        assert [row[kind] for row in counted] == [0, 0]
    assert {row["parameter bytes"] for row in counted} == {
        sum(4 * x.size for x in jax.tree.leaves(shapes))
    }
    assert "measured on one device" in list(tables)[1]
    assert [row["devices"] for row in plan] == [8, 16, 32, 64, 128, 256]
    milliseconds = 1000 * 2 * 7 / 8 * exchanged / 25e9
    assert plan[0]["25 GB/s: ms"] == pytest.approx(milliseconds)
    assert plan[0]["100 GB/s: ms"] == pytest.approx(milliseconds / 4)


def test_plan_for_devices_elsewhere(run_tiny, monkeypatch):
    # Virtual devices take the place of a topology, for which XLA would need its plugin.
    there = ("tpu", jax.devices()[:2])
    monkeypatch.setattr(plan, "target_devices", lambda target: there)
    sizes = {"phase": "first", "target": "tpu:two"}
    options = [part for name, value in sizes.items() for part in (f"--{name}", value)]
    (row,) = run_tiny("plan", *options)["training step, compiled and not run"]
    assert (row["devices"], row["dtype"], row["batch size"]) == (2, "bfloat16", 2)
    assert row["planned memory per device, MiB"] > 0 and row["FLOP per step and device"] > 0
    assert row["all-reduce, MiB"] > 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gpu:h99", "--target=gpu:h99 is unknown: use gpu:h100 or tpu:v5e:2x4"),
        ("gpu:h100:0", "--target=gpu:h100:0 is unknown"),
        ("tpu:", "--target=tpu: is unknown"),
        ("tpu:no_such_topology", r"--target=tpu:no_such_topology: .*pip install 'jax\[tpu\]'"),
    ],
)
def test_plan_for_unknown_devices(target, message):
    with pytest.raises(ConfigError, match=message):
        plan.target_devices(target)


def test_share_of_a_given_step():
    row = scaling.plan_row(2, {"all-reduce": 10**9}, 3.0, [1.0])
    assert row["1 GB/s: ms"] == pytest.approx(1000)
    assert row["1 GB/s: % of step"] == pytest.approx(25)


HLO = """
  %ar = f32[10,20]{1,0} all-reduce(%a), replica_groups={{0,1}}, to_apply=%add
  %pair = (f32[3]{0}, bf16[4,2]{1,0}) all-reduce(%b, %c), to_apply=%add
  %start = f32[7]{0} all-reduce-start(%d), to_apply=%add
  %done = f32[7]{0} all-reduce-done(%start)
  %gs = (f32[2]{0}, f32[8]{0}) all-gather-start(%e), dimensions={0}
  %gd = f32[8]{0} all-gather-done(%gs)
  %rs = pred[5]{0} reduce-scatter(%f), dimensions={0}
  %count = s32[] all-reduce(%g), metadata={op_name="psum"}
  %sum = f32[100]{0} add(%ar, %all-reduce.3)
"""


def test_exchanged_bytes_of_a_program():
    assert scaling.exchanged_bytes(HLO) == {
        "all-reduce": 4 * 200 + 4 * 3 + 2 * 8 + 4 * 7 + 4,
        "all-gather": 4 * 8,
        "reduce-scatter": 5,
        "all-to-all": 0,
    }
    with pytest.raises(ValueError, match="token"):
        scaling.exchanged_bytes("  %x = token[] all-reduce(%a)")


def test_ring_of_two():
    # Each sends half of what it has, then half of the sum.
    assert scaling.ring_seconds({"all-reduce": 10**9}, 2, 1.0) == pytest.approx(1.0)
    # A sharded optimiser exchanges as much: gradients scattered, parameters gathered.
    parted = {"reduce-scatter": 10**9 // 2, "all-gather": 10**9}
    assert scaling.ring_seconds(parted, 2, 1.0) == pytest.approx(1.0)
