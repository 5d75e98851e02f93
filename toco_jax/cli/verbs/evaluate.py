"""Scores a run on a split, by every protocol asked for.

    toco evaluate runs/x
    toco evaluate runs/x --split train --protocol native --pseudo_labels labels
    toco evaluate runs/x --split test --submission

A number squashes every image to that many pixels and looks once, which is what training logs.
`native` keeps the image's own size, at scales 1, 1.25 and 1.5 with mirror images; `crf` refines
that with a dense CRF, which is what papers report. The results go to `evaluation.json` and, to look
at, `evaluation.html` in the run's folder, or in a folder of the split's name there unless the split
is the one the run validates on. Started again after an interruption, the command goes on where it
was.
"""

import argparse
import pathlib
import sys

from toco_jax.cli import commands, process
from toco_jax.cli.parser import Parser, whole_number

SET_UP = (process.log_errors_only, process.keep_programs)


def add_arguments(parser: Parser) -> None:
    """Adds the words and options of `toco evaluate`."""
    parser.add_run()
    add = parser.add_argument
    path, count = pathlib.Path, whole_number(0)
    add("--out", metavar="DIR", type=path, help="folder of the results (default: the run's)")
    add("--root", metavar="DIR", help="folder of the data set (default: the run's)")
    add("--split", metavar="NAME", help="split (default: the one that the run validates on)")
    protocols = "protocols, with commas (default: the training's size,native,crf)"
    add("--protocol", metavar="NAMES", help=protocols)
    add("--limit", type=count, default=0, help="first images of the split; 0 for all")
    some = "also the mean IoU of these labels, such as: background cat dog"
    add("--labels", metavar="NAME", nargs="+", default=(), help=some)
    compared = "also what bounds the scores: background alone, the truth in patches, classes given"
    add("--baselines", action="store_true", help=compared)
    add("--batch_size", type=count, default=0, help="images per batch; 0 for a guess")
    threads = "threads, and CRF processes; 0 for one per core"
    add("--threads", type=count, default=0, dest="num_threads", help=threads)
    add("--mask_foreground", type=int, help="value of the only class in masks (default: the run's)")
    few = "approximate CRF on the K likeliest classes; 0 for all"
    add("--crf_classes", metavar="K", type=count, default=0, help=few)
    spread = "spread CAMs by the encoder's attention also if the run was trained without"
    add("--propagate_cams", action="store_true", help=spread)
    add("--crf_exact_gaussian", action="store_true", help="approximate CRF for GPUs: true Gaussian")
    add("--save_probs", action="store_true", help="write probabilities (float16, compressed)")
    labels = "write CAM labels of the split to this folder (default: none)"
    add("--pseudo_labels", metavar="DIR", type=path, help=labels)
    tools = "formats of pseudo labels, with commas, as of predict"
    add("--format", metavar="NAMES", default="png", help=tools)
    add("--polygons", action="store_true", help="polygons, not pixels, where the format knows both")
    add("--refine", choices=("par", "crf"), default="par", help="what refines pseudo labels")
    add("--submission", action="store_true", help="no scores: masks and tar for VOC's test server")
    add("--distributed", action="store_true", help="share the split with the job's other processes")


def run(options: argparse.Namespace) -> None:
    """Scores the run or writes its submission; exits with 130 where Ctrl-C ended it."""
    from toco_jax import evaluate
    from toco_jax.runtime import processes
    from toco_jax.runtime.console import say
    from toco_jax.runtime.exit_codes import INTERRUPTED

    with processes.ends_all(), commands.reported(debug=options.debug):
        try:
            if not processes.join(distributed=options.distributed):
                process.print_nothing()
            if options.submission:
                evaluate.submit(options)
            else:
                evaluate.score(options)
        except KeyboardInterrupt:
            say("stopped; the same command goes on where it was", error=True)
            sys.exit(INTERRUPTED)
