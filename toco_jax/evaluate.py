"""Scores a trained network on a split, by every protocol asked for; see `toco evaluate --help`."""

import argparse
import os
import pathlib
from typing import Any

from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.evaluation import EvaluationError, Extras, evaluate, scoring, submission
from toco_jax.evaluation.evaluator import RESULTS_FILE
from toco_jax.evaluation.protocols import CRF, parse
from toco_jax.inference.formats.writer import parse as parse_formats
from toco_jax.inference.native import default_batch_size
from toco_jax.report import evaluation_page
from toco_jax.run import runs
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import make_folder


def score(options: argparse.Namespace) -> scoring.Scores:
    """Scores a run as the options of `toco evaluate` say, prints the tables and returns the scores.

    Raises:
        EvaluationError: an option that cannot work.
        CheckpointError: there is no run.
        DataError: a broken data set, or classes that the run does not know.
        OutputError: results cannot be written where they should go.
    """
    run = runs.load(options.checkpoint, propagate_cams=options.propagate_cams)
    split = options.split or run.config.data.val_split
    out = output_folder(options, run, split)
    scores = evaluate(
        run,
        protocols=options.protocol,
        root=options.root or None,
        split=split,
        mask_foreground=options.mask_foreground,
        limit=options.limit,
        labels=options.labels,
        out=out,
        extras=Extras(
            crf_settings=crf_settings(options),
            pseudo_labels=options.pseudo_labels,
            refine=options.refine,
            formats=parse_formats(options.format, polygons=options.polygons),
            polygons=options.polygons,
            probs=out / "probs" if options.save_probs else None,
            baselines=options.baselines,
        ),
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        report=say,
    )
    scoring.print_tables(scores)
    say(f"{out / RESULTS_FILE}, {out / evaluation_page.FILE}")
    return scores


def output_folder(options: argparse.Namespace, run: runs.Run, split: str) -> pathlib.Path:
    """Returns the folder of the results: `--out`, or the run's, or the split's in that."""
    return options.out or run.folder / ("" if split == run.config.data.val_split else split)


def crf_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the CRF's approximations that were asked for, as `ops.crf.dense_crf` takes them."""
    settings: dict[str, Any] = {"top_k": options.crf_classes} if options.crf_classes else {}
    return settings | ({"exact_gaussian": True} if options.crf_exact_gaussian else {})


def submit(options: argparse.Namespace) -> None:
    """Writes, checks and packs the masks of a split for the test server.

    Raises:
        SubmissionError: no such split, or masks that the server would refuse.
    """
    run = runs.load(options.checkpoint)
    names = parse(options.protocol or "crf", run.config.crop_size)
    if run.class_names != VOC_CLASSES and (run.names_known or len(run.class_names) != 20):
        raise EvaluationError(
            f"--submission is for VOC's classes, and {run.folder} has others "
            f"({', '.join(run.class_names)}): give a run on VOC"
        )
    root = pathlib.Path(options.root or run.config.data.root)
    split = options.split or "test"
    out = make_folder(output_folder(options, run, split), "--out")
    submission.submit(
        run,
        submission.ListedImages(root, split, options.limit),
        out,
        crf_settings=crf_settings(options) if CRF in names else None,
        batch_size=options.batch_size or default_batch_size(),
        num_threads=options.num_threads or os.cpu_count() or 1,
    )


if __name__ == "__main__":
    commands.start("evaluate")
