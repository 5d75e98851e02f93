"""The training loop: restore, then next batch, step, log, evaluate, save, until the last step."""

import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.config import ConfigError, validate
from toco_jax.data import open_configured, remarks
from toco_jax.data.pipeline import configured_batches
from toco_jax.demo.baselines import baselines
from toco_jax.evaluation import scoring, shares
from toco_jax.evaluation.squashed import SquashedPass
from toco_jax.method.phases import phase_at
from toco_jax.models.vit import backbone_from_name
from toco_jax.run import checkpoints
from toco_jax.run import workdir as folder
from toco_jax.run.network import make_model
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.sharding import local_copy, local_mesh, make_mesh, shard_batch
from toco_jax.runtime.stopwatch import format_seconds
from toco_jax.training import samples
from toco_jax.training.step import (
    TrainState,
    init_params,
    init_state,
    make_train_step,
    place_state,
)
from toco_jax.training.tracking import (
    StepLog,
    Tracker,
    TrainingError,
    broken_weights,
)
from toco_jax.weights import class_rows, load

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.png"


def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a network, or goes on where a killed run stopped; returns its results.

    Several processes call it alike, with one folder for all; the first one writes.

    Args:
        config: the configuration, see `config.defaults`.
        workdir: the run's folder, made if missing; a finished run is left alone.

    Raises:
        ConfigError: a value that cannot work, initial weights included.
        DataError: a broken data set.
        CheckpointError: the folder holds another run.
        TrainingError: a loss is not finite.
        Preempted: SIGTERM came; the state is saved.
    """
    validate(config, jax.device_count())
    if (workdir / RESULTS_FILE).exists():
        say(
            f"{workdir} is finished, see {RESULTS_FILE} in it; to train again use another --workdir"
        )
        return json.loads((workdir / RESULTS_FILE).read_text())
    with processes.Preemption() as preemption:
        return train_until_stopped(config, workdir, preemption)


def train_until_stopped(
    config: ConfigDict, workdir: pathlib.Path, preemption: processes.Preemption
) -> dict[str, Any]:
    """`train` for a validated configuration of a run that is not finished."""
    began = time.perf_counter()
    config = folder.resolve(workdir, config)
    source, val_source = open_sources(config)
    folder.claim(workdir, config, source.class_names)

    mesh, store = make_mesh(), checkpoints.Checkpoints(workdir)
    model, state, meta = begin(config, workdir, store, mesh, source.class_names)
    began -= meta["seconds"]

    @functools.lru_cache
    def step_of(phase) -> Callable:
        return make_train_step(config, model, mesh, phase, num_present=source.num_present)

    step = int(state.step)
    evaluator = Evaluator(config, model, val_source)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = configured_batches(source, config, start_step=step, **share)
    tracker = Tracker(workdir, start_step=step, total_steps=config.total_steps)
    with closing(batches), closing(tracker), closing(store):
        log = StepLog(tracker, config.batch_size)
        while step < config.total_steps:
            batch = next(batches)
            names, skipped = batch.pop("name"), batch.pop("skipped", None)
            batch = shard_batch(batch, mesh)
            # The batch is all that goes to the devices, and logged numbers all that comes back.
            with jax.transfer_guard("disallow"):
                state, terms = step_of(phase_at(config, step))(state, batch)
            step += 1
            if skipped is not None:
                terms = terms | {"skipped": skipped.sum()}
            log.add(step, names, terms)

            last, stopping = step == config.total_steps, preemption.stops(step)
            showing = last or step % config.log_every == 0
            evaluating = last or step % config.eval_every == 0
            saving = evaluating or stopping or step % config.save_every == 0
            if showing or saving:
                log.flush(show=showing)
            if evaluating:
                meta["evaluation"] = evaluator(state, tracker)
                tracker.restart_clock(step)
            if saving:
                check_update(state)
                meta["seconds"] = time.perf_counter() - began
                seg_miou = meta["evaluation"]["seg_miou"] if evaluating else None
                store.save(state, meta=meta, seg_miou=seg_miou)
            if stopping and not last:
                raise processes.Preempted(f"stopped and saved at step {step} of {workdir}")
    return finish(config, workdir, evaluator, state, meta)


def begin(
    config: ConfigDict,
    workdir: pathlib.Path,
    store: checkpoints.Checkpoints,
    mesh: Mesh,
    class_names: Sequence[str],
) -> tuple[Any, TrainState, dict[str, Any]]:
    """The network, its state on the devices and what was noted beside that: of the newest
    checkpoint, or before the first step.
    """
    start = load_start(config)
    model, state = start_state(config, start, class_names)
    state = place_state(config, state, mesh)
    folder.note_start(workdir, start["origin"], goes_on=store.latest_step is not None)
    meta = {"seconds": 0.0, "evaluation": None}
    if store.latest_step is not None:
        state, meta = store.restore(state)
        say(f"going on from step {int(state.step)} in {workdir}")
    check_start(config, state, workdir)
    return model, state, meta


def open_sources(config: ConfigDict) -> tuple[Any, Any]:
    """Training and validation sources. A `num_classes` of 0 becomes theirs.

    Raises:
        ConfigError: `num_classes` is another than theirs, or they differ.
    """
    data = config.data
    source = open_configured(config, part="train", masks=False)
    val_source = open_configured(config, part="val", masks=True)
    num_classes = len(source.class_names)
    if tuple(source.class_names) != tuple(val_source.class_names):
        raise ConfigError(
            f"data.train_split={data.train_split!r} and data.val_split={data.val_split!r} have "
            "other classes: list all classes in classes.txt"
        )
    config.num_classes = config.num_classes or num_classes
    if num_classes != config.num_classes:
        raise ConfigError(
            f"num_classes={config.num_classes}, but data source {data.source!r} has {num_classes} "
            f"classes: use num_classes={num_classes}"
        )
    say(
        f"{len(source)} training images of {data.train_split!r}, {len(val_source)} validation "
        f"images of {data.val_split!r}, {num_classes} classes"
    )
    for remark in remarks.of_splits(source, val_source):
        say(f"remark: {remark}")
    return source, val_source


def load_start(config: ConfigDict) -> dict[str, Any]:
    """The weights that `config.init` names, as `pretrained.load` gives them, and under
    `class_names` those of their classifiers, None where they are not known; prints what they are.

    Raises:
        ConfigError: there are none, or they do not fit.
    """
    if config.init == "random":
        grid = config.crop_size // backbone_from_name(config.backbone).patch
        origin = {"init": "random", "sha256": None}
        nothing = {"params": {}, "teacher_params": None, "class_names": None}
        return nothing | {"grid": grid, "origin": origin}
    try:
        theirs = class_rows.names_of(config.init)
        weights = load.load(
            config.init,
            backbone=config.backbone,
            num_classes=len(theirs or ()) or config.num_classes,
            decoder_width=config.decoder_width,
        )
    except UserError as error:
        raise ConfigError(str(error)) from error
    for note in weights["notes"]:
        say(note)
    return weights | {"class_names": theirs}


def start_state(
    config: ConfigDict,
    weights: dict[str, Any] | None = None,
    class_names: Sequence[str] = (),
) -> tuple[Any, TrainState]:
    """The network and its state before the first step, from `weights` as `load_start` gives them,
    those of `config.init` by default; of a network of other classes than `class_names` it takes
    the outputs of those that both have.
    """
    weights = load_start(config) if weights is None else weights
    loaded = weights["params"]
    model = make_model(config, grid=weights["grid"])
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(config.seed))
    if class_names and "classifier" in loaded:
        loaded, lines = class_rows.take(loaded, params, weights["class_names"], tuple(class_names))
        for line in lines:
            say(line)
    return model, init_state(config, params | loaded, weights["teacher_params"])


def check_start(config: ConfigDict, state: TrainState, workdir: pathlib.Path) -> None:
    """Raises `CheckpointError` or `ConfigError` for weights that no step could learn from."""
    if not (broken := broken_weights((state.params, state.teacher_params))):
        return
    what = f"NaN or infinity in {len(broken)} arrays, the first {broken[0]}"
    if step := int(state.step):
        raise checkpoints.CheckpointError(
            f"the checkpoint of step {step} in {workdir} has {what}: remove "
            f"{workdir / 'checkpoints' / str(step)} to go on from the one before, or use another "
            "--workdir"
        )
    raise ConfigError(f"init={config.init!r} has {what}: use other weights")


def check_update(state: TrainState) -> None:
    """Raises `TrainingError` for weights that the last update has spoilt, so that none is saved."""
    if broken := broken_weights((state.params, state.teacher_params)):
        raise TrainingError(
            f"step {int(state.step)}: all loss terms are finite, but its gradients are not: the "
            f"update left NaN or infinity in {len(broken)} arrays, the first {broken[0]}. It is "
            "not saved, and checkpoints saved before are whole. Lower learning_rate or set "
            "max_grad_norm, and start a new --workdir"
        )


class Evaluator:
    """Scores states on the validation split and draws what they predict.

    The processes share the split, each at its own pace on its own devices.
    """

    def __init__(self, config: ConfigDict, model, source):
        self.config, self.source = config, source
        size, batch_size = config.crop_size, config.batch_size // jax.process_count()
        self.run_pass = SquashedPass(config, model, source, size=size, batch_size=batch_size)

    def score(self, state: TrainState) -> scoring.Scores:
        """Scores a state and prints the table."""
        limit = self.config.eval_batches * self.config.batch_size
        protocol = str(self.config.crop_size)
        params = local_copy(state.params, local_mesh())
        counts = shares.count_split(
            [(protocol, functools.partial(self.run_pass, params))],
            count=min(limit, len(self.source)) if limit else len(self.source),
        )
        scores = scoring.summarize(
            counts, [protocol], config=self.config, step=int(state.step), source=self.source
        )
        scoring.print_tables(scores)
        return scores

    def __call__(self, state: TrainState, tracker: Tracker) -> scoring.Scores:
        """Scores a state, prints the table and logs the means."""
        scores = self.score(state)
        means = ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1")
        known = {f"val/{name}": scores[name] for name in means if scores[name] is not None}
        tracker.write(scores["step"], known)
        return scores

    def draw_samples(self, state: TrainState, path: pathlib.Path) -> None:
        """Writes a picture of a few validation images spread over the split."""
        params = local_copy(state.params, local_mesh())
        picture = samples.draw(
            list(self.run_pass.predictions(params, samples.spread(len(self.source)))),
            class_names=self.source.class_names,
            high_thre=self.config.high_thre,
            low_thre=self.config.low_thre,
            num_present=self.source.num_present,
        )
        picture.save(path)


def finish(
    config: ConfigDict, workdir: pathlib.Path, evaluator: Evaluator, state: TrainState, meta: dict
) -> dict[str, Any]:
    """Writes the picture and the results of a run that has reached its last step."""
    if processes.is_first():
        evaluator.draw_samples(state, workdir / SAMPLES_FILE)
    evaluation = meta["evaluation"]
    if "rows" not in evaluation:
        say("the last scores were saved by an earlier version in another form: scoring anew")
        evaluation = evaluator.score(state)
    results = evaluation | {"seconds": round(meta["seconds"], 1)}
    if config.data.source == "shapes":
        results["baselines"] = baselines(evaluator.source)
        for name, miou in results["baselines"].items():
            say(f"baseline, {name}: mIoU {miou:.1f} %")
    named = ("segmentation mIoU", "seg_miou"), ("CAM", "cam_miou"), ("aux CAM", "aux_cam_miou")
    named = (*named, ("F1", "cls_f1"))
    scores = [f"{name} {scoring.shown(results[key], ' %')}" for name, key in named]
    say(
        f"{', '.join(scores)} after {format_seconds(results['seconds'])}; "
        f"{workdir / RESULTS_FILE}, {workdir / SAMPLES_FILE}"
    )
    if processes.is_first():
        checkpoints.write_atomically(workdir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    processes.barrier("finished")
    return results
