"""`evaluate`: scores a run on a split, by one pass over the images for each kind of protocol."""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from toco_jax.data import open_configured
from toco_jax.data.fingerprint import fingerprint
from toco_jax.evaluation import label_formats, scoring, shares
from toco_jax.evaluation.counting import Results
from toco_jax.evaluation.native import REFINERS, Extras, native_pass
from toco_jax.evaluation.protocols import CRF, NATIVE, EvaluationError, parse
from toco_jax.evaluation.squashed import SquashedPass
from toco_jax.inference.native import default_batch_size
from toco_jax.report import evaluation_page, run_page
from toco_jax.report.aside import aside
from toco_jax.run import runs
from toco_jax.run.records import CONFIG_FILE, EVALUATION_FILE, REPORT_FILE
from toco_jax.runtime import processes
from toco_jax.runtime.console import silent
from toco_jax.runtime.outputs import OutputError, make_folder, write_atomically
from toco_jax.runtime.stopwatch import Stopwatch

RESULTS_FILE = EVALUATION_FILE
# Says that the counts of a stopped evaluation include each image's own; earlier ones did not.
_COUNTS = "images"
# A squashed image is small: so many go together at least.
_LEAST_SQUASHED = 4


def evaluate(
    run: str | os.PathLike | runs.Run,
    *,
    protocols: str | Sequence[str | int] | None = None,
    root: str | os.PathLike | None = None,
    split: str | None = None,
    mask_foreground: int | None = None,
    limit: int = 0,
    labels: Sequence[str] = (),
    out: str | os.PathLike | None = None,
    extras: Extras | None = None,
    batch_size: int = 0,
    num_threads: int = 0,
    report: Callable[[str], None] = silent,
) -> scoring.Scores:
    """Scores a trained network on a split of a data set.

    Several processes of one job call it alike and share the images; each returns the same scores.

    Args:
        run: a run's folder, one checkpoint in it, or what `runs.load` returned.
        protocols: numbers of pixels, "native", "crf"; the training's size, native and crf if None.
        root: the data set's folder; the run's if None.
        split: the split's name; the one that the run validates on if None.
        mask_foreground: the value of the only class in masks; the run's if None.
        limit: scores only the first `limit` images; 0 scores all.
        labels: names of labels whose mean IoU is scored as well, such as those of many images.
        out: folder that receives `evaluation.json`, and where the counts of an evaluation that is
            stopped wait for the same call; None writes nothing.
        extras: CRF approximations and files to write, see `native.Extras`.
        batch_size: images per batch; 0 chooses one for the devices.
        num_threads: threads, and CRF processes on a CPU; 0 takes one per core.
        report: receives lines about the progress; nothing is printed by default.

    Returns:
        The scores as plain data, see `scoring.Scores`.

    Raises:
        EvaluationError: an option that cannot work.
        CheckpointError: there is no run.
        DataError: a broken data set, or classes that the run does not know.
        OutputError: a folder cannot be written to.
    """
    run = run if isinstance(run, runs.Run) else runs.load(run, report=report)
    names, extras = parse(protocols, run.config.crop_size), extras or Extras()
    _check(extras, names, run.model.backbone.patch)
    out = None if out is None else pathlib.Path(out)
    source = _open(run, root, split, mask_foreground, report)
    for option, folder in (("--out", out), ("--pseudo_labels", extras.pseudo_labels)):
        if folder is not None:
            make_folder(folder, option)
    if extras.pseudo_labels is not None:
        label_formats.check(extras.pseudo_labels, source, extras.formats)
    if out is not None and (out / RESULTS_FILE).is_dir():
        raise OutputError(
            f"{out / RESULTS_FILE} is a folder, and the scores go to a file of that name: move it "
            "away, or give another --out"
        )
    scoring.check_labels(labels, source.class_names)
    count = min(limit, len(source)) if limit else len(source)
    about = [
        _COUNTS,
        run.fingerprint,
        run.step,
        fingerprint(source, count),
        str(root),
        names,
        str(extras),
    ]
    watch = Stopwatch()
    counts = shares.count_split(
        _passes(run, source, names, extras, batch_size, num_threads, watch, report),
        count=count,
        folder=out,
        about=json.dumps(about),
        report=report,
    )
    if extras.pseudo_labels is not None and processes.is_first():
        label_formats.write(
            extras.pseudo_labels,
            source,
            count,
            formats=extras.formats,
            polygons=extras.polygons,
            model=f"{run.folder} at step {run.step}",
            report=report,
        )
    scores = scoring.summarize(
        counts,
        names,
        config=run.config,
        step=run.step,
        source=source,
        crf_settings=extras.crf_settings,
        labels=labels,
    )
    if out is not None:
        _write(scores, out, run)
    report(watch.report(len(shares.places_of_process(count))))
    return scores


