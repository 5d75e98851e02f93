"""A run from a weight file against its two steps taken by hand; which checkpoints a run keeps."""

import json
from contextlib import contextmanager

import jax
import numpy as np
import pytest
import slow_step
from safetensors.numpy import save_file
from slow_evaluator import SlowEvaluator, confusions, miou
from weight_formats import timm_state

from toco_jax.data.pipeline import train_batches
from toco_jax.data.sources import shapes
from toco_jax.run import saved
from toco_jax.training import loop, start, validation

WEIGHTS = [slow_step.WEIGHTS | {"ptc": 0.0, "reg": 0.0}, slow_step.WEIGHTS]
REFINED = ["aux_cam", "cam"]


@contextmanager
def without_baselines():
    """Spares runs the baselines of the procedural images, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "baselines", lambda source: {})
        yield


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    """Two steps of other weights each from a file: folder, configuration, results and crops."""
    folder = tmp_path_factory.mktemp("wiring")
    save_file(slow_step.start_weights()[0], folder / "start.safetensors")
    changes = slow_step.CHANGES | {
        f"loss_weights.{term}": tuple((i, weights[term]) for i, weights in enumerate(WEIGHTS))
        for term in slow_step.WEIGHTS
    }
    config = tiny_config(
        **changes
        | {
            "seed": 7,
            "init": str(folder / "start.safetensors"),
            "group_size": 1,
            "total_steps": 2,
            "save_every": 1,
            "pseudo_label_cam": tuple(enumerate(REFINED)),
            "data.scale_range": (0.3, 0.5),
            "data.blur_sigma": (0.5, 1.0),
        }
    )
    with slow_step.recorded_crops() as taken, without_baselines():
        results = loop.train(config, folder / "run")
        jax.effects_barrier()
    return folder / "run", config, results, taken


@pytest.fixture(scope="module")
def batches():
    """The first two batches of that run."""
    stream = train_batches(
        shapes.ShapesSource("train", masks=False, seed=7),
        seed=7,
        start_step=0,
        batch_size=4,
        crop_size=32,
        as_published=False,
        num_threads=0,
        scale_range=(0.3, 0.5),
        blur_sigma=(0.5, 1.0),
    )
    return [next(stream) for _ in range(2)]


def test_two_steps_are_those_taken_by_hand(run, batches):
    workdir, config, _, taken = run
    origins_of = {local.tobytes(): origins for local, origins in taken}
    assert len(origins_of) == 8
    logged = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    plain = slow_step.SlowStep(config)
    _, params, teacher = slow_step.start_weights()
    moments = None
    for i, batch in enumerate(batches):
        teacher = slow_step.moved(teacher, params["proj_head"])
        missing = [local for local in batch["local"] if local.tobytes() not in origins_of]
        assert not missing, "the run saw other images than those of its seed, scales and blurs"
        origins = np.stack([origins_of[local.tobytes()] for local in batch["local"]])
        terms, grads, labels = plain(
            params, teacher, batch, origins, weights=WEIGHTS[i], refined=REFINED[i]
        )
        terms = {name: terms[name] for name in terms if WEIGHTS[i].get(name, 1)}
        assert set(logged[i]) == {"step", *terms}
        for name, value in terms.items():
            np.testing.assert_allclose(
                logged[i][name], value, rtol=1e-5, err_msg=f"{name} at step {i}"
            )
        for region, corners in zip(labels["region"], origins, strict=True):
            assert all(region[y + 8, x + 8] < 2 for y, x in corners)  # the crops' centres

        before = slow_step.flat(params)
        expected, moments = plain.update(params, grads, moments, step=i)
        state = saved.load_run(workdir / "checkpoints" / str(i + 1))[1]
        params = state["params"]
        slow_step.assert_updated(params, expected, before, moments[0])
        jax.tree.map(
            lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8),
            state["extra"]["proj_head"],
            teacher,
        )


def test_its_scores_are_those_of_plain_code(run):
    workdir, config, results, _ = run
    params = saved.load_run(workdir)[1]["params"]
    slow = SlowEvaluator(
        slow_step.plain_network(config, grid=4),
        params,
        cam_scales=(1.0, 0.5),
        bkg_thre=config.bkg_thre,
    )
    source = shapes.ShapesSource("val", masks=True)
    records = [source[i] for i in range(8)]
    expected, f1 = confusions(records, lambda record: slow.squashed(record, 32), 5)
    assert results["images"] == 8
    for name, confusion in expected.items():
        # A pixel in 51,200 may fall to the other side of a threshold.
        np.testing.assert_allclose(results[f"{name}_miou"], 100 * miou(confusion), atol=0.05)
    np.testing.assert_allclose(results["cls_f1"], 100 * f1)


def test_a_file_of_an_encoder_leaves_the_heads_to_the_seed(tiny_config, tmp_path):
    state_dict, expected, _ = slow_step.start_weights()
    save_file(timm_state(state_dict), tmp_path / "encoder.safetensors")
    init = str(tmp_path / "encoder.safetensors")
    starts = [start.start_state(tiny_config(init=init, seed=seed))[1] for seed in (0, 1)]
    for state in starts:
        jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], expected["encoder"])
        jax.tree.map(
            np.testing.assert_array_equal, state.extra["proj_head"], state.params["proj_head"]
        )
    for head in ("classifier", "aux_classifier", "decoder", "proj_head"):
        kernels = [jax.tree.leaves(state.params[head])[-1] for state in starts]
        assert (kernels[0] != kernels[1]).any()


def test_a_random_encoder_of_the_image_head_is_remarked(tiny_config, tmp_path, capsys):
    save_file(timm_state(slow_step.start_weights()[0]), tmp_path / "encoder.safetensors")
    for init in ("random", str(tmp_path / "encoder.safetensors")):
        start.start_state(tiny_config(init=init, **{"loss_weights.cls_img": ((0, 1.0),)}))
        is_remarked = "the encoder of the image head is random" in capsys.readouterr().out
        assert is_remarked == (init == "random")


def test_the_best_checkpoint_is_kept_beside_the_newest(tiny_config, tmp_path, monkeypatch):
    only = {f"loss_weights.{term}": ((0, float(term == "cls")),) for term in slow_step.WEIGHTS}
    config = tiny_config(**only, total_steps=6, eval_every=2, save_every=1)
    evaluate, scores = validation.Evaluator.__call__, {2: 30.0, 4: 10.0, 6: 20.0}

    def first_best(self, state, tracker):
        return evaluate(self, state, tracker) | {"seg_miou": scores[int(state.step)]}

    monkeypatch.setattr(validation.Evaluator, "__call__", first_best)
    with without_baselines():
        results = loop.train(config, tmp_path)
    assert (results["step"], results["seg_miou"]) == (6, 20.0)
    kept = {path.name: saved.load_run(path)[1] for path in tmp_path.glob("checkpoints/*")}
    assert {name: run["step"] for name, run in kept.items()} == {"2": 2, "5": 5, "6": 6}
    assert kept["2"]["meta"]["evaluation"]["seg_miou"] == 30.0
