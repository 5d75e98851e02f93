"""Measures the parts of the system, one sub-command a part.

    python -m toco_jax.benchmark pipeline [--repeats N] [--json FILE]

Each prints a table of medians and can write them as JSON. What is compared is measured in turns in
one process, so that a machine's other work falls on all alike.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process's threads that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def medians(
    works: dict[str, Callable[[], Any]],
    *,
    repeats: int,
    measure: Callable[[Callable[[], Any]], float],
) -> dict[str, float]:
    """Median measure of each work: all once for warming up, then `repeats` rounds in turns."""
    for work in works.values():
        work()
    taken = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(measure(work))
    return {name: statistics.median(values) for name, values in taken.items()}


def show(title: str, rows: Sequence[Row]) -> None:
    """Prints rows of equal keys as a table."""
    table = Table(title=title)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == next(iter(rows[0])) else "right")
    for row in rows:
        table.add_row(*(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


def pipeline(args: argparse.Namespace) -> tuple[str, list[Row]]:
    """Decoding and the three views of training, against the Pillow chain of the published code."""
    import numpy as np

    from toco_jax.data import augment, pillow_views
    from toco_jax.data.labels import decode_image

    files = jpegs(args.images)

    def ours() -> None:
        rng = np.random.default_rng(0)
        for content in files:
            image = decode_image(content, pathlib.PurePath("memory.jpg"))
            augment.make_views(image, rng, crop_size=args.size, as_published=False)

    def pillow(*, normalise: bool) -> None:
        rng = np.random.default_rng(0)
        for content in files:
            image = pillow_views.decode(content)
            views = pillow_views.make_views(image, rng, crop_size=args.size)
            if normalise:
                for name in ("image", "view2", "local"):
                    pillow_views.normalised(views[name])

    works = {
        "OpenCV, uint8 (normalised on the device)": ours,
        "Pillow, uint8": lambda: pillow(normalise=False),
        "Pillow, normalised float32, as published": lambda: pillow(normalise=True),
    }
    seconds = medians(works, repeats=args.repeats, measure=cpu_seconds)
    first = next(iter(seconds.values()))
    rows = [
        {
            "chain": name,
            "images per CPU-second": len(files) / value,
            "ms per image": 1000 * value / len(files),
            "times ours": value / first,
        }
        for name, value in seconds.items()
    ]
    return f"three {args.size} px views of 500 x 375 JPEGs, one core", rows


def jpegs(count: int) -> list[bytes]:
    """JPEG files of 500 x 375 pixels with edges, texture and noise, about 100 KB each."""
    import cv2
    import numpy as np

    files = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
        for _ in range(30):
            corner = rng.integers(0, (500, 375))
            colour = [int(c) for c in rng.integers(0, 256, 3)]
            cv2.circle(image, [int(c) for c in corner], int(rng.integers(4, 60)), colour, -1)
        noise = rng.normal(0, 8, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return files


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m toco_jax.benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)

    def add(function: Callable) -> argparse.ArgumentParser:
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(run=function)
        command.add_argument("--repeats", type=int, default=5, help="rounds after the warm-up")
        command.add_argument("--json", type=pathlib.Path, help="write the rows to this file")
        return command

    command = add(pipeline)
    command.add_argument("--images", type=int, default=24, help="files a round")
    command.add_argument("--size", type=int, default=448, help="side of the views in pixels")
    return top


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one sub-command."""
    args = parser().parse_args(arguments)
    title, rows = args.run(args)
    show(title, rows)
    if args.json:
        args.json.write_text(json.dumps({"title": title, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
