"""Counts a split with one or several processes, and goes on where a stopped evaluation was."""

import pathlib
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np

from toco_jax.evaluation import counting
from toco_jax.evaluation.counting import Counts, Results
from toco_jax.runtime import processes
from toco_jax.runtime.console import silent
from toco_jax.runtime.progress import Progress

_SAVE_SECONDS = 20.0


def places_of_process(count: int) -> range:
    """Places of the images that this process counts, in a split of `count` images."""
    return range(jax.process_index(), count, jax.process_count())


def count_split(
    passes: Iterable[tuple[str, Callable[[list[int]], Results]]],
    *,
    count: int,
    folder: pathlib.Path | None = None,
    about: str = "",
    report: Callable[[str], None] = silent,
) -> Counts:
    """Counts all images, each process its share; every process returns the sum of all of them.

    Args:
        passes: the name of each pass, and its function from places in the split to the counts of
            the images there.
        count: images in the split.
        folder: where each process keeps its counts while it works, so that an evaluation that is
            stopped goes on when it is started again; `forget` removes them. None keeps none.
        about: what the evaluation depends on; counts in `folder` are used if they were kept with
            the same text.
        report: receives lines about the progress.

    Raises:
        RuntimeError: an image was not counted exactly once.
    """
    path = None if folder is None else _file_in(folder)
    counts = _counts_so_far(path, about, report)
    began = time.perf_counter() - float(counts["seconds"])
    saved = time.perf_counter()

    def save() -> None:
        counts["seconds"] = np.asarray(time.perf_counter() - began)
        if path is not None:
            counting.save(path, counts, about)

    try:
        for name, run_pass in passes:
            done = counts.setdefault(f"done/{name}", np.zeros(count, np.int64))
            places = places_of_process(count)
            left = [place for place in places if not done[place]]
            if len(left) < len(places):
                report(f"{name}: {len(places) - len(left)} of {len(places)} images are done")
            if not left:
                continue
            with Progress(name, len(left), report=report) as progress:
                for place, more in run_pass(left):
                    counting.add_image(counts, more, place, count)
                    done[place] = 1
                    progress()
                    if time.perf_counter() - saved > _SAVE_SECONDS:
                        saved = time.perf_counter()
                        save()
    finally:
        save()
    total = _merge(counts)
    _check_counted_once(total)
    return total


def forget(folder: pathlib.Path) -> None:
    """Removes the counts that this process keeps, once their scores are on the disk."""
    _file_in(folder).unlink()


def _file_in(folder: pathlib.Path) -> pathlib.Path:
    return folder / f".evaluation-{jax.process_index()}-of-{jax.process_count()}.npz"


def _counts_so_far(path: pathlib.Path | None, about: str, report: Callable[[str], None]) -> Counts:
    """The counts that a stopped evaluation kept, or counts of nothing."""
    counts = None if path is None else counting.load(path, about)
    if counts is not None:
        return counts
    if path is not None and path.exists():
        report(
            f"{path} is of an evaluation that was stopped, with other images, labels, masks, "
            "weights or options, or by another version: all images are counted anew"
        )
    return {"seconds": np.zeros(())}


def _merge(counts: Counts) -> Counts:
    """Sums the counts of all processes; of their seconds it takes the longest."""
    total: Counts = {}
    seconds = []
    for content in processes.gather(counting.to_bytes(counts)):
        other = counting.from_bytes(content)
        seconds.append(other.pop("seconds"))
        counting.add(total, other)
    return total | {"seconds": np.max(seconds)}


def _check_counted_once(total: Counts) -> None:
    for name, done in total.items():
        if name.startswith("done/") and not (done == 1).all():
            raise RuntimeError(
                f"pass {name.removeprefix('done/')!r} counted {int((done != 1).sum())} images "
                "never or twice: do all processes see the same split?"
            )
