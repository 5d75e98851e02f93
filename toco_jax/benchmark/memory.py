"""Memory, open files and threads over many training steps and many segmented pictures.

`toco train` trains a tiny network and `toco predict` segments made-up pictures with it, each in a
process of its own. CONFIG and keys change the training.
"""

import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import psutil

from toco_jax.benchmark.measure import Row, Tables
from toco_jax.benchmark.photos import photo
from toco_jax.runtime.errors import UserError
from toco_jax.runtime.exit_codes import RESTART

# A network and views so small that a step takes a few hundredths of a second.
_TINY = (
    "backbone=width=16,depth=2,heads=2,patch=8",
    "init=random",
    "aux_layer=-2",
    "decoder_width=8",
    "decoder_dilation=1",
    "crop_size=32",
    "local_crop_size=16",
    "num_local_crops=2",
    "group_size=1",
    "batch_size=8",
    # All terms from the first step on, so that there is one program.
    *(f"loss_weights.{term}=((0, 0.1),)" for term in ("seg", "reg", "ptc", "ctc")),
)
# Height and width of the pictures in turn: of three frames, and with sizes that are all different.
_SIZES = ((24, 36), (36, 24), (30, 31))
_STEP = re.compile(r"step (\d+)/")


def run(args: Namespace) -> Tables:
    """Returns the curve of each command and its growth per 1,000 steps or pictures.

    Raises:
        UserError: one of the commands failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        every = max(args.steps // args.points, 1)
        # Told to stop, training saves its network and leaves out what comes after the last step.
        total = 2 * args.steps
        keys = [
            *_TINY,
            *(f"total_steps={total}", f"eval_every={total}", f"warmup_steps={min(total - 1, 20)}"),
            *(f"log_every={every}", f"save_every={every}"),
            *args.keys,
        ]
        words = ["train", args.config, *keys, "--out", root / "run"]
        train = curve(words, "step", _step_of, every=every, last=args.steps)
        write_pictures(root / "pictures", args.images)
        words = ["predict", root / "run", root / "pictures", "--out", root / "masks"]
        every = max(args.images // args.points, 1)
        predict = curve(words, "picture", _counter(), every=every, last=args.images)
    return {
        "toco train": train,
        "toco predict": predict,
        "growth per 1,000, over the second half": [
            {"command": "toco train", **growth(train)},
            {"command": "toco predict", **growth(predict)},
        ],
    }


def curve(
    words: list, unit: str, number_of: Callable[[str], int | None], *, every: int, last: int
) -> list[Row]:
    """Runs a command and returns what its process holds after every so many units of its work.

    Args:
        words: the verb and what follows.
        unit: name of a unit of work.
        number_of: returns the number of units that are done by a line of the command's output, or
            None.
        every: number of units from one row to the next.
        last: number of units after which the command is told to stop.

    Raises:
        UserError: the command failed.
    """
    command = [sys.executable, "-m", "toco_jax", *map(str, words)]
    rows: list[Row] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            number = number_of(line)
            if number is None or number > last:
                continue
            if number >= every * (len(rows) + 1):
                rows.append({unit: number, **held_by(child.pid)})
            if number == last:
                child.terminate()
    if child.returncode not in (0, RESTART, -signal.SIGTERM):
        raise UserError(f"toco {words[0]} ended with exit code {child.returncode}, see above")
    return rows


def held_by(pid: int) -> Row:
    """Returns the memory, file descriptors and threads of a process and those it has started."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return {
        "resident MiB": sum(one.memory_info().rss for one in family) / 2**20,
        "file descriptors": sum(one.num_fds() for one in family),
        "threads": sum(one.num_threads() for one in family),
    }


def growth(rows: list[Row]) -> Row:
    """Returns the growth of each column per 1,000 units, by least squares over the second half.

    Args:
        rows: at least two, with the number of units as their first column.
    """
    half = rows[min(len(rows) // 2, len(rows) - 2) :]
    unit, *columns = half[0]
    units = [row[unit] for row in half]
    return {name: 1000 * np.polyfit(units, [row[name] for row in half], 1)[0] for name in columns}


def write_pictures(folder: pathlib.Path, count: int) -> None:
    """Writes made-up pictures for the tiny network, of many sizes in turn."""
    folder.mkdir()
    for i in range(count):
        height, width = _SIZES[i % len(_SIZES)]
        shrunk = i // len(_SIZES) % 5
        picture = photo(i, height - shrunk, width - shrunk)
        cv2.imwrite(str(folder / f"{i:06d}.png"), picture)


def _step_of(line: str) -> int | None:
    match = _STEP.match(line)
    return int(match[1]) if match else None


def _counter() -> Callable[[str], int | None]:
    """A function that counts its calls: `toco predict` prints one line per picture."""
    numbers: Iterator[int] = iter(range(1, sys.maxsize))
    return lambda _: next(numbers)
