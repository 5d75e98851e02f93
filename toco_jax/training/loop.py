"""The training loop: next batch, step, log, evaluate, save, until the last step."""

import contextlib
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from toco_jax.config import flat_values, validate
from toco_jax.data.fingerprint import listing
from toco_jax.data.pipeline import configured_batches
from toco_jax.demo.baselines import baselines
from toco_jax.evaluation import scoring
from toco_jax.method.phases import Phase, phase_at
from toco_jax.models.network import ToCo
from toco_jax.run import changes, checkpoints, records
from toco_jax.run import workdir as folder
from toco_jax.run.lock import locked, owner
from toco_jax.run.records import REPORT_FILE, RESULTS_FILE, SAMPLES_FILE
from toco_jax.run.state import TrainState
from toco_jax.runtime import agreement, processes
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import make_folder, write_atomically
from toco_jax.runtime.sharding import make_mesh, shard_batch
from toco_jax.runtime.stopwatch import format_seconds
from toco_jax.training import online_board, out_of_memory
from toco_jax.training.failures import Failures
from toco_jax.training.history import History
from toco_jax.training.start import begin, open_sources
from toco_jax.training.step import make_train_step
from toco_jax.training.tracking import StepLog, Tracker, check_update
from toco_jax.training.validation import Evaluator


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    override: bool = False,
    preemption: processes.Preemption | None = None,
) -> dict[str, Any]:
    """Trains a network, or goes on with a run that was stopped, and returns its results.

    The call leaves the process as it was: `config`, `sys.stdout`, `os.environ` and the signal
    handlers do not change, so that notebooks can call it, in any thread and several times. While it
    takes steps in the main thread, SIGTERM or Ctrl-C makes it save and raise `Preempted`.

    Several processes of one job call it alike, with one folder for all; the first one writes.

    A run goes on with other values of `run.records.FREE_KEYS`, of `machine`, and with more
    `total_steps`, also when it was finished. What changed is added to `config_changes.jsonl`.

    Args:
        config: the configuration, see `config.defaults`.
        workdir: the run's folder, made if it is missing. A finished run in it is not trained again.
        override: whether a run may go on with other values of any key that fits its network.
        preemption: notices the signals. A run that is told to stop at its last step finishes; a
            caller with more runs to come gives one, and asks it afterwards.

    Returns:
        The contents of `results.json`: the scores of the validation split after the last step, in
        percent, and `seconds`, the time that training took.

    Raises:
        ConfigError: a value cannot work, or the initial weights do not fit.
        DataError: the data set is broken.
        CheckpointError: the folder holds another run or a damaged file, or the last save failed.
        JobError: another process of the job failed, or they do not hold the same configuration,
            code, data and folder.
        DeviceMemoryError: a step does not fit in a device's memory.
        LockError: another process trains in the folder.
        TrainingError: a loss or a gradient is not finite, see `on_nan`.
        Preempted: SIGTERM or Ctrl-C came; the state is saved.
        KeyboardInterrupt: Ctrl-C came twice.
    """
    workdir = pathlib.Path(workdir)
    with agreement.together():
        validate(config, jax.device_count())
        online_board.check(config)
        results = finished(workdir, config, override=override)
    given: dict[str, Any] = flat_values(config.to_dict())
    given[f"{RESULTS_FILE} in --out"] = results and agreement.digest(json.dumps(results))
    agreement.check_same(agreement.code() | given)
    if results is not None:
        say(f"{workdir} is finished, see {RESULTS_FILE} in it; to train again use another --out")
        return results
    preemption = preemption or processes.Preemption()
    return train_until_stopped(config, workdir, preemption, override=override)


def finished(workdir: pathlib.Path, config: ConfigDict, *, override: bool) -> dict[str, Any] | None:
    """Returns the results of a run that has taken all steps of a configuration, otherwise None.

    Raises:
        CheckpointError: they are of other values, which `override` does not allow, or damaged.
    """
    results = records.results(workdir)
    if results is None or not (workdir / records.CONFIG_FILE).exists():
        return results
    begun = folder.load_config(workdir)
    if results.get("step", begun.total_steps) < config.total_steps:
        return None
    changes.check(workdir, changes.between(begun, config), override=override)
    return results


def train_until_stopped(
    config: ConfigDict,
    workdir: pathlib.Path,
    preemption: processes.Preemption,
    *,
    override: bool = False,
) -> dict[str, Any]:
    """Does what `train` does, for a valid configuration of a run that is not finished."""
    began = time.perf_counter()
    with agreement.together():
        config = folder.resolve(workdir, config)
        source, val_source = open_sources(config)
    check_same_run(config, source, val_source)
    with contextlib.ExitStack() as stack:
        changed: changes.Changes = {}
        with agreement.together():
            if processes.is_first():
                make_folder(workdir, "--out")
                stack.enter_context(locked(workdir))
                changed = folder.claim(workdir, config, source.class_names, override=override)
        agreement.check_same({"the lock in the folder --out": owner(workdir)})
        going_on = functools.partial(folder.record, workdir, config, changed, override=override)
        return take_steps(
            config,
            workdir,
            source,
            val_source,
            preemption,
            began=began,
            going_on=going_on if changed else None,
        )


