"""Scores a trained network on a split, by every protocol asked for.

    python -m toco_jax.evaluate --checkpoint=runs/x [--split=val] [--protocol=448,native,crf]

A number squashes every image to so many pixels and looks once, which is what training logs.
`native` keeps the image's own size, at scales 1, 1.25 and 1.5 with mirror images; `crf` refines
that with a dense CRF, which is what papers report. The results go to `evaluation.json` in the run's
folder, or in a folder of the split's name there unless the split is the one the run validates on.
Started again after an interruption, it goes on where it was.

    --submission          no scores: the test server's folder of masks and its tar
    --pseudo_labels=DIR   CAM labels of a training split, for a second network
"""

import argparse
import os
import pathlib
import sys
from typing import Any

from toco_jax.cli import commands
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.evaluation import EvaluationError, Extras, evaluate, scoring, submission
from toco_jax.evaluation.evaluator import RESULTS_FILE
from toco_jax.evaluation.protocols import CRF, parse
from toco_jax.inference.native import default_batch_size
from toco_jax.run import runs
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.outputs import make_folder

# The exit code of a command that SIGINT has ended.
_INTERRUPTED = 130


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line's options."""
    parser = commands.make_parser("python -m toco_jax.evaluate", __doc__)
    add = parser.add_argument
    path = pathlib.Path
    add("--checkpoint", type=path, required=True, help="a run's folder or one checkpoint in it")
    add("--root", help="the data set's folder, if not the run's")
    add("--split", help="the split, if not the one the run validates on")
    add("--mask_foreground", type=int, help="value of the only class in masks, if not the run's")
    add("--protocol", help="protocols, with commas; the training's size, native and crf if unset")
    add("--out", type=path, help="folder of the results")
    add("--limit", type=int, default=0, help="only the first images of the split")
    add("--batch_size", type=int, default=0, help="images a batch; a guess if unset")
    add("--num_threads", type=int, default=0, help="threads, and CRF processes; one a core if 0")
    add("--crf_classes", type=int, default=0, help="approximate: CRF on so many likeliest classes")
    add("--crf_exact_gaussian", action="store_true", help="approximate: true Gaussian, for GPUs")
    add("--save_probs", action="store_true", help="write probabilities, float16, compressed")
    add("--pseudo_labels", type=path, help="write CAM labels of the split to this folder")
    add("--refine", choices=("par", "crf"), default="par", help="what refines pseudo labels")
    add("--submission", action="store_true", help="write masks for the test server, no scores")
    add("--distributed", action="store_true", help="share the split with the other processes")
    return commands.parse(parser, arguments)


def main(arguments: list[str] | None = None) -> None:
    """The command line; a user's mistake is one sentence and exit code 1."""
    options = parse_arguments(arguments)
    with processes.ends_all(), commands.reported(debug=options.debug):
        try:
            processes.join(distributed=options.distributed)
            if options.submission:
                submit(options)
            else:
                score(options)
        except KeyboardInterrupt:
            say("stopped; the same command goes on where it was", error=True)
            sys.exit(_INTERRUPTED)


def score(options: argparse.Namespace) -> scoring.Scores:
    """Scores a run as `parse_arguments` says, prints the tables and returns the scores.

    Raises:
        EvaluationError: an option that cannot work.
        CheckpointError: there is no run.
        DataError: a broken data set, or classes that the run does not know.
        OutputError: results cannot be written where they should go.
    """
    run = runs.load(options.checkpoint)
    split = options.split or run.config.data.val_split
    out = output_folder(options, run, split)
    scores = evaluate(
        run,
        protocols=options.protocol,
        root=options.root or None,
        split=split,
        mask_foreground=options.mask_foreground,
        limit=options.limit,
        out=out,
        extras=Extras(
            crf_settings=crf_settings(options),
            pseudo_labels=options.pseudo_labels,
            refine=options.refine,
            probs=out / "probs" if options.save_probs else None,
        ),
        batch_size=options.batch_size,
        num_threads=options.num_threads,
        report=say,
    )
    scoring.print_tables(scores)
    say(out / RESULTS_FILE)
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
    commands.set_up()
    main()
