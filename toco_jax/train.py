"""The training loop: restore, then next batch, step, log, evaluate, save, until the last step."""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
from ml_collections import ConfigDict

from toco_jax import checkpoints, pretrained, samples, validation
from toco_jax.config import ConfigError, phase_at, validate
from toco_jax.data import open_configured, shapes
from toco_jax.data.pipeline import eval_batches, train_batches
from toco_jax.models.vit import backbone_from_name
from toco_jax.sharding import make_mesh, replicated, shard_batch
from toco_jax.step import TrainState, init_params, init_state, make_model, make_train_step
from toco_jax.tracking import StepLog, Tracker, format_seconds

RESULTS_FILE = "results.json"
SAMPLES_FILE = "samples.png"
CLASSES_FILE = "classes.json"
# Keys that may differ when a run goes on: they do not change what it computes.
FREE_KEYS = ("log_every", "eval_every", "eval_batches", "save_every", "data.root")
FREE_KEYS += ("data.num_threads", "data.on_error")


def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Trains a network, or goes on where a killed run stopped; returns its results.

    Args:
        config: the configuration, see `configs/voc.py`.
        workdir: the run's folder, made if missing; a finished run is left alone.

    Raises:
        ConfigError: a value that cannot work, initial weights included.
        DataError: a broken data set.
        CheckpointError: the folder holds another run.
        TrainingError: a loss is not finite.
    """
    validate(config, jax.device_count())
    if (workdir / RESULTS_FILE).exists():
        print(
            f"{workdir} is finished, see {RESULTS_FILE} in it; to train again use another --workdir"
        )
        return json.loads((workdir / RESULTS_FILE).read_text())
    began = time.perf_counter()
    source, val_source = open_sources(config)
    claim_workdir(workdir, config)
    claim_classes(workdir, source.class_names)

    mesh = make_mesh()
    model, state = start_state(config)
    state = jax.device_put(state, replicated(mesh))
    store = checkpoints.Checkpoints(workdir)
    meta = {"seconds": 0.0, "evaluation": None}
    if store.latest_step is not None:
        state, meta = store.restore(state)
        print(f"going on from step {int(state.step)} in {workdir}")
    began -= meta["seconds"]

    @functools.lru_cache
    def step_of(phase) -> Callable:
        return make_train_step(config, model, mesh, phase, max_classes=source.max_classes + 1)

    step = int(state.step)
    evaluator = Evaluator(config, model, mesh, val_source)
    batches = train_batches(
        source,
        seed=config.seed,
        start_step=step,
        batch_size=config.batch_size,
        crop_size=config.crop_size,
        as_published=config.as_published,
        num_threads=config.data.num_threads,
        scale_range=tuple(config.data.scale_range),
        blur_sigma=tuple(config.data.blur_sigma),
        on_error=config.data.get("on_error", "raise"),
    )
    tracker = Tracker(workdir, start_step=step, total_steps=config.total_steps)
    with closing(batches), closing(tracker), closing(store):
        log = StepLog(tracker, config.batch_size)
        while step < config.total_steps:
            batch = next(batches)
            names, skipped = batch.pop("name"), batch.pop("skipped", None)
            state, terms = step_of(phase_at(config, step))(state, shard_batch(batch, mesh))
            step += 1
            if skipped is not None:
                terms = terms | {"skipped": skipped.sum()}
            log.add(step, names, terms)

            last = step == config.total_steps
            showing = last or step % config.log_every == 0
            evaluating = last or step % config.eval_every == 0
            saving = evaluating or step % config.save_every == 0
            if showing or saving:
                log.flush(show=showing)
            if evaluating:
                meta["evaluation"] = evaluator(state, tracker)
                tracker.restart_clock(step)
            if saving:
                meta["seconds"] = time.perf_counter() - began
                seg_miou = meta["evaluation"]["seg_miou"] if evaluating else None
                store.save(state, meta=meta, seg_miou=seg_miou)
    return finish(config, workdir, evaluator, state, meta)


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
    print(
        f"{len(source)} training images of {data.train_split!r}, {len(val_source)} validation "
        f"images of {data.val_split!r}, {num_classes} classes"
    )
    return source, val_source


def claim_workdir(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Makes the run's folder, or checks that it holds a run of the same configuration."""
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / checkpoints.CONFIG_FILE).exists():
        checkpoints.save_config(workdir, config)
        return
    old, new = (_flat(c.to_dict()) for c in (checkpoints.load_config(workdir), config))
    changed = [
        f"{key} ({old.get(key)} there, {new.get(key)} now)"
        for key in sorted(old.keys() | new.keys())
        if key not in FREE_KEYS and old.get(key) != new.get(key)
    ]
    if changed:
        raise checkpoints.CheckpointError(
            f"{workdir} holds a run with other values: {', '.join(changed)}; use another --workdir "
            "or the same values"
        )


