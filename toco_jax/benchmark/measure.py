"""Times, rates and tables."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from toco_jax.runtime.device_memory import planned_bytes
from toco_jax.runtime.machine import hardware

Row = dict[str, Any]
Tables = dict[str, list[Row]]


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of this process's threads that a call takes."""
    began = time.process_time()
    jax.block_until_ready(work())
    return time.process_time() - began


def wall_seconds(work: Callable[[], Any]) -> float:
    """Time that a call takes until its arrays are there."""
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def wall_and_cpu_seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Both of the above. On a CPU the second is what one core would need."""
    began = time.process_time()
    wall = wall_seconds(work)
    return wall, time.process_time() - began


def medians(
    works: Mapping[Any, Callable[[], Any]],
    *,
    repeats: int,
    measure: Callable[[Callable[[], Any]], Any] = wall_seconds,
) -> dict[Any, Any]:
    """Median measure of each work: all once for warming up, then `repeats` rounds in turns.

    A measure of several numbers gives a list of medians.
    """
    for work in works.values():
        jax.block_until_ready(work())
    taken: dict[Any, list] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            taken[name].append(measure(work))
    return {name: np.median(values, axis=0).tolist() for name, values in taken.items()}


def flops(compiled: jax.stages.Compiled) -> float:
    """Floating-point operations of one device's program as XLA counts them.

    A loop's body is counted once, however often it runs: 0.0 where XLA does not say.
    """
    analysis = compiled.cost_analysis() or {}
    return float(analysis.get("flops", 0.0))


def matrix_rate(dtype: Any, *, size: int | None = None, repeats: int = 5) -> float:
    """FLOP/s of a square matrix product on one device: the peak that it really reaches.

    Args:
        dtype: of the factors; the precision is JAX's default, as in the network.
        size: rows and columns; by default 2048 on a CPU and 8192 elsewhere.
        repeats: products, of which the median counts.
    """
    size = size or (2048 if jax.default_backend() == "cpu" else 8192)
    matrix = jnp.full((size, size), 1 / size, dtype)
    product = jax.jit(jnp.matmul)
    seconds = medians({"product": lambda: product(matrix, matrix)}, repeats=repeats)["product"]
    return 2 * size**3 / seconds


def peak_bytes(compiled: jax.stages.Compiled) -> tuple[int, str]:
    """Most memory a device has used so far, or else what a program's plan says, and which it is."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "measured"
    return planned_bytes(compiled), "planned"


def shown(value: Any) -> str:
    """A table cell: three or four digits that mean something."""
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(title: str, rows: Sequence[Row]) -> None:
    """Prints rows of equal keys as a table; a single row is turned upright."""
    upright = len(rows) == 1
    table = Table(title=title, show_header=not upright)
    headings = ["", ""] if upright else list(rows[0])
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for cells in rows[0].items() if upright else (row.values() for row in rows):
        table.add_row(*(shown(cell) for cell in cells))
    Console().print(table)


def save(path: pathlib.Path, command: str, tables: Tables) -> None:
    """Writes the hardware and the tables as JSON."""
    content = {"command": command, "hardware": hardware(), "tables": tables}
    path.write_text(json.dumps(content, indent=1) + "\n")
