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
import functools
import json
import os
import pathlib
import sys
from typing import Any

from toco_jax.cli import commands
from toco_jax.data import open_configured
from toco_jax.data.classes import VOC_CLASSES
from toco_jax.data.fingerprint import fingerprint
from toco_jax.data.renumbered import Renumbered
from toco_jax.evaluation import native, scoring, shares, submission
from toco_jax.evaluation.native import CRF, NATIVE
from toco_jax.inference import refinement
from toco_jax.inference.native import default_batch_size, network_of
from toco_jax.run import runs
from toco_jax.runtime import processes
from toco_jax.runtime.console import say
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.outputs import make_folder, write_atomically
from toco_jax.runtime.stopwatch import Stopwatch

RESULTS_FILE = "evaluation.json"
# The exit code of a command that SIGINT has ended.
_INTERRUPTED = 130


class EvaluationError(UserError):
    """An option that cannot work; the message names it and the remedy."""


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
                evaluate(options)
        except KeyboardInterrupt:
            say("stopped; the same command goes on where it was", error=True)
            sys.exit(_INTERRUPTED)


def parse_protocols(text: str | None, crop_size: int) -> tuple[str, ...]:
    """Short names of the protocols: a number of pixels, `native`, `native+crf`.

    Raises:
        EvaluationError: a name that is none of them.
    """
    names = (text or f"{crop_size},native,crf").split(",")
    names = [CRF if name.strip() == "crf" else name.strip() for name in names]
    for name in names:
        if name not in (NATIVE, CRF) and not (name.isdecimal() and int(name) > 0):
            raise EvaluationError(
                f"--protocol={text} has {name!r}: use a number of pixels such as {crop_size}, "
                "native, or crf"
            )
    return tuple(dict.fromkeys(names))


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Scores a run as `parse_arguments` says; returns what `evaluation.json` holds.

    Raises:
        EvaluationError: an option that cannot work.
        CheckpointError: there is no run.
        DataError: a broken data set, or classes that the run does not know.
        OutputError: results cannot be written where they should go.
    """
    run = runs.load(options.checkpoint)
    names = parse_protocols(options.protocol, run.config.crop_size)
    if options.pseudo_labels and NATIVE not in names:
        raise EvaluationError("--pseudo_labels needs native among the --protocol names")
    split = options.split or run.config.data.val_split
    changed = {"split": split} | ({"root": options.root} if options.root else {})
    if options.mask_foreground is not None:
        changed["mask_foreground"] = options.mask_foreground
    source = run.numbered(open_configured(run.config, part="val", masks=True, **changed))
    out = output_folder(options, run, split)
    if options.pseudo_labels:
        make_folder(options.pseudo_labels, "--pseudo_labels")
    count = min(options.limit, len(source)) if options.limit else len(source)
    about = [run.fingerprint, run.step, fingerprint(source, count), str(options.root), *names]
    about += [str(options.pseudo_labels), options.refine, options.save_probs, crf_settings(options)]
    watch = Stopwatch()
    counts = shares.count_split(
        out,
        passes(run, source, names, out, options, watch),
        count=count,
        about=json.dumps(about),
    )
    results = summarize(counts, names, run, source, crf_settings(options))
    path = out / RESULTS_FILE
    # Written before anything else can go wrong, and the counts are kept until it is.
    if processes.is_first():
        write_atomically(path, json.dumps(results, indent=1) + "\n")
    processes.barrier("evaluation")
    shares.forget(out)
    say(watch.report(len(shares.places_of_process(count))))
    title = f"step {run.step}, {split}, {count} images"
    scoring.print_rows(results["rows"], title=title, bkg_thre=run.config.bkg_thre)
    say(path)
    return results


def output_folder(options: argparse.Namespace, run: runs.Run, split: str) -> pathlib.Path:
    """Where results go, made if missing; raises `OutputError` if it cannot be written to."""
    out = options.out or run.folder / ("" if split == run.config.data.val_split else split)
    return make_folder(out, "--out")


def crf_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The CRF's approximations that were asked for, as `ops.crf.dense_crf` takes them."""
    settings: dict[str, Any] = {"top_k": options.crf_classes} if options.crf_classes else {}
    return settings | ({"exact_gaussian": True} if options.crf_exact_gaussian else {})


