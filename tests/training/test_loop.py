"""The loop: a run from start to results, killed and resumed, refused and stopped."""

import base64
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import shutil
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import kill_anywhere
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import TINY_RUN
from flax import traverse_util
from PIL import Image
from safetensors.numpy import save_file
from stored_runs import blocks_in
from tensorboard_events import events

from toco_jax.cli import commands
from toco_jax.config import ConfigError, resolve
from toco_jax.evaluation import evaluate
from toco_jax.run import checkpoints, saved
from toco_jax.run.lock import LockError, locked
from toco_jax.run.workdir import note_start
from toco_jax.runtime.processes import Preemption
from toco_jax.runtime.stopwatch import format_seconds
from toco_jax.training import beginnings, loop, start, tracking
from toco_jax.training.loop import train
from toco_jax.training.step import LEFT_OUT, TrainState
from toco_jax.training.tracking import TrainingError

REPOSITORY = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tiny_config, tmp_path_factory):
    """A finished run on four devices."""
    workdir, config, before = tmp_path_factory.mktemp("run"), tiny_config(), surroundings()
    results = train(config, workdir)
    assert surroundings() == before
    return workdir, config, results


def surroundings():
    """What a notebook that trains would notice if it changed."""
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    streams = (sys.stdout, sys.stderr, sys.stdin)
    return streams, dict(os.environ), handlers, os.getcwd(), list(sys.argv)


def test_notebooks_may_train_again_and_in_another_thread(finished, tiny_config, tmp_path):
    config, before = tiny_config(num_classes=0), surroundings()
    with ThreadPoolExecutor(1) as thread:
        results = thread.submit(train, config, str(tmp_path)).result()
    assert surroundings() == before
    assert config.to_dict() == tiny_config(num_classes=0).to_dict()
    assert results | {"seconds": 0} == finished[2] | {"seconds": 0}


def test_results(finished):
    workdir, _, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    for name in ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1"):
        assert 0 <= results[name] <= 100
    assert results["step"] == 10
    assert results["protocol"] == "32"
    assert [row["predictor"] for row in results["rows"]] == ["seg", "cam", "aux_cam"]
    for row in results["rows"]:
        assert row["description"].startswith("32, single scale")
        assert len(row["iou"]) == 5
    assert results["images"] == 8
    assert results["seconds"] > 0
    assert set(results["baselines"])


def test_evaluation_of_the_last_checkpoint_gives_the_same_scores(finished):
    workdir, config, results = finished
    found = evaluate(workdir, protocols=(str(config.crop_size),), limit=8, batch_size=4)
    of_training = {name: results[name] for name in results.keys() - {"baselines"}}
    assert found | {"seconds": 0} == of_training | {"seconds": 0}


def test_scores_that_an_earlier_version_saved_are_counted_anew(
    finished, tmp_path, monkeypatch, capsys
):
    workdir, config, results = finished
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    restore = checkpoints.Checkpoints.restore

    def older(self, state):
        state, meta = restore(self, state)
        return state, meta | {"evaluation": {"seg_miou": 1.0, "images": 8, "seg_iou": {}}}

    monkeypatch.setattr(checkpoints.Checkpoints, "restore", older)
    monkeypatch.setattr(loop, "baselines", lambda source: {})
    again = train(config, tmp_path / "run")
    assert "scoring anew" in capsys.readouterr().out
    assert again["rows"] == results["rows"]


def test_metrics_have_every_step_and_only_the_terms_in_force(finished):
    lines = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "total" in line]
    assert [line["step"] for line in steps] == list(range(1, 11))
    assert set(steps[1]) == {"step", "cls", "cls_aux", "total"}
    assert set(steps[2]) == {"step", "cls", "cls_aux", "ptc", "ctc", "seg", "reg", "total"}
    assert lines[-1]["val/seg_miou"] == finished[2]["seg_miou"]


