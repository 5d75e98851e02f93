"""Reads a whole data set once and reports what is wrong with it; see `toco check --help`."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from toco_jax.cli import commands
from toco_jax.data import remarks
from toco_jax.data.check_report import print_problems, print_splits, report
from toco_jax.data.check_split import Problem, Split, open_split, read_images
from toco_jax.data.files import FileSource
from toco_jax.runtime.outputs import OutputError, check_file, write_atomically
from toco_jax.runtime.progress import follow

PARTS = ("train", "val")


def check(
    config: ConfigDict, *, threads: int, show: Callable[[str, Iterator], Any] = follow
) -> tuple[dict[str, Split], list[Problem]]:
    """Reads both splits of a configuration.

    Args:
        config: configuration of a run.
        threads: number of files read at the same time.
        show: called with a title and an iterator of (done, in all), which it has to exhaust.

    Returns:
        The splits that could be opened, by "train" and "val", and all problems.
    """
    splits: dict[str, Split] = {}
    problems: list[Problem] = []
    for part in PARTS:
        split = open_split(config, part, problems)
        if split is not None:
            splits[part] = split
            show(f"{part} ({split.source.split})", read_images(config, part, split, threads))
            problems += split.problems
    problems += class_problems(config, splits)
    found = [*remarks.own(*(split.source for split in splits.values())), *_unlearnt(splits)]
    if len(splits) == len(PARTS):
        problems += duplicates(*(splits[part] for part in PARTS))
        found += remarks.in_neither(*(splits[part].source for part in PARTS))
    problems += [Problem(r.kind, "", "", r.message, names=r.names) for r in found]
    # What is wrong with the whole of a folder was found in both splits.
    return splits, list(dict.fromkeys(problems))


def class_problems(config: ConfigDict, splits: dict[str, Split]) -> list[Problem]:
    """Reports classes on which a network of the configuration cannot be trained."""
    problems = []
    names = {part: tuple(split.source.class_names) for part, split in splits.items()}
    if len(set(names.values())) > 1:
        message = "train and val have other classes; list all of them in classes.txt"
        problems.append(Problem("classes", "", "", message, fatal=True))
    for part, classes in names.items():
        if config.num_classes not in (0, len(classes)):
            message = (
                f"num_classes={config.num_classes}, but {part} has {len(classes)} classes; use "
                f"num_classes={len(classes)}"
            )
            problems.append(Problem("classes", "", "", message, fatal=True))
    return problems


def _unlearnt(splits: dict[str, Split]) -> list[remarks.DataRemark]:
    """Remarks on classes without a readable training image."""
    if "train" not in splits:
        return []
    counts = {part: split.labels.sum(axis=0, dtype=np.int64) for part, split in splits.items()}
    names = splits["train"].source.class_names
    return remarks.without_images(names, counts["train"], counts.get("val"))


def duplicates(train: Split, val: Split) -> list[Problem]:
    """Reports training images whose pixels equal those of a validation image."""
    in_val = {image.digest: name for name, image in val.images.items()}
    return [
        Problem(
            "in both splits",
            train.source.split,
            name,
            f"training image {name} is the same picture as {in_val[image.digest]} of "
            f"{val.source.split!r}; take it out of {train.source.split!r}",
            unusable=True,
        )
        for name, image in train.images.items()
        if image.digest in in_val
    ]


def write_clean_list(split: Split, problems: list[Problem]) -> str:
    """Writes <split>_clean.txt if the split has unusable records.

    Returns:
        A sentence that says what was done.

    Raises:
        OutputError: the list cannot be written.
    """
    source = split.source
    broken = {p.name for p in problems if p.split == source.split and p.unusable}
    if not broken:
        return f"{source.split!r} is clean"
    if not isinstance(source, FileSource) or source.list_folder is None:
        return f"{source.split!r} has no lists; correct its source and build it again"
    kept = [name for name in source.names if name not in broken]
    path = source.list_folder / f"{source.split}_clean.txt"
    try:
        write_atomically(path, "".join(f"{name}\n" for name in kept))
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})") from error
    return f"{path}: {len(kept)} of {len(source)} images; use the split {path.stem!r}"


def print_check(
    config: ConfigDict, *, threads: int, fix: bool = False, json_file: pathlib.Path | None = None
) -> list[Problem]:
    """Checks a data set, prints what was found, and returns the problems.

    `fix` also calls `write_clean_list`, and `json_file` receives the counts and problems.

    Raises:
        OutputError: a file cannot be written.
    """
    if json_file:
        check_file(json_file, "--json")
    splits, problems = check(config, threads=threads)
    print_splits(splits)
    print_problems(problems)
    if fix:
        for split in splits.values():
            print(write_clean_list(split, problems))
    if json_file:
        json_file.write_text(json.dumps(report(splits, problems), indent=1))
    return problems


if __name__ == "__main__":
    commands.start("check")
