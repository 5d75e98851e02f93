"""Each sub-command at a tiny size, and the arithmetic behind the numbers."""

import gzip
import json
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from toco_jax.benchmark import (
    attention,
    flop_count,
    measure,
    memory,
    parts,
    photos,
    plan,
    scaling,
    workload,
)
from toco_jax.cli import commands
from toco_jax.config import ConfigError
from toco_jax.models.layers import Attention
from toco_jax.runtime.compute import Compute
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.sharding import AXIS, data_parallel, make_mesh


@pytest.fixture(scope="module")
def tiny_file(tiny_config, tmp_path_factory):
    """A configuration file of a run that compiles in seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({tiny_config().to_dict()!r})\n"
    )
    return path


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a sub-command; its tables, as written to JSON."""

    def command(*arguments):
        path = tmp_path / "benchmark.json"
        commands.run("benchmark", [*map(str, arguments), "--repeats", "1", "--json", str(path)])
        content = json.loads(path.read_text())
        assert content["command"] == arguments[0]
        assert content["hardware"]["platform"] == "cpu" and content["hardware"]["devices"] == 4
        assert content["hardware"]["jax"] == jax.__version__
        printed = " ".join(capsys.readouterr().out.split())
        assert "hardware" in printed and content["hardware"]["device"] in printed
        return content["tables"]

    return command


@pytest.fixture
def run_tiny(run, tiny_file):
    """Runs a sub-command on the tiny training step."""

    def command(name, *arguments):
        sizes = ["backbone=width=16,depth=1,heads=2,patch=8", "aux_layer=-1", "crop_size=32"]
        return run(name, tiny_file, *sizes, *arguments)

    return command


# A phase without CAMs, which compiles in a few seconds.
CLASSIFIER_ONLY = [f"loss_weights.{term}=((0, 0.0), (2, 0.1))" for term in ("ptc", "ctc")]

SHARDED_STEP = ("machine.shard_optimizer=True", "--phase", "first", *CLASSIFIER_ONLY)


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


def products_of(function, *shapes):
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return flop_count.product_flops(jax.jit(function).trace(*inputs))


def test_products_are_counted_as_often_as_they_are_computed():
    product = 2 * 8**3
    square = (8, 8)
    assert products_of(lambda x: jnp.einsum("bij,bkj->bik", x, x), (3, 4, 5)) == 2 * 3 * 4 * 4 * 5
    looped = products_of(lambda x: jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x), square)
    assert looped == 7 * product
    assert products_of(lambda x: ((x @ x), x)[1], square) == 0
    branches = [lambda x: x, lambda x: x @ x, lambda x: x @ x @ x]
    assert products_of(lambda x: jax.lax.switch(jnp.int32(x[0, 0]), branches, x), square) == (
        2 * product
    )
    # One way, once more, and two products for the gradient.

    @jax.checkpoint
    def layer(x, y):
        return jnp.sum(jnp.sin(x @ y))

    again = jax.value_and_grad(layer, (0, 1))
    assert products_of(again, square, square) == 4 * product


def test_products_of_a_convolution_and_of_one_device():
    def convolve(images, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=layout
        )

    per_image = 2 * 6 * 5 * 3 * 3 * 2 * 7
    assert products_of(convolve, (4, 6, 5, 2), (3, 3, 2, 7)) == 4 * per_image
    images, kernel = PartitionSpec(AXIS), PartitionSpec()
    split = data_parallel(convolve, make_mesh(4), (images, kernel), images)
    assert products_of(split, (4, 6, 5, 2), (3, 3, 2, 7)) == per_image


@pytest.mark.usefixtures("cudnn")
def test_products_of_attention_by_cudnn():
    plain = Attention(heads=2, compute=Compute("bfloat16"))
    x = jax.ShapeDtypeStruct((3, 6, 16), jnp.bfloat16)
    variables = jax.eval_shape(plain.init, jax.random.key(0), x)

    def gradient(layer):
        def loss(variables, x):
            return jnp.sum(layer.apply(variables, x)[0].astype(jnp.float32) ** 2)

        return jax.jit(jax.value_and_grad(loss, (0, 1)))

    counted, expected = (
        flop_count.product_flops(gradient(layer).trace(variables, x))
        for layer in (plain.clone(compute=Compute("bfloat16", "cudnn")), plain)
    )
    assert counted == expected


