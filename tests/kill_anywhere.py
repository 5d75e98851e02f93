"""Kills a tiny run at random moments, starts it again, and compares it with one left undisturbed.

    python tests/kill_anywhere.py                           2 minutes on 2 cores
    python tests/kill_anywhere.py --kills 100 --seed 1      half an hour

A kill (SIGKILL) hits any moment of a process: its imports, its start, a step, a save, an
evaluation, its end. A process that nobody kills in time finishes the run; then parameters,
`metrics.jsonl`, scores and pictures of every evaluation and, but for the seconds, `results.json`
have to be those of the undisturbed run to the bit, and the next run is begun. Exits with 1 where
they are not.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

import numpy as np
from conftest import TINY_RUN, XLA_FLAGS
from flax import traverse_util

from toco_jax.run.records import evaluations
from toco_jax.run.saved import load_run

REPOSITORY = pathlib.Path(__file__).parents[1]
# A checkpoint every other step and an evaluation every fourth, so that many kills hit one.
VALUES = TINY_RUN | {
    "total_steps": 12,
    "batch_size": 2,
    "save_every": 2,
    "eval_every": 4,
    "log_every": 1,
}
# Seconds in which a process has to finish the run: one that hangs is a failure.
_LONGEST = 900


class KillError(Exception):
    """A run that was killed did not end as the undisturbed one; the message says in what."""


def environment(cache: pathlib.Path) -> dict[str, str]:
    """The environment of the runs, whose programs are compiled once and kept in a folder."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": XLA_FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@dataclasses.dataclass(frozen=True)
class Training:
    """The run that is killed: its values, and the environment of its processes."""

    values: Mapping[str, object]
    env: Mapping[str, str]


def start(workdir: pathlib.Path, training: Training) -> subprocess.Popen:
    """Starts training in a folder."""
    flags = [f"--config.{key}={value}" for key, value in training.values.items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "toco_jax.main", "--config=configs/voc.py"),
            *(f"--workdir={workdir}", *flags),
        ],
        cwd=REPOSITORY,
        env=training.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(workdir: pathlib.Path, training: Training) -> float:
    """Trains in a folder to the end; the seconds that took.

    Raises:
        KillError: the process ended with an error.
    """
    began = time.monotonic()
    process = start(workdir, training)
    printed = process.communicate(timeout=_LONGEST)[0]
    if process.returncode:
        raise KillError(f"{workdir}: exit code {process.returncode}\n{printed}")
    return time.monotonic() - began


def where(workdir: pathlib.Path) -> str:
    """Names the part of a run in which a process was killed, by what it left in the folder."""
    if not (workdir / "metrics.jsonl").exists():
        return "before the first step"
    if any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")):
        return "within a save"
    return "after the last step" if (workdir / "samples.png").exists() else "between saves"


def compare(workdir: pathlib.Path, undisturbed: pathlib.Path) -> None:
    """Raises `KillError` if a finished run differs from the undisturbed one."""
    lines, expected = ((path / "metrics.jsonl").read_text() for path in (workdir, undisturbed))
    if lines != expected:
        raise KillError(f"{workdir}: metrics.jsonl differs:\n{lines}\nand not\n{expected}")
    results, expected = (
        json.loads((path / "results.json").read_text()) | {"seconds": 0}
        for path in (workdir, undisturbed)
    )
    if results != expected:
        raise KillError(f"{workdir}: results.json differs: {results}, not {expected}")
    found, expected = (evaluations_of(path) for path in (workdir, undisturbed))
    if not found or found != expected:
        raise KillError(f"{workdir}: evaluations of steps {[*found]} differ from {[*expected]}")
    ours, theirs = (arrays_of(path) for path in (workdir, undisturbed))
    if different := [name for name in ours | theirs if ours.get(name) != theirs.get(name)]:
        raise KillError(f"{workdir}: {', '.join(different)} differ")


def evaluations_of(workdir: pathlib.Path) -> dict[int, dict]:
    """Scores and pictures of every evaluation, by its step."""
    entries = [json.loads(path.read_text()) for _, path in evaluations(workdir)]
    return {
        entry["step"]: {"scores": entry["scores"] | {"seconds": 0}, "drawn": entry["pictures"]}
        for entry in entries
    }


def arrays_of(workdir: pathlib.Path) -> dict[str, tuple]:
    """Type, shape and bytes of every array of a run's last network."""
    state = load_run(workdir)[1]
    tree = {name: state[name] for name in ("params", "extra")}
    flat = traverse_util.flatten_dict(tree, sep="/")
    arrays = {name: np.asarray(value) for name, value in flat.items()}
    found = {name: (str(x.dtype), x.shape, x.tobytes()) for name, x in arrays.items()}
    return found | {"step": (state["step"],)}


def kill_often(
    folder: pathlib.Path,
    training: Training,
    undisturbed: pathlib.Path,
    *,
    longest: float,
    kills: int,
    seed: int,
) -> collections.Counter:
    """Kills runs in a folder `kills` times and compares each that ends.

    Args:
        folder: where the runs are begun.
        training: what they train.
        undisturbed: the folder of the same run, finished without a kill.
        longest: seconds after which a process is killed at the latest.
        kills: how many there are.
        seed: of their moments.

    Returns:
        How often a process was killed in which part of a run, and under "runs" how many were
        finished and compared.

    Raises:
        KillError: a run ended with an error, or differs from the undisturbed one.
    """
    rng, found = random.Random(seed), collections.Counter(runs=0)
    while kills:
        workdir = folder / f"run_{found['runs']}"
        process = start(workdir, training)
        try:
            printed = process.communicate(timeout=rng.uniform(0, longest))[0]
        except subprocess.TimeoutExpired:
            process.kill()
            printed = process.communicate()[0]
        if process.returncode == -signal.SIGKILL:
            kills -= 1
            found[where(workdir)] += 1
        elif process.returncode:
            raise KillError(f"{workdir}: exit code {process.returncode}\n{printed}")
        if not kills and process.returncode:
            finish(workdir, training)
        if not kills or process.returncode == 0:
            compare(workdir, undisturbed)
            found["runs"] += 1
    return found


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5, help="kills in all (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of their moments (default: 0)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="toco_jax_kills_") as folder:
        root = pathlib.Path(folder)
        training, undisturbed = Training(VALUES, environment(root / "xla")), root / "undisturbed"
        try:
            # The first compiles, so that the next shows how long the others take.
            finish(root / "first", training)
            longest = finish(undisturbed, training)
            compare(root / "first", undisturbed)
            found = kill_often(
                *(root, training, undisturbed), longest=longest, kills=args.kills, seed=args.seed
            )
        except KillError as error:
            sys.exit(f"error: {error}")
    runs = found.pop("runs")
    parts = ", ".join(f"{number} {part}" for part, number in found.most_common())
    print(f"{args.kills} kills ({parts}): all {runs} runs ended with the same bits")


if __name__ == "__main__":
    main()
