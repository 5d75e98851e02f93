"""Prints what `toco_jax.data.check` found as tables, and returns it as JSON."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.runtime.console import say, say_table

_SHOWN = 10  # problems of a kind, and pairs of classes, that are printed


def print_splits(splits: dict[str, Any]) -> None:
    """Prints counts, sizes, class frequencies and the most frequent pairs of classes."""
    headings = ("", "split", "listed", "readable", "classes an image", "smallest", "largest")
    rows = []
    for part, split in splits.items():
        labels = split.labels.sum(axis=1)
        spread = f"{labels.mean():.2f}, at most {labels.max()}" if labels.size else ""
        sizes = sorted((image.size for image in split.images.values()), key=np.prod)
        ends = [f"{sizes[k][1]} x {sizes[k][0]}" for k in (0, -1)] if sizes else ["", ""]
        counts = (str(len(split.source)), str(len(split.images)))
        rows.append((part, split.source.split, *counts, spread, *ends))
    say_table("images", headings, rows, num_names=len(headings))
    if splits:
        _print_classes(splits)


def _print_classes(splits: dict[str, Any]) -> None:
    names = next(iter(splits.values())).source.class_names
    counts = {part: split.labels.sum(axis=0) for part, split in splits.items()}
    # Splits may differ in their classes, which is reported as a problem.
    rows = [
        (name, *(str(n[c]) if c < len(n) else "" for n in counts.values()))
        for c, name in enumerate(names)
    ]
    say_table("images with a class", ("class", *counts), rows)
    for part, split in splits.items():
        found = pairs(split.labels)
        shown = ", ".join(
            f"{split.source.class_names[a]} + {split.source.class_names[b]} {count}"
            for count, a, b in found[:_SHOWN]
        )
        say(f"{part}, classes that occur together: {shown or 'none'}")


def pairs(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """Counts the images of each pair of classes in labels uint8 [N, C] of 0 and 1.

    Returns:
        (images, class, class), the most frequent pair first.
    """
    together = labels.T.astype(np.int64) @ labels
    found = [
        (int(together[a, b]), a, b)
        for a, b in itertools.combinations(range(len(together)), 2)
        if together[a, b]
    ]
    return sorted(found, key=lambda pair: (-pair[0], *pair[1:]))


def print_problems(problems: Sequence[Any]) -> None:
    """Prints a few problems of each kind, those that stop training first."""
    kinds = {(not problem.fatal, problem.kind, problem.split) for problem in problems}
    for remark, kind, split in sorted(kinds):
        those = [p for p in problems if (not p.fatal, p.kind, p.split) == (remark, kind, split)]
        where = f" in {split!r}" if split else ""
        say(f"\n{'remark' if remark else 'ERROR'}: {kind}{where}, {len(those)}")
        for problem in those[:_SHOWN]:
            say(f"  {problem.message}")
        if len(those) > _SHOWN:
            say(f"  ... and {len(those) - _SHOWN} more; --json=FILE lists all")
    if problems:
        say()


def report(splits: dict[str, Any], problems: Sequence[Any]) -> dict[str, Any]:
    """Returns all counts and problems as values that JSON can hold."""
    about = {}
    for part, split in splits.items():
        names, labels = split.source.class_names, split.labels
        about[part] = {
            "split": split.source.split,
            "listed": len(split.source),
            "readable": len(split.images),
            "classes": {n: int(k) for n, k in zip(names, labels.sum(axis=0), strict=True)},
            "together": [[names[a], names[b], count] for count, a, b in pairs(labels)],
            "sizes": {name: list(image.size) for name, image in split.images.items()},
        }
    return about | {"problems": [dataclasses.asdict(problem) for problem in problems]}