def test_compile_times(run_tiny):
    folder = jax.config.jax_compilation_cache_dir
    ((title, rows),) = run_tiny("compile", *CLASSIFIER_ONLY, "--phase", "first").items()
    assert "width=16,depth=1,heads=2,patch=8, 32 px, float32, 4 devices" in title
    (row,) = rows
    assert row["phase"] == "first" and row["FLOP per device"] > 0
    assert min(row["trace s"], row["lower s"], row["compile s"]) > 0
    assert 0 < row["compile, cached s"] < row["compile s"]
    assert jax.config.jax_compilation_cache_dir == folder


def test_scaling_counts_the_gradients(run_tiny, tiny_config):
    sizes = {"backbone": "width=16,depth=1,heads=2,patch=8", "aux_layer": -1}
    config = tiny_config(**sizes)
    shapes = workload.abstract_inputs(config, workload.make_model(config), make_mesh())[0].params
    # The gradients of the other parts are zeros in this phase and never sent.
    trained = [shapes[part] for part in ("encoder", "classifier", "aux_classifier")]
    terms = 4 * len(("cls", "cls_aux", "total"))
    exchanged = sum(4 * x.size for x in jax.tree.leaves(trained)) + terms

    tables = run_tiny("scaling", "--devices", 1, 4, "--link_gbytes", "25,100", *CLASSIFIER_ONLY)
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
    (row,) = run_tiny("plan", *options, *CLASSIFIER_ONLY)["training step, compiled and not run"]
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


def test_lattice(run):
    sizes = ["--size", 32, "--channels", 2, "--batch", 2]
    rows, (share,) = run("lattice", *sizes, "--together").values()
    assert [row["part"] for row in rows] == ["build", "apply", "build and apply, 2 at a time"]
    assert all(row["ms per image"] > 0 and row["CPU ms per image"] > 0 for row in rows)
    assert 32 < share["vertices"] <= 6 * 32**2
    assert share["vertices per pixel"] == pytest.approx(share["vertices"] / 32**2)


def test_crf(run):
    sizes = ["--height", 32, "--width", 48, "--classes", 5, "--iterations", 2, "--batch", 2]
    ((title, rows),) = run("crf", *sizes, "--top_k", 4).items()
    assert "32 x 48, 5 classes, 2 iterations, batch 2" in title
    exact, approximate = rows
    assert exact["labels changed"] == 0 and approximate["labels changed"] < 0.1
    assert approximate["classes"] == "top 4" and min(r["s per image"] for r in rows) > 0


def test_par(run):
    ((title, rows),) = run("par", "--size", 16, "--channels", 2, 3, "--batch", 2).items()
    assert "16 x 16, batch 2" in title
    assert [row["maps"] for row in rows] == [2, 3]
    assert all(row["ms per image"] > 0 for row in rows)


def test_attention(run, monkeypatch):
    monkeypatch.setattr(measure.matrix_rate, "__kwdefaults__", {"size": 64, "repeats": 1})
    sizes = ["--tokens", 5, "--width", 16, "--heads", 2, "--batch", 3]
    ((title, rows),) = run("attention", *sizes).items()
    assert "width 16, 2 heads, batch 3, float32" in title
    # There is no cuDNN here.
    timed = [(row["tokens"], row["implementation"], row["pass"]) for row in rows]
    assert timed == [
        (5, name, part) for name in ("xla", "in_parts") for part in ("forward", "gradient")
    ]
    assert all(row["ms"] > 0 and row["% of a matrix product"] > 0 for row in rows)


class Gpu:
    """JAX with a GPU as its devices."""

    def __getattr__(self, name):
        return getattr(jax, name)

    def default_backend(self):
        return "gpu"