def test_picture(finished):
    picture = np.asarray(Image.open(finished[0] / "samples.png"))
    assert picture.ndim == 3
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_metrics_tensorboard_and_the_report_agree(finished):
    """Of TensorBoard to float32, of the report to the five digits that it keeps."""
    logged = {}
    for line in (finished[0] / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        logged |= {(name, step): value for name, value in values.items()}
    (file,) = (finished[0] / "tensorboard").iterdir()
    points = [event for event in events(file) if event.summary.value]
    board = {(p.summary.value[0].tag, p.step): p.summary.value[0].simple_value for p in points}
    assert board == pytest.approx(logged, rel=1e-6)

    losses, scores, rate, _ = blocks_in(finished[0] / "report.html", "chart")
    names = {"segmentation": "val/seg_miou", "CAM": "val/cam_miou"}
    names |= {"auxiliary CAM": "val/aux_cam_miou", "classification F1": "val/cls_f1"}
    shown = {
        (names.get(series["name"], series["name"]), step): value
        for chart in (losses, scores)
        for series in chart["series"]
        for step, value in zip(series["x"], series["y"], strict=True)
    }
    assert shown == pytest.approx(logged, rel=1e-4)
    assert len(shown) > 60
    # Of two steps of warm-up the first is at nothing, the next at half, then follows the decay.
    assert rate["series"][0]["y"][:3] == pytest.approx([1e-9, 5e-4, 1e-3 * 0.8**0.9], rel=1e-3)


def test_the_report_tells_the_result_and_shows_pictures(finished):
    workdir, _, results = finished
    page = workdir / "report.html"
    cards = [float(card["value"]) for card in blocks_in(page, "cards")[0]["items"]]
    expected = [results[f"{name}_miou"] for name in ("seg", "cam", "aux_cam")]
    assert cards == pytest.approx(expected, abs=0.051)
    gallery, worst, best = blocks_in(page, "pictures")
    assert len(gallery["images"]) == 8 and gallery["steps"] == [10]
    for block, key in ((worst, "worst"), (best, "best")):
        drawn = [image["name"] for image in block["images"]]
        assert drawn == [image["name"] for image in results["rows"][0][key]]
    for image in gallery["images"]:
        for panel, text in image["pictures"].items():
            content = base64.b64decode(text[0] if isinstance(text, list) else text)
            assert Image.open(io.BytesIO(content)).size == (80, 80), panel
    facts = dict(row for block in blocks_in(page, "facts") for row in block["rows"])
    assert facts["crop_size"] == "32" and facts["jax"] == jax.__version__
    assert page.stat().st_size < 8_000_000


def test_checkpoints_kept(finished):
    steps = sorted(int(p.name) for p in (finished[0] / "checkpoints").iterdir())
    assert steps == [5, 10]


def test_trained_network_can_be_loaded(finished):
    workdir, config, _ = finished
    loaded_config, run = saved.load_run(workdir)
    assert loaded_config.to_dict() == resolve(config).to_dict()
    assert run["step"] == 10
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(run["params"]))
    assert set(run["params"]) == {"encoder", "classifier", "aux_classifier", "decoder", "proj_head"}
    _, earlier = saved.load_run(workdir / "checkpoints" / "5")
    assert earlier["step"] == 5


def test_finished_run_says_so(finished, capsys):
    workdir, config, results = finished
    assert train(config, workdir) == results
    assert "is finished" in capsys.readouterr().out


def test_a_finished_run_of_other_values_is_not_taken_for_this_one(finished, tiny_config, tmp_path):
    workdir, _, results = finished
    with pytest.raises(checkpoints.CheckpointError, match=r"seed \(0 there, 1 now\).*--override"):
        train(tiny_config(seed=1), workdir)
    assert train(tiny_config(seed=1, log_every=1), workdir, override=True) == results
    assert json.loads((workdir / "config.json").read_text())["seed"] == 0
    damaged = shutil.copytree(workdir, tmp_path / "run")
    (damaged / "results.json").write_text('{"seg_miou": 5')
    with pytest.raises(checkpoints.CheckpointError, match=r"results\.json cannot be read .*: move"):
        train(tiny_config(), damaged)


def test_a_copied_beginning_is_the_run_itself(finished, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "baselines", lambda source: {})
    other = tiny_config(**{"loss_weights.ctc": ((0, 0.0),)})
    runs = {tmp_path / "other": other, tmp_path / "same": tiny_config()}
    (tmp_path / "same" / "checkpoints" / "1").mkdir(parents=True)  # is replaced
    beginnings.train_shared(tmp_path / "other", runs, Preemption())
    assert [beginnings.steps_taken(folder) for folder in runs] == [2, 2]
    results = train(tiny_config(), tmp_path / "same")
    assert results["rows"] == finished[2]["rows"]
    logged, expected = (
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "same", finished[0])
    )
    names = ("step", "cls", "ctc", "total")
    logged, expected = ([[x.get(n) for n in names] for x in lines] for lines in (logged, expected))
    assert logged == expected
    beginnings.train_shared(tmp_path / "other", runs, Preemption())  # the copy is beyond
    assert [beginnings.steps_taken(folder) for folder in runs] == [2, 10]