def _check(extras: Extras, names: tuple[str, ...], patch: int) -> None:
    for name in names:
        if name.isdecimal() and int(name) < patch:
            raise EvaluationError(
                f"--protocol has {name!r}, and a patch has {patch} pixels: use at least {patch}"
            )
    if extras.pseudo_labels is not None and NATIVE not in names:
        raise EvaluationError("--pseudo_labels needs native among the --protocol names")
    if extras.pseudo_labels is None and extras.formats:
        raise EvaluationError(
            f"--format={','.join(extras.formats)} is for pseudo labels: give their folder as "
            "--pseudo_labels, or leave --format out"
        )
    if extras.refine not in REFINERS:
        raise EvaluationError(f"--refine={extras.refine} is unknown: use {' or '.join(REFINERS)}")


def _open(
    run: runs.Run,
    root: str | os.PathLike | None,
    split: str | None,
    mask_foreground: int | None,
    report: Callable[[str], None],
) -> Any:
    """The split's record source, its classes numbered as the run's."""
    changed: dict[str, Any] = {"split": split or run.config.data.val_split}
    if root is not None:
        changed["root"] = str(root)
    if mask_foreground is not None:
        changed["mask_foreground"] = mask_foreground
    source = open_configured(run.config, part="val", masks=True, **changed)
    return run.numbered(source, report=report)


def _passes(
    run: runs.Run,
    source: Any,
    names: tuple[str, ...],
    extras: Extras,
    batch_size: int,
    num_threads: int,
    watch: Stopwatch,
    report: Callable[[str], None],
) -> Iterator[tuple[str, Callable[[list[int]], Results]]]:
    """Yields name and function of each pass that the protocols need, for `shares.count_split`."""
    batch_size = batch_size or default_batch_size()
    for name in names:
        if name.isdecimal():
            squashed = SquashedPass(
                run.config,
                run.model,
                source,
                size=int(name),
                batch_size=max(batch_size, _LEAST_SQUASHED),
                with_baselines=extras.baselines,
            )
            yield name, functools.partial(squashed, run.params, watch=watch)
    if NATIVE in names or CRF in names:
        yield (
            NATIVE,
            functools.partial(
                native_pass,
                run,
                source,
                protocols=names,
                extras=extras,
                batch_size=batch_size,
                num_threads=num_threads or os.cpu_count() or 1,
                watch=watch,
                report=report,
            ),
        )


def _write(scores: scoring.Scores, out: pathlib.Path, run: runs.Run) -> None:
    """Writes the scores and pages, and only then removes the counts that every process keeps."""
    if processes.is_first():
        write_atomically(out / RESULTS_FILE, json.dumps(scores, indent=1) + "\n")
        with aside(out / evaluation_page.FILE):
            config = run.recorded.to_dict()
            evaluation_page.write(out, scores, run=run.folder, config=config)
        if (out / CONFIG_FILE).exists():
            with aside(out / REPORT_FILE):
                run_page.write(out)
    processes.barrier()
    shares.forget(out)