def test_attention_by_cudnn(run, monkeypatch, emulated_cudnn):
    monkeypatch.setattr(measure.matrix_rate, "__kwdefaults__", {"size": 64, "repeats": 1})
    sizes = ["--tokens", 5, "--width", 16, "--heads", 2, "--batch", 3]
    monkeypatch.setattr(attention, "jax", Gpu())
    # The stand-in for cuDNN, JAX's own attention, promotes implicitly in its gradient.
    with jax.numpy_dtype_promotion("standard"):
        ((title, rows),) = run("attention", *sizes).items()
    assert "bfloat16" in title
    assert [row["implementation"] for row in rows][-2:] == ["cudnn", "cudnn"]
    assert set(emulated_cudnn) == {6}


def test_attention_flops_are_those_of_its_products():
    layer = attention.Attention(2)
    x = jnp.ones((3, 40, 32))
    params = layer.init(jax.random.key(0), x)["params"]
    counted = measure.flops(
        attention.passes(layer, num_keys=x.shape[1])[0].lower(params, x).compile()
    )
    # XLA also counts the softmax and the biases.
    assert 1 < counted / attention.layer_flops(3, 40, 32) < 1.2


def test_pipeline(run):
    ((title, rows),) = run("pipeline", "--images", 2, "--size", 64).items()
    assert "64 px views of 500 x 375 JPEGs" in title
    ours, uint8, published = rows
    assert ours["times ours"] == 1 and min(published["times ours"], uint8["times ours"]) > 1
    for row in rows:
        assert row["ms per image"] == pytest.approx(1000 / row["images per CPU-second"])


def test_flops_of_a_matrix_product():
    compiled = jax.jit(jnp.matmul).lower(jnp.ones((32, 64)), jnp.ones((64, 16))).compile()
    assert measure.flops(compiled) == 2 * 32 * 64 * 16


def test_matrix_rate(monkeypatch):
    monkeypatch.setattr(measure, "medians", lambda works, *, repeats: {"product": 0.5})
    assert measure.matrix_rate(jnp.float32, size=100) == 2 * 100**3 / 0.5


def test_peak_bytes_hold_arguments_and_result():
    compiled = jax.jit(lambda x: x + 1).lower(jnp.ones(1000, jnp.float32)).compile()
    peak, source = measure.peak_bytes(compiled)
    assert source == "planned" and 8000 <= peak < 9000


def test_medians_takes_turns_after_a_warm_up():
    calls, clock = [], iter((5.0, 1.0, 7.0, 2.0, 6.0, 9.0))
    works = {name: lambda name=name: calls.append(name) for name in "ab"}

    def timed(work):
        work()
        return next(clock)

    assert measure.medians(works, repeats=3, measure=timed) == {"a": 6.0, "b": 2.0}
    assert "".join(calls) == "ab" + "ababab"


def test_medians_of_a_measure_of_two_numbers():
    clock = iter([(1.0, 30.0), (3.0, 10.0), (2.0, 20.0)])
    found = measure.medians({"a": lambda: None}, repeats=3, measure=lambda work: next(clock))
    assert found == {"a": [2.0, 20.0]}


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (0.01234, "0.0123"), (4321.5, "4,322"), (2.5e9, "2.500e+09")]
)
def test_cells(value, text):
    assert measure.shown(value) == text


def test_photos_are_like_photographs():
    import cv2

    image = photos.photo(0, 60, 80)
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert np.array_equal(image, photos.photo(0, 60, 80))
    assert not np.array_equal(image, photos.photo(1, 60, 80))
    for content in photos.jpegs(2):
        assert cv2.imdecode(np.frombuffer(content, np.uint8), 1).shape == (375, 500, 3)
        assert 50_000 < len(content) < 200_000


def test_an_image_file_in_place_of_made_up_ones(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(photos.jpegs(1)[0])
    images = photos.sized(path, 30, 40, count=2)
    assert images.shape == (2, 30, 40, 3) and np.array_equal(*images)
    assert not np.array_equal(images[0], photos.sized(None, 30, 40)[0])


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
