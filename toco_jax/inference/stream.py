"""A split through the network: reading, passes and what comes after side by side."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from toco_jax.inference.native import Maps, NativeNetwork, Prepared, Size
from toco_jax.runtime.stopwatch import Stopwatch

# Frames of which images may wait for others to fill a batch: prepared images are large.
_MAX_WAITING = 4

Job = TypeVar("Job")


def stream(
    network: NativeNetwork,
    jobs: Iterable[Job],
    read: Callable[[Job], dict[str, Any] | None],
    pool: ThreadPoolExecutor,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[dict[str, Any], Maps]]:
    """Records and what the network says about them, batched by frame, so not in order.

    While the devices work on a batch the threads read and prepare what comes next.

    Args:
        network: the network.
        jobs: what to read, such as places in a record source.
        read: a job to a record with its `image`, or None to leave it out; what it raises is raised
            here.
        pool: threads for reading and scaling.
        watch: counts the stages `read`, `scale` and `network`.
    """
    watch = Stopwatch() if watch is None else watch
    last_end = 0.0

    def prepare(job: Job) -> tuple[dict, Prepared] | None:
        with watch("read"):
            record = read(job)
        if record is None:
            return None
        with watch("scale"):
            return record, network.prepare(record["image"])

    ahead = (future.result() for future in _lookahead(prepare, jobs, pool, network.batch_size + 2))
    waiting: dict[Size, list] = {}
    running: deque = deque()

    def start(group: list) -> None:
        records, prepared = zip(*group, strict=True)
        running.append((time.perf_counter(), records, network.start(list(prepared))))

    def finish() -> Iterator[tuple[dict, Maps]]:
        nonlocal last_end
        began, records, wait = running.popleft()
        maps = wait()
        # Batches run one after the other: a batch's time starts when the one before is done.
        began, last_end = max(began, last_end), time.perf_counter()
        watch.add("network", last_end - began)
        yield from zip(records, maps, strict=True)

    for item in filter(None, ahead):
        group = waiting.setdefault(item[1].frame, [])
        group.append(item)
        if len(group) == network.batch_size:
            start(waiting.pop(item[1].frame))
        elif len(waiting) > _MAX_WAITING:
            start(waiting.pop(next(iter(waiting))))
        if len(running) > 1:
            yield from finish()
    for group in waiting.values():
        start(group)
        if len(running) > 1:
            yield from finish()
    while running:
        yield from finish()


def _lookahead(work: Callable, jobs: Iterable, pool: ThreadPoolExecutor, num: int) -> Iterator:
    """Futures of `work(job)` in order, with `num` of them under way."""
    futures: deque = deque()
    for job in jobs:
        futures.append(pool.submit(work, job))
        if len(futures) > num:
            yield futures.popleft()
    while futures:
        yield futures.popleft()


def finished(
    results: Iterable[tuple[dict[str, Any], Maps]],
    finish: Callable[[dict[str, Any], Maps], Any],
    pool: ThreadPoolExecutor,
    *,
    ahead: int,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Records and what `finish` makes of them, in threads while the network goes on.

    Args:
        results: as `stream` gives them.
        finish: a record and its maps to anything.
        pool: threads for `finish`.
        ahead: most images that may wait for it.
    """
    waiting: deque[tuple[dict, Future]] = deque()
    for record, maps in results:
        waiting.append((record, pool.submit(finish, record, maps)))
        while waiting and (len(waiting) > ahead or waiting[0][1].done()):
            earlier, future = waiting.popleft()
            yield earlier, future.result()
    for record, future in waiting:
        yield record, future.result()
