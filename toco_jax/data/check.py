"""Reads a whole data set once and says what is wrong with it, before a GPU is spent on it.

    python -m toco_jax.data.check --config=configs/voc.py [--config.key=value ...] [--fix]

Prints counts, class frequencies, classes that occur together and image sizes, and each problem with
its file and remedy. Exit code 1 if training would fail. `--fix` writes lists without the images
that cannot be used; `--report=FILE` writes everything as JSON.
"""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from toco_jax.cli import command_line
from toco_jax.data import open_configured, remarks
from toco_jax.data.check_report import print_problems, print_splits, report
from toco_jax.data.files import FileSource
from toco_jax.data.folders.folder_masks import MaskError
from toco_jax.data.labels import load_photo
from toco_jax.data.photos import Photo
from toco_jax.runtime.errors import DataError
from toco_jax.runtime.outputs import OutputError, check_file, write_atomically
from toco_jax.runtime.progress import follow

PARTS = ("train", "val")
_MASK_SHOWS_MORE = "mask shows more"


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        kind: a few words that problems of this sort share.
        split: the split it was found in.
        name: the record, "" where it is none's.
        message: file and remedy.
        fatal: training or its evaluation would stop at it.
        unusable: a clean list leaves the record out.
        names: what it is about where that is more than one thing.
    """

    kind: str
    split: str
    name: str
    message: str
    fatal: bool = False
    unusable: bool = False
    names: tuple[str, ...] = ()


@dataclasses.dataclass
class Split:
    """What was found in one split; `images` has an entry for each that can be read."""

    source: Any
    problems: list[Problem]
    images: dict[str, "Image"] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """uint8 [N, C] of the readable images."""
        rows = [image.label for image in self.images.values()]
        return np.reshape(rows, (len(rows), len(self.source.class_names))).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Image:
    """A readable image: its size (height, width), a digest of its pixels, its label [C]."""

    size: tuple[int, int]
    digest: bytes
    label: np.ndarray


def check(
    config: ConfigDict, *, threads: int, show: Callable[[str, Iterator], Any] = follow
) -> tuple[dict[str, Split], list[Problem]]:
    """Reads both splits of a configuration.

    Args:
        config: configuration of a run.
        threads: files read at the same time.
        show: called with a title and an iterator of (done, in all), which it has to exhaust.

    Returns:
        The splits that could be opened, by "train" and "val", and all problems.
    """
    splits, problems = {}, []
    for part in PARTS:
        split = open_split(config, part, problems)
        if split is not None:
            splits[part] = split
            show(f"{part} ({split.source.split})", _read_all(config, part, split, threads))
            problems += split.problems
    problems += class_problems(config, splits)
    found = [*remarks.own(*(split.source for split in splits.values())), *_unlearnt(splits)]
    if len(splits) == len(PARTS):
        problems += duplicates(*(splits[part] for part in PARTS))
        found += remarks.in_neither(*(splits[part].source for part in PARTS))
    problems += [Problem(r.kind, "", "", r.message, names=r.names) for r in found]
    # What is wrong with the whole of a folder was found in both splits.
    return splits, list(dict.fromkeys(problems))


def open_split(config: ConfigDict, part: str, problems: list[Problem]) -> Split | None:
    """Opens a split with what masks there are; None, with a problem noted, if it does not open."""
    name = config.data[f"{part}_split"]
    found = []

    def note(image: str, error: DataError) -> None:
        if not image:
            found.append(Problem("folder", "", "", str(error), fatal=True))
        elif isinstance(error, MaskError):
            if part == "val":  # training reads no masks
                found.append(Problem("mask", name, image, str(error), fatal=True, unusable=True))
        else:
            found.append(Problem("label", name, image, str(error), fatal=True, unusable=True))

    def attempt(*, masks: bool) -> Any:
        found.clear()
        return open_configured(config, part=part, masks=masks, on_problem=note)

    try:
        return Split(attempt(masks=True), found)
    except DataError as error:
        if part == "val":
            problems += [*found, Problem("split", name, "", str(error), fatal=True)]
            return None
        without = error  # training reads no masks, so the split may do without them
    try:
        return Split(attempt(masks=False), [*found, Problem("masks", name, "", str(without))])
    except DataError as error:
        problems += [*found, Problem("split", name, "", str(error), fatal=True)]
        return None


def _read_all(
    config: ConfigDict, part: str, split: Split, threads: int
) -> Iterator[tuple[int, int]]:
    skipping = part == "train" and config.data.on_error == "skip"
    total = len(split.source)
    unlabelled = {problem.name for problem in split.problems if problem.kind == "label"}
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda i: _read_one(split.source, i), range(total))
        for i, (image, problems) in enumerate(found):
            name = split.source.names[i]
            if image is not None:
                split.images[name] = image
            for kind, message in problems:
                if kind == _MASK_SHOWS_MORE and name in unlabelled:
                    continue
                fatal = not skipping if kind == "image" else part == "val" and kind == "mask"
                unusable = kind == "image" or fatal
                split.problems.append(
                    Problem(kind, split.source.split, name, message, fatal, unusable)
                )
            yield i + 1, total


def _read_one(source: Any, i: int) -> tuple[Image | None, list[tuple[str, str]]]:
    """An image, None if it cannot be read, and (kind, message) of its problems."""
    try:
        photo, label = _photo_and_label(source, i)
    except DataError as error:
        return None, [("image", str(error))]
    size = photo.pixels.shape[:2]
    digest = hashlib.blake2b(photo.pixels.tobytes(), salt=b"%dx%d" % size, digest_size=16).digest()
    image = Image(size, digest, label)
    remarks = [("image not as stored", f"{source.names[i]}: {note}") for note in photo.notes]
    if not isinstance(source, FileSource) or source.masks is None or source.masks[i] is None:
        return image, remarks
    try:
        mask, on_mask = source.mask(i, photo)
    except DataError as error:
        return image, [*remarks, ("mask", str(error))]
    return image, remarks + on_mask + _contradictions(source, i, mask)


def _photo_and_label(source: Any, i: int) -> tuple[Photo, np.ndarray]:
    """The decoded image of a record without its mask, and its label [C]."""
    if isinstance(source, FileSource):
        return load_photo(source.images[i]), source.cls_labels[i].astype(np.float32)
    record = source[i]
    return Photo(record["image"]), record["cls_label"]


def _contradictions(source: FileSource, i: int, mask: np.ndarray) -> list[tuple[str, str]]:
    num_classes = len(source.class_names)
    in_mask = np.bincount(mask.ravel(), minlength=256)[1 : num_classes + 1] > 0
    in_label = source.cls_labels[i].astype(bool)

    def named(which: np.ndarray) -> str:
        return ", ".join(source.class_names[c] for c in np.flatnonzero(which))

    problems = []
    if (in_mask & ~in_label).any():
        problems.append(
            (
                _MASK_SHOWS_MORE,
                f"mask {source.masks[i]} shows {named(in_mask & ~in_label)}, which the label "
                "lacks; add it to the label or correct the mask",
            )
        )
    if (in_label & ~in_mask).any():
        problems.append(
            (
                "label says more",
                f"{source.names[i]} is labelled {named(in_label & ~in_mask)}, which mask "
                f"{source.masks[i]} lacks; look whether it is there",
            )
        )
    return problems


def class_problems(config: ConfigDict, splits: dict[str, Split]) -> list[Problem]:
    """What keeps a network of the configuration from being trained on these classes."""
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
    """Images, pixel by pixel the same, that are in both splits."""
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
    """Writes <split>_clean.txt where the split has unusable records; what was done, in words."""
    source = split.source
    broken = {p.name for p in problems if p.split == source.split and p.unusable}
    if not broken:
        return f"{source.split!r} is clean"
    if not isinstance(source, FileSource):
        return f"{source.split!r} has no lists; correct its source and build it again"
    kept = [name for name in source.names if name not in broken]
    path = source.list_folder / f"{source.split}_clean.txt"
    try:
        write_atomically(path, "".join(f"{name}\n" for name in kept))
    except OSError as error:
        raise OutputError(f"{path} cannot be written ({error.strerror})") from error
    return f"{path}: {len(kept)} of {len(source)} images; use the split {path.stem!r}"


def define_flags() -> None:
    """The command line; not on import, since other commands have flags of the same names."""
    command_line.define_config()
    flags.DEFINE_bool("fix", False, "Write <split>_clean.txt, a list without unusable images.")
    flags.DEFINE_string("report", None, "Write counts and problems to this JSON file.")
    flags.DEFINE_integer("threads", 8, "Files read at the same time.")
    flags.mark_flag_as_required("config")


def main(_argv: list[str]) -> None:
    """Checks the flags' configuration."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    config = flags.FLAGS.config
    if config.data.source == "shapes":
        print("procedural scenes have no files to check")
        return
    if flags.FLAGS.report:
        check_file(pathlib.Path(flags.FLAGS.report), "--report")
    splits, problems = check(config, threads=max(flags.FLAGS.threads, 1))
    print_splits(splits)
    print_problems(problems)
    if flags.FLAGS.fix:
        for split in splits.values():
            print(write_clean_list(split, problems))
    if flags.FLAGS.report:
        pathlib.Path(flags.FLAGS.report).write_text(json.dumps(report(splits, problems), indent=1))
    fatal = sum(problem.fatal for problem in problems)
    if fatal:
        sys.exit(f"training would fail: {fatal} of {len(problems)} problems stop it")
    print(f"training can start; {len(problems)} remarks" if problems else "no problem found")


if __name__ == "__main__":
    define_flags()
    command_line.run(main)