def test_a_finished_run_goes_on_to_more_steps(finished, tiny_config, tmp_path, monkeypatch, capsys):
    # A step that only counts: the real one would be compiled anew for another `total_steps`.
    terms = {"total": jnp.zeros(()), LEFT_OUT: jnp.zeros(())}
    count = jax.jit(lambda state: (dataclasses.replace(state, step=state.step + 1), terms))
    monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: lambda state, _: count(state))
    monkeypatch.setattr(loop, "baselines", lambda source: {})
    run = shutil.copytree(finished[0], tmp_path / "run")
    results = train(tiny_config(total_steps=11), run)
    said = "goes on from step 10 with other values: total_steps (10 there, 11 now)"
    assert said in capsys.readouterr().out
    assert results["step"] == json.loads((run / "results.json").read_text())["step"] == 11
    assert json.loads((run / "config.json").read_text())["total_steps"] == 11
    change = json.loads((run / "config_changes.jsonl").read_text())
    assert (change["step"], change["changed"]) == (10, {"total_steps": [10, 11]})
    with pytest.raises(checkpoints.CheckpointError, match=r"total_steps \(11 there, 10 now\)"):
        train(tiny_config(), run)
    (run / "results.json").unlink()
    with pytest.raises(
        checkpoints.CheckpointError, match=r"step 11, beyond total_steps=10: use tot"
    ):
        train(tiny_config(), run, override=True)


def test_other_values_are_refused(finished, tiny_config):
    (finished[0] / "results.json").rename(finished[0] / "kept.json")
    with pytest.raises(checkpoints.CheckpointError, match=r"temperature \(0.5 there, 0.7 now\)"):
        train(tiny_config(temperature=0.7), finished[0])
    (finished[0] / "kept.json").rename(finished[0] / "results.json")


def raiser(error):
    def fail(*_args, **_options):
        raise error

    return fail


def test_load_run_errors(tmp_path, finished, monkeypatch):
    with pytest.raises(checkpoints.CheckpointError, match="is not a run"):
        saved.load_run(tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match=r"no checkpoint 6.*\[5, 10\]"):
        saved.load_run(finished[0] / "checkpoints" / "6")
    copy = tmp_path / "copy"
    shutil.copytree(finished[0], copy)
    for error in (FileNotFoundError("no manifest"), ValueError("cut short"), KeyError("params")):
        # Not by real damage, which the checksums would notice.
        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", raiser(error))
        with pytest.raises(
            checkpoints.CheckpointError, match=r"checkpoints/10 is damaged .*\(there are 5\)"
        ):
            saved.load_run(copy)
    for content, message in (("{", "cannot be read"), ('{"model_type": "vit"}', "Hugging Face")):
        (copy / "config.json").write_text(content)
        with pytest.raises(checkpoints.CheckpointError, match=rf"config\.json .*{message}"):
            saved.load_run(copy)