def summarize(
    counts: scoring.Counts,
    names: tuple[str, ...],
    run: runs.Run,
    source: Any,
    crf: dict[str, Any],
) -> dict[str, Any]:
    """What `evaluation.json` holds."""
    rows = [
        scoring.make_row(
            counts,
            predictor,
            name,
            description=native.describe(name, tuple(run.config.cam_scales), crf),
            names=("background", *source.class_names),
        )
        for name in names
        for predictor in scoring.PREDICTORS
        if f"confusion/{predictor}/{name}" in counts
    ]
    # The one that training logs where it was asked for, in whatever order they were named.
    protocol = next(
        (name for name in (str(run.config.crop_size), NATIVE) if name in names), names[0]
    )
    return {
        "images": int(counts[f"f1/{protocol}"][1]),
        "seconds": round(float(counts["seconds"]), 1),
        "cls_f1": scoring.mean_f1(counts[f"f1/{protocol}"]),
        "cls_f1_protocol": protocol,
        "step": run.step,
        "compute_dtype": run.config.compute_dtype,
        "split": source.split,
        "bkg_thre": run.config.bkg_thre,
        "rows": rows,
    }


def passes(
    run: runs.Run,
    source: Any,
    names: tuple[str, ...],
    out: pathlib.Path,
    options: argparse.Namespace,
    watch: Stopwatch,
):
    """Name and function of each pass that the protocols need, see `shares.count_split`."""
    batch_size = options.batch_size or default_batch_size()
    for name in names:
        if name.isdecimal():
            yield (
                name,
                functools.partial(
                    native.squashed_pass,
                    run.config,
                    run.model,
                    run.params,
                    source,
                    size=int(name),
                    batch_size=max(batch_size, 4),
                    watch=watch,
                ),
            )
    if NATIVE in names or CRF in names:
        yield (
            NATIVE,
            lambda left: native_pass(run, source, left, names, out, options, watch, batch_size),
        )


def native_pass(
    run: runs.Run,
    source: Any,
    places: list[int],
    names: tuple[str, ...],
    out: pathlib.Path,
    options: argparse.Namespace,
    watch: Stopwatch,
    batch_size: int,
) -> native.Results:
    """The pass at native size with everything that was asked for on top."""
    network = network_of(run, batch_size=batch_size)
    threads = options.num_threads or os.cpu_count() or 1
    with refinement.crf_workers(threads, network.buckets.frame) as crf:
        write_pseudo_label = None
        if options.pseudo_labels:
            write_pseudo_label = refinement.pseudo_label_writer(
                options.pseudo_labels,
                crf=crf if options.refine == "crf" else None,
                frame_of=network.buckets.frame,
                high_thre=run.config.high_thre,
                low_thre=run.config.low_thre,
                num_present=source.max_classes,
                # As the data set numbers them, for which the second network is.
                labels=source.own_labels() if isinstance(source, Renumbered) else None,
            )
        count = native.NativeCounts(
            num_labels=run.config.num_classes + 1,
            bkg_thre=run.config.bkg_thre,
            protocols=names,
            sweep=source.split.startswith("train"),
            watch=watch,
            crf=crf,
            crf_settings=crf_settings(options),
            write_pseudo_label=write_pseudo_label,
            probs_dir=out / "probs" if options.save_probs else None,
        )
        yield from native.native_pass(
            network, source, places, count, num_threads=threads, num_finishers=threads + 1
        )
    print_shapes(network)


def print_shapes(network: Any) -> None:
    """How often the network was compiled."""
    shapes = ", ".join(f"{height}x{width}" for height, width in sorted(network.shapes))
    say(f"network compiled for {len(network.shapes)} shapes (in patches): {shapes}")


def submit(options: argparse.Namespace) -> None:
    """Writes, checks and packs the masks of a split for the test server.

    Raises:
        SubmissionError: no such split, or masks that the server would refuse.
    """
    run = runs.load(options.checkpoint)
    names = parse_protocols(options.protocol or "crf", run.config.crop_size)
    if run.class_names != VOC_CLASSES and (run.names_known or len(run.class_names) != 20):
        raise EvaluationError(
            f"--submission is for VOC's classes, and {run.folder} has others "
            f"({', '.join(run.class_names)}): give a run on VOC"
        )
    root = pathlib.Path(options.root or run.config.data.root)
    split = options.split or "test"
    out = output_folder(options, run, split)
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
