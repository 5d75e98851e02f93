"""Trains the variants of a configuration with several seeds, and puts their scores in a table."""

import json
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from toco_jax.config import LOSS_TERMS, ConfigError, flat_values, validate, with_values
from toco_jax.data import open_configured
from toco_jax.evaluation.scoring import check_labels
from toco_jax.run import changes, records
from toco_jax.run import workdir as run_folder
from toco_jax.run.config_files import load_config
from toco_jax.run.records import CheckpointError
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import make_folder, write_atomically
from toco_jax.training import ablation_table, beginnings, grids, loop
from toco_jax.training.ablation_table import Row
from toco_jax.training.failures import TrainingError
from toco_jax.training.grids import Variant

JSON_FILE = "ablation.json"
MARKDOWN_FILE = "ablation.md"

# The configuration of each run by its folder, for each variant.
Runs = dict[Variant, dict[pathlib.Path, ConfigDict]]


def ablate(
    config: str,
    words: Sequence[str],
    out: str | os.PathLike,
    *,
    grid: str = "poster",
    seeds: Sequence[int] = (0, 1, 2),
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains all variants with all seeds, one run after the other, and returns their scores.

    All variants are trained with one seed before any is with the next. Each run is one of
    `loop.train` in `out/<variant>/seed_<k>`: one that is finished is kept, and one that was stopped
    goes on. What several runs have in common at first is trained once, see `beginnings`. Before and
    after each run, the scores of all finished runs are written to `out/ablation.json` and
    `out/ablation.md`. A run that fails in training is named, and the others are trained.

    Args:
        config: the name of a configuration, see `load_config`.
        words: `key=value` words for all variants.
        out: the folder, made if it is missing.
        grid: the variants, see `grids.read`.
        seeds: a run of each variant for each of them.
        labels: names of labels, such as those of many images, over which the mIoU is given, too.

    Returns:
        The contents of `ablation.json`.

    Raises:
        GridError: there is no such grid, or it is damaged.
        ConfigError: a variant's values cannot work, or two variants compute the same; nothing has
            been trained.
        EvaluationError: a name in `labels` is no label of the data.
        CheckpointError: a run's folder holds another run, or is damaged.
        TrainingError: some runs failed, after all others are finished.
        Preempted: SIGTERM or Ctrl-C came; the state is saved.
    """
    out = pathlib.Path(out)
    variants = grids.read(grid, load_config(config, words))
    configs = configured(config, words, variants, grid=grid, seeds=seeds)
    table: Runs = {
        variant: {
            out / variant.name / f"seed_{seed}": with_values(values, seed=seed) for seed in seeds
        }
        for variant, values in zip(variants, configs, strict=True)
    }
    by_seed = zip(*(row.items() for row in table.values()), strict=True)
    runs = {folder: values for column in by_seed for folder, values in column}
    for folder, values in runs.items():
        _check_folder(folder, values)
    make_folder(out, "--out")

    if labels:
        first = open_configured(next(iter(runs.values())), part="val", masks=True)
        check_labels(labels, first.class_names)
    about = {"config": config, "keys": list(words), "grid": grid, "seeds": list(seeds)}
    about |= {"labels": list(labels)}
    report = _write(out, about, table)
    failed: list[pathlib.Path] = []
    preemption = processes.Preemption()
    for number, (folder, values) in enumerate(runs.items(), 1):
        # A run that was told to stop at its last step has finished.
        if preemption.stops(0):
            raise processes.Preempted(f"stopped before the run {folder}")
        say(f"run {number} of {len(runs)}: {folder}")
        try:
            beginnings.train_shared(folder, runs, preemption)
            if not preemption.stops(0):
                loop.train(values, folder, preemption=preemption)
        except TrainingError as error:
            say(f"{folder} failed: {error}", error=True)
            failed.append(folder)
        report = _write(out, about, table)
    ablation_table.say_rows(_title(about), report["variants"], labels)
    say(f"{out / JSON_FILE}, {out / MARKDOWN_FILE}")
    if failed:
        raise TrainingError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(map(str, failed))}; see above "
            "what each one said, and give the same command to try them again"
        )
    return report


def configured(
    config: str,
    words: Sequence[str],
    variants: Sequence[Variant],
    *,
    grid: str,
    seeds: Sequence[int],
) -> list[ConfigDict]:
    """Returns the configuration of each variant, with one of the seeds.

    Raises:
        ConfigError: the values of a variant cannot work, two variants compute the same, or a seed
            is given twice.
    """
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        raise ConfigError(f"--seeds names {twice[0]} twice: give each seed once")
    _check_words(words)
    load_config(config, words)  # so that a mistake in them is not blamed on a variant
    configs: dict[str, ConfigDict] = {}
    names: dict[str, str] = {}
    for variant in variants:
        where = f"variant {variant.name!r} of {grid}"
        try:
            _check_words(variant.words)
            values = load_config(config, (*words, *variant.words))
            for seed in seeds:
                values.seed = seed
                validate(values, jax.device_count())
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        text = _in_force(values)
        if text in configs:
            raise ConfigError(
                f"{where} computes the same as {names[text]!r}: remove one of them, or use a "
                "CONFIG in which what they differ in begins before total_steps="
                f"{values.total_steps}"
            )
        configs[text], names[text] = values, variant.name
    return list(configs.values())


def _in_force(config: ConfigDict) -> str:
    """Returns a text of all values, without changes of loss weights that no step comes to."""
    values = flat_values(config.to_dict())
    for key in (f"loss_weights.{term}" for term in LOSS_TERMS):
        values[key] = [change for change in values[key] if change[0] < config.total_steps]
    return json.dumps(values)


def _check_words(words: Sequence[str]) -> None:
    for word in words:
        if word.partition("=")[0] == "seed":
            raise ConfigError(f"{word} in an ablation: give the seeds as in --seeds 0 1 2")


def _check_folder(folder: pathlib.Path, config: ConfigDict) -> None:
    """Checks that a run's folder is free, or holds a run that this configuration goes on with.

    Raises:
        CheckpointError: it holds another run, or is damaged.
    """
    records.results(folder)
    if (folder / records.CONFIG_FILE).exists():
        changed = changes.between(run_folder.load_config(folder), config)
        if other := changes.harmful(changed):
            raise CheckpointError(
                f"{folder} holds a run with other values: {changes.shown(other)}; use another "
                "--out, another name of the variant, or the same values"
            )


def _write(out: pathlib.Path, about: dict[str, Any], table: Runs) -> dict[str, Any]:
    """Writes the scores of the runs that are finished; returns the contents of `ablation.json`."""
    summaries = []
    for variant, runs in table.items():
        results = {
            folder: loop.finished(folder, config, override=False) for folder, config in runs.items()
        }
        one = next(iter(runs.values()))
        summaries.append(Row(variant, one, results, about["labels"]).summary())
    complete = all(summary["seeds_finished"] == summary["seeds"] for summary in summaries)
    report = about | {"complete": complete, "variants": summaries}
    write_atomically(out / JSON_FILE, json.dumps(report, indent=2) + "\n")
    table_text = ablation_table.markdown(_title(about), summaries, about["labels"])
    write_atomically(out / MARKDOWN_FILE, table_text)
    return report


def _title(about: dict[str, Any]) -> str:
    command = " ".join([about["config"], *about["keys"]])
    title = f"{command}: mIoU and F1 in %, mean (lowest to highest) of the seeds"
    return title + (f"; labels: {', '.join(about['labels'])}" if about["labels"] else "")
