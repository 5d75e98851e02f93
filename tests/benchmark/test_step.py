"""The training step as a whole, its parts, its compilation and its memory over many steps."""

import gzip
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toco_jax.benchmark import (
    measure,
    memory,
    parts,
    workload,
)
from toco_jax.cli import commands
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.sharding import make_mesh

SHARDED_STEP = ("machine.shard_optimizer=True", "--phase", "first")


def test_step_and_its_parts(run_tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(measure.matrix_rate, "__kwdefaults__", {"size": 64, "repeats": 1})
    # The compiled step refuses a state that is not placed as it was told.
    tables = run_tiny("step", "--breakdown", "--profile", tmp_path, *SHARDED_STEP)
    (step,), rows = tables["training step"], tables["parts of the step, each by itself"]
    assert (step["batch size"], step["dtype"], step["phase"]) == (4, "float32", "first")
    assert step["images/s"] == pytest.approx(4 / step["seconds per step"])
    assert step["images/s per device"] == pytest.approx(step["images/s"] / 4)
    rate = step["FLOP per step and device"] / step["seconds per step"]
    assert step["FLOP/s per device"] == pytest.approx(rate) and rate > 0
    share = 100 * rate / step["FLOP/s of a matrix product"]
    assert step["% of the matrix product"] == pytest.approx(share)
    assert step["peak memory per device, MiB (planned)"] > 0
    *each, total, whole = rows
    assert [row["part"] for row in each] == ["views, gradient", "optimiser"]
    assert min(row["ms"] for row in each) > 0
    assert sum(row["ms"] for row in each) == pytest.approx(total["ms"])
    assert whole["ms"] == pytest.approx(1000 * step["seconds per step"])
    assert whole["% of the step"] == pytest.approx(100)
    (trace,) = tmp_path.rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    named = [event["args"] for event in events if "hlo_op" in event.get("args", {})]
    times = Counter(op["hlo_op"] for op in named if op["hlo_module"] == "jit_train_step")
    # Three steps on four devices.
    assert {times[op] for op in times if op.startswith("all-reduce")} == {3 * 4}


def test_parts_of_all_terms(tiny_config):
    config = tiny_config(batch_size=2, group_size=2)
    model, phase = workload.make_model(config), workload.phase_of(config, "all")
    state, batch = workload.abstract_inputs(config, model, make_mesh(1))

    def outputs(state, batch):
        made = parts.make_parts(config, model, phase, state, batch, num_present=2)
        return {name: part(*inputs) for name, (part, inputs) in made.items()}

    made = jax.eval_shape(outputs, state, batch)
    grads, tokens = made.pop("views, gradient")
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, state.params)
    assert tokens["cls_token"].shape == (4, 16) and tokens["patch_tokens"].shape == (2, 16, 16)
    # Of the 4 classes the 2 that an image may hold.
    maps = made.pop("class maps")
    assert maps["full_cam"].shape == maps["full_aux_cam"].shape == (2, 32, 32, 2)
    assert made.pop("patch contrast, gradient").shape == (2, 16, 16)
    grads, of_cls_tokens = made.pop("crops and class contrast, gradient")
    assert of_cls_tokens.shape == (4, 16) and set(grads) == set(state.params)
    grads, of_tokens = made.pop("PAR, decoder, dense energy, gradient")
    assert of_tokens.shape == (2, 16, 16) and set(grads) == set(state.params)
    updated = made.pop("optimiser")
    assert jax.tree.map(jnp.shape, updated) == jax.tree.map(jnp.shape, state)
    assert not made


def test_flops_only(run_tiny):
    (row,) = run_tiny("step", "--flops_only", *SHARDED_STEP)["training step"]
    # The block's linear layers, one way; the gradient is twice as much.
    linear = 2 * 17 * 12 * 16**2
    assert 3 * linear < row["FLOP per step and device"] < 6 * linear
    # There is no loop in this phase, so that XLA sees all of it; it counts more than products.
    assert 1 < row["FLOP by XLA, loops once"] / row["FLOP per step and device"] < 100
    assert "seconds per step" not in row


def test_compile_times(run_tiny):
    folder = jax.config.jax_compilation_cache_dir
    ((title, rows),) = run_tiny("compile", "--phase", "first").items()
    assert "width=16,depth=1,heads=2,patch=8, 32 px, float32, 4 devices" in title
    (row,) = rows
    assert row["phase"] == "first" and row["FLOP per device"] > 0
    assert min(row["trace s"], row["lower s"], row["compile s"]) > 0
    assert 0 < row["compile, cached s"] < row["compile s"]
    assert jax.config.jax_compilation_cache_dir == folder


def test_words_set_any_key(tiny_file):
    words = ["loss_weights.ptc=((0, 0.0),)", "learning_rate=1e-4", "crop_size=48"]
    options = commands.read("benchmark", ["step", str(tiny_file), *words])
    config = workload.configuration(options, num_devices=2)
    assert config.loss_weights.ptc == ((0, 0.0),) and config.learning_rate == 1e-4
    assert config.crop_size == 48 and config.batch_size == 2
    options.keys.append("batch_size=6")
    assert workload.configuration(options, num_devices=2).batch_size == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "data.no_such=1"], "no key 'data.no_such'"),
        (["seed=text"], "seed=text"),
        (["--size", "33"], "crop_size=33"),
        (["--config", "nowhere.py"], "no Python file 'nowhere.py'"),
    ],
)
def test_a_mistake_is_one_sentence(tiny_file, options, message):
    with pytest.raises(SystemExit, match="error: ") as stopped:
        commands.run("benchmark", ["step", "--config", str(tiny_file), *options])
    assert message in str(stopped.value)


def test_batch_is_what_training_gets(tiny_config):
    config = tiny_config(batch_size=6)
    batch = workload.make_batch(config)
    for name in ("image", "view2", "local"):
        assert batch[name].shape == (6, 32, 32, 3) and batch[name].dtype == np.uint8
    assert set(np.unique(batch["cls_label"])) == {0, 1}
    assert (batch["cls_label"].sum(axis=1) >= 1).all()
    y0, y1, x0, x1 = batch["valid_box"].T
    assert (y0 >= 0).all() and (y0 < y1).all() and (y1 <= 32).all() and (x0 < x1).all()


@pytest.fixture
def one_device(monkeypatch):
    """Lets commands that a test starts have one device, for which programs compile faster."""
    assert jax.device_count() == 4
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def test_memory(run_tiny, one_device):
    off = [f"loss_weights.{term}=((0, 0.0),)" for term in ("ptc", "ctc", "seg", "reg")]
    work = ["--steps", 4, "--images", 2, "--points", 2]
    tables = run_tiny("memory", *off, *work)
    train, predict = tables["toco train"], tables["toco predict"]
    assert [row["step"] for row in train] == [2, 4]
    assert [row["picture"] for row in predict] == [1, 2]
    for row in (*train, *predict):
        assert 50 < row["resident MiB"] < 10_000
        assert row["file descriptors"] >= 3 and row["threads"] >= 1
    by_hand = 1000 * (train[1]["resident MiB"] - train[0]["resident MiB"]) / 2
    of_train, _ = tables["growth per 1,000, over the second half"]
    assert of_train["resident MiB"] == pytest.approx(by_hand)


def test_a_command_that_fails_is_no_measurement():
    with pytest.raises(UserError, match="toco nonsense ended with exit code 2"):
        memory.curve(["nonsense"], "step", int, every=1, last=1)