def test_weights_beyond_use_are_refused(finished, tiny_config, tmp_path):
    encoder = encoder_of(finished[0])
    save_file(
        {name: 1e30 * value for name, value in encoder.items()}, tmp_path / "huge.safetensors"
    )
    config = tiny_config(init=str(tmp_path / "huge.safetensors"))
    with pytest.raises(ConfigError, match=r"infinity or values beyond 10000 in \d+ arrays"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()


def encoder_of(workdir):
    """The trained encoder of a run by its names in a file."""
    _, run = saved.load_run(workdir)
    return traverse_util.flatten_dict({"encoder": run["params"]["encoder"]}, sep="/")


def started(config, workdir):
    """What `init.json` holds after a run that ends before its first step."""

    class Stopped(Exception):
        pass

    def stop(*_args, **_options):
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toco_jax.training.loop.configured_batches", stop)
        with pytest.raises(Stopped):
            train(config, workdir)
    return json.loads((workdir / "init.json").read_text())


def test_a_run_notes_which_weights_it_started_from(finished, tiny_config, tmp_path, capsys):
    assert json.loads((finished[0] / "init.json").read_text()) == {"init": "random", "sha256": None}
    noted = started(tiny_config(init=str(finished[0])), tmp_path / "from_run")
    assert noted["step"] == 10 and noted["format"] == "a run" and noted["path"] == str(finished[0])
    assert f"its parameters' SHA-256 {noted['sha256']}" in capsys.readouterr().out

    weights = tmp_path / "weights.safetensors"
    encoder = encoder_of(finished[0])
    save_file(encoder, weights)
    config = tiny_config(init=str(weights))
    noted = started(config, tmp_path / "from_file")
    assert noted["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert noted["layout"] == "toco_jax encoder" and noted["path"] == str(weights)
    assert f"SHA-256 {noted['sha256']}" in capsys.readouterr().out

    # A run that has no step yet starts anew, from what is there now.
    save_file({name: 2 * value for name, value in encoder.items()}, weights)
    again = started(config, tmp_path / "from_file")
    assert again["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest() != noted["sha256"]


def test_a_run_that_goes_on_keeps_what_it_started_from(tmp_path, capsys):
    first, other = {"init": "x", "sha256": "1" * 64}, {"init": "x", "sha256": "2" * 64}
    note_start(tmp_path, first, goes_on=False)
    note_start(tmp_path, first, goes_on=True)
    assert capsys.readouterr().out == ""
    note_start(tmp_path, other, goes_on=True)
    assert json.loads((tmp_path / "init.json").read_text()) == first
    out = capsys.readouterr().out
    assert "init='x' now is of the SHA-256 222" in out and "this run started from 111" in out


def test_a_folder_in_which_another_training_runs_is_refused(tiny_config, tmp_path):
    with locked(tmp_path), pytest.raises(LockError, match=f"{tmp_path} is in use: process"):
        train(tiny_config(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_wrong_number_of_classes(tiny_config, tmp_path):
    with pytest.raises(ValueError, match="num_classes=20, but data source 'shapes' has 4"):
        train(tiny_config(num_classes=20), tmp_path)


def command(workdir, **overrides):
    """The command line of a tiny run."""
    keys = [f"--config.{key}={value}" for key, value in (TINY_RUN | overrides).items()]
    return ["--config=configs/voc.py", f"--workdir={workdir}", *keys]


def test_killed_runs_end_with_the_same_bits(finished, tmp_path):
    training = kill_anywhere.Training(TINY_RUN, os.environ)
    found = kill_anywhere.kill_often(tmp_path, training, finished[0], longest=15, kills=5, seed=0)
    assert found.pop("runs") > 0
    assert found.total() == 5


def test_mistakes_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.chdir(REPOSITORY)
    words = command(tmp_path, **{"data.source": "voc", "data.root": "/nowhere"})
    with pytest.raises(SystemExit, match=r"^error: .*/nowhere.*$") as stopped:
        commands.run("train", words)
    assert "\n" not in stopped.value.code


def test_format_seconds():
    assert format_seconds(59.9) == "00:00:59"
    assert format_seconds(93784) == "1d 02:03:04"


def state_of(spoil=None, step=0):
    """A state of two arrays of which `spoil` names one that holds a NaN."""
    params = {name: np.ones(2, np.float32) for name in ("classifier", "encoder")}
    if spoil:
        params[spoil][1] = np.nan
    return TrainState(jax.numpy.int32(step), params, {"last": np.ones(2)}, (), jax.random.key(0))


def test_weights_that_are_not_finite_are_not_blamed_on_the_learning_rate(tiny_config, tmp_path):
    config = tiny_config(init="mine.npz")
    start.check_start(config, state_of(), tmp_path)
    broken = state_of("encoder")
    with pytest.raises(ConfigError, match=r"init='mine.npz' has NaN, infinity .* 0/encoder"):
        start.check_start(config, broken, tmp_path)
    broken = state_of("encoder", step=4)
    with pytest.raises(checkpoints.CheckpointError, match=r"step 4 .* remove .*checkpoints/4 "):
        start.check_start(config, broken, tmp_path)


def test_spoilt_weights_are_not_saved(tiny_config, tmp_path, monkeypatch):
    with pytest.raises(
        TrainingError, match=r"step 4: all .* gradients or weights are not.*0/classifier"
    ):
        tracking.check_update(state_of("classifier", step=4))
    monkeypatch.setattr(tracking, "broken_weights", lambda _: next(answers))
    answers = iter([[], ["encoder"]])
    with pytest.raises(TrainingError, match="step 10"):
        train(tiny_config(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]
