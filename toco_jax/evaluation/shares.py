"""A split counted by one or several processes, each of which goes on where it was stopped."""

import pathlib
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np

from toco_jax.evaluation import scoring
from toco_jax.evaluation.native import Results
from toco_jax.runtime.console import say
from toco_jax.runtime.stopwatch import Progress

_SAVE_SECONDS = 20.0


def places_of_process(count: int) -> range:
    """Places in a split of `count` images that belong to this process."""
    return range(jax.process_index(), count, jax.process_count())


def count_split(
    out: pathlib.Path,
    passes: Iterable[tuple[str, Callable[[list[int]], Results]]],
    *,
    count: int,
    about: str,
) -> scoring.Counts:
    """Counts of all images, of all processes together; the counts of a process that is stopped
    wait in a file for its next start; `forget` removes it.

    Args:
        out: folder of that file.
        passes: name of each pass and its function from places to `(place, counts)`.
        count: images in the split.
        about: what a file must agree on for its counts to be used.

    Raises:
        RuntimeError: an image was not counted exactly once.
    """
    path = _counts_file(out)
    counts = scoring.load(path, about)
    if counts is None:
        if path.exists():
            say(
                f"{path} is of an evaluation that was stopped, with other images, labels, masks, "
                "weights or options: all images are counted anew"
            )
        counts = {"seconds": np.zeros(())}
    began = time.perf_counter() - float(counts["seconds"])
    saved = time.perf_counter()

    def save() -> None:
        counts["seconds"] = np.asarray(time.perf_counter() - began)
        scoring.save(path, counts, about)

    try:
        for name, run_pass in passes:
            done = counts.setdefault(f"done/{name}", np.zeros(count, np.int64))
            places = places_of_process(count)
            left = [place for place in places if not done[place]]
            if len(left) < len(places):
                say(f"{name}: {len(places) - len(left)} of {len(places)} images are done")
            progress = Progress(name, len(left))
            for place, more in run_pass(left) if left else ():
                scoring.add(counts, more)
                done[place] = 1
                progress()
                if time.perf_counter() - saved > _SAVE_SECONDS:
                    saved = time.perf_counter()
                    save()
    finally:
        save()
    total = _merge(counts)
    for name, done in total.items():
        if name.startswith("done/") and not (done == 1).all():
            raise RuntimeError(
                f"pass {name.removeprefix('done/')!r} counted {int((done != 1).sum())} images "
                "never or twice: do all processes see the same split?"
            )
    return total


def forget(out: pathlib.Path) -> None:
    """Removes the counts of this process, once what was made of them is on the disk."""
    _counts_file(out).unlink()


def _counts_file(out: pathlib.Path) -> pathlib.Path:
    return out / f".evaluation-{jax.process_index()}-of-{jax.process_count()}.npz"


def _merge(counts: scoring.Counts) -> scoring.Counts:
    """The sum of the counts of all processes; the longest time."""
    total: scoring.Counts = {}
    seconds = []
    for other in scoring.of_all_processes(counts):
        seconds.append(other.pop("seconds"))
        scoring.add(total, other)
    return total | {"seconds": np.max(seconds)}