def claim_classes(workdir: pathlib.Path, class_names: tuple[str, ...]) -> None:
    """Writes the classes in label order, or checks that the run has the same ones."""
    path = workdir / CLASSES_FILE
    if not path.exists():
        checkpoints.write_atomically(path, json.dumps(list(class_names), indent=1) + "\n")
    elif json.loads(path.read_text()) != list(class_names):
        raise checkpoints.CheckpointError(
            f"{path} lists other classes than the data has now; use another --workdir or the same "
            "data"
        )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {prefix + key: value} if nested is None else nested
    return flat


def start_state(config: ConfigDict) -> tuple[Any, TrainState]:
    """The network and its state before the first step, from `config.init`."""
    spec = backbone_from_name(config.backbone)
    teacher_params, loaded, grid = None, {}, config.crop_size // spec.patch
    if config.init != "random":
        try:
            weights = pretrained.load(
                config.init,
                backbone=config.backbone,
                num_classes=config.num_classes,
                decoder_width=config.decoder_width,
            )
        except (ValueError, FileNotFoundError) as error:
            raise ConfigError(str(error)) from error
        loaded, teacher_params, grid = (weights[k] for k in ("params", "teacher_params", "grid"))
        for note in weights["notes"]:
            print(note)
    model = make_model(config, grid=grid)
    params = jax.jit(functools.partial(init_params, model))(jax.random.key(config.seed))
    return model, init_state(config, params | loaded, teacher_params)


class Evaluator:
    """Scores states on the validation split and draws what they predict."""

    def __init__(self, config: ConfigDict, model, mesh, source):
        self.config, self.mesh, self.source = config, mesh, source
        self.eval_step = validation.make_eval_step(config, model, mesh)

    def predictions(self, params: dict, source, limit: int = 0):
        """Predictions of a validation source's images, in order."""
        batches = eval_batches(
            source,
            batch_size=self.config.batch_size,
            size=self.config.crop_size,
            num_threads=self.config.data.num_threads,
            limit=limit,
        )
        return validation.predictions(
            self.eval_step, params, batches, self.mesh, bkg_thre=self.config.bkg_thre
        )

    def __call__(self, state: TrainState, tracker: Tracker) -> dict[str, Any]:
        """Scores a state, prints the table, notes the means."""
        limit = self.config.eval_batches * self.config.batch_size
        results, _ = validation.score(
            self.predictions(state.params, self.source, limit), class_names=self.source.class_names
        )
        step = int(state.step)
        protocol = validation.protocol_name(self.config)
        title = f"step {step}, {self.config.data.val_split}: {protocol}"
        validation.print_table(results, title=title)
        means = ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1")
        known = {f"val/{name}": results[name] for name in means if results[name] is not None}
        tracker.write(step, known)
        return results

    def draw_samples(self, state: TrainState, path: pathlib.Path) -> None:
        """Writes a picture of a few validation images spread over the split."""
        chosen = samples.Spread(self.source, samples.NUM_SAMPLES)
        picture = samples.draw(
            list(self.predictions(state.params, chosen)),
            class_names=self.source.class_names,
            high_thre=self.config.high_thre,
            low_thre=self.config.low_thre,
            max_classes=self.source.max_classes + 1,
        )
        picture.save(path)


def finish(
    config: ConfigDict, workdir: pathlib.Path, evaluator: Evaluator, state: TrainState, meta: dict
) -> dict[str, Any]:
    """Writes the picture and the results of a run that has reached its last step."""
    evaluator.draw_samples(state, workdir / SAMPLES_FILE)
    results = meta["evaluation"] | {
        "protocol": validation.protocol_name(config),
        "step": int(state.step),
        "seconds": round(meta["seconds"], 1),
    }
    if config.data.source == "shapes":
        results["baselines"] = shapes.baselines(evaluator.source)
        for name, miou in results["baselines"].items():
            print(f"baseline, {name}: mIoU {miou:.1f} %")
    named = ("segmentation mIoU", "seg_miou"), ("CAM", "cam_miou"), ("aux CAM", "aux_cam_miou")
    named = (*named, ("F1", "cls_f1"))
    scores = [f"{name} {validation.shown(results[key], ' %')}" for name, key in named]
    print(
        f"{', '.join(scores)} after {format_seconds(results['seconds'])}; "
        f"{workdir / RESULTS_FILE}, {workdir / SAMPLES_FILE}"
    )
    checkpoints.write_atomically(workdir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    return results