def check_same_run(config: ConfigDict, source: Any, val_source: Any) -> None:
    """Checks that all processes would train the same network on the same data.

    Raises:
        JobError: they would not.
    """
    agreement.check_same(
        flat_values(config.to_dict())
        | {
            "the class names": source.class_names,
            "the listing of the training data": listing(source),
            "the listing of the validation data": listing(val_source),
        }
    )


def take_steps(
    config: ConfigDict,
    workdir: pathlib.Path,
    source: Any,
    val_source: Any,
    preemption: processes.Preemption,
    *,
    began: float,
    going_on: Callable | None = None,
) -> dict[str, Any]:
    """Trains in a claimed and locked folder; `began` is the time on `time.perf_counter`.

    `going_on(step=step)` is called once the state is restored.
    """
    mesh, store = make_mesh(), checkpoints.Checkpoints(workdir)
    model, state, meta = begin(config, workdir, store, mesh, source.class_names)
    began -= meta["seconds"]

    step = int(state.step)
    if step > config.total_steps:
        raise checkpoints.CheckpointError(
            f"{workdir} has a checkpoint of step {step}, beyond total_steps={config.total_steps}: "
            f"use total_steps={step} or more"
        )
    if going_on is not None:
        going_on(step=step)
    take_step = make_stepper(config, model, mesh, num_present=source.num_present)
    evaluator = Evaluator(config, model, val_source)
    share = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    batches = configured_batches(source, config, start_step=step, **share)
    online = online_board.open_board(config, workdir)
    tracker = Tracker(workdir, start_step=step, total_steps=config.total_steps, online=online)
    history = History(config, workdir, evaluator, start_step=step)
    explained = out_of_memory.explained(config, mesh.size)
    with preemption, closing(batches), closing(tracker), closing(store), explained:
        log = StepLog(tracker, Failures(workdir, config.on_nan), config.batch_size)
        if preemption.stops(step):
            raise processes.Preempted(f"stopped before step {step + 1} of {workdir}")
        while step < config.total_steps:
            batch = next(batches)
            names, skipped = batch.pop("name"), batch.pop("skipped", None)
            state, terms = take_step(state, batch, step)
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
                seconds = time.perf_counter() - began
                history.add(state, meta["evaluation"], seconds=seconds, speeds=tracker.speeds)
                tracker.restart_clock(step)
            if saving:
                check_update(state)
                meta["seconds"] = time.perf_counter() - began
                miou = scoring.main_miou(meta["evaluation"]) if evaluating else None
                store.save(state, meta=meta, miou=miou)
            if stopping and not last:
                raise processes.Preempted(f"stopped and saved at step {step} of {workdir}")
    return finish(config, workdir, evaluator, history, state, meta)


def make_stepper(config: ConfigDict, model: ToCo, mesh: Mesh, *, num_present: int) -> Callable:
    """Returns `take_step(state, batch, step) -> (state, terms)` for all phases of a run.

    A phase is compiled at its first step, where several processes wait for each other. `batch` is
    this process's share of the global batch, as numpy arrays. See `make_train_step` for the
    arguments and for what is returned.
    """
    compiled: set[Phase] = set()

    @functools.lru_cache
    def step_of(phase: Phase) -> jax.stages.Wrapped:
        return make_train_step(config, model, mesh, phase, num_present=num_present)

    def take_step(state: TrainState, batch: dict, step: int) -> tuple[TrainState, dict]:
        batch = shard_batch(batch, mesh)
        phase = phase_at(config, step)
        train_step = step_of(phase)
        plan = functools.partial(out_of_memory.plan_of, config, mesh.size, train_step, state, batch)
        with out_of_memory.explained(config, mesh.size, plan):
            if phase not in compiled and jax.process_count() > 1:
                train_step.lower(state, batch).compile()
                processes.barrier()
            compiled.add(phase)
            # The batch is all that goes to the devices, and logged numbers all that comes back.
            with jax.transfer_guard("disallow"):
                return train_step(state, batch)

    return take_step


def finish(
    config: ConfigDict,
    workdir: pathlib.Path,
    evaluator: Evaluator,
    history: History,
    state: TrainState,
    meta: dict,
) -> dict[str, Any]:
    """Writes the picture and the results of a run that has reached its last step.

    Returns the results.
    """
    if processes.is_first():
        evaluator.draw_samples(state, workdir / SAMPLES_FILE)
    evaluation = meta["evaluation"]
    is_current = evaluation is not None and evaluation.get("step") == int(state.step)
    if not is_current or "rows" not in evaluation:
        say("the last checkpoint holds no scores of its step in the present form: scoring anew")
        evaluation = evaluator.score(state)
    results = evaluation | {"seconds": round(meta["seconds"], 1)}
    if config.data.source == "shapes":
        results["baselines"] = baselines(evaluator.source)
        for name, miou in results["baselines"].items():
            say(f"baseline, {name}: mIoU {miou:.1f} %")
    named = ("segmentation mIoU", "seg_miou"), ("CAM", "cam_miou"), ("aux CAM", "aux_cam_miou")
    named = (*named, ("F1", "cls_f1"))
    scores = [f"{name} {results[key]:.1f} %" for name, key in named if results[key] is not None]
    say(
        f"{', '.join(scores)} after {format_seconds(results['seconds'])}; "
        f"{workdir / RESULTS_FILE}, {workdir / REPORT_FILE}"
    )
    # The results come last: a run that has them is finished.
    history.write_report(results)
    if processes.is_first():
        write_atomically(workdir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    processes.barrier()
    return results
