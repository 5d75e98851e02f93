"""Runs images through the network while others are read, prepared and post-processed."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from toco_jax.inference.buckets import Size
from toco_jax.inference.native import Maps, NativeNetwork, Prepared
from toco_jax.runtime.stopwatch import Stopwatch

# Number of frames whose images may wait for a batch to fill; prepared images take much memory.
_MAX_WAITING = 4

Job = TypeVar("Job")


def stream(
    network: NativeNetwork,
    jobs: Iterable[Job],
    read: Callable[[Job], dict[str, Any] | None],
    pool: ThreadPoolExecutor,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[dict[str, Any], Maps]]:
    """Yields records and the network's maps of their images.

    Images of one frame form a batch, so the order is not that of the jobs. While the devices
    compute a batch, threads read and prepare the following images.

    Args:
        network: the network.
        jobs: what to read, such as indices into a record source.
        read: returns the record of a job, with its `image`, or None to leave it out. Its exceptions
            are raised here.
        pool: threads for reading and scaling.
        watch: measures the stages `read`, `scale` and `network`.
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
        # Batches run one after the other, so a batch starts when the previous one ends.
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
    """Yields futures of `work(job)` in order, while `num` further ones are pending."""
    futures: deque = deque()
    for job in jobs:
        futures.append(pool.submit(work, job))
        if len(futures) > num:
            yield futures.popleft()
    while futures:
        yield futures.popleft()


def finished(
    network: NativeNetwork,
    jobs: Iterable[Job],
    read: Callable[[Job], dict[str, Any]],
    finish: Callable[[dict[str, Any], Maps], Any],
    *,
    num_threads: int,
    watch: Stopwatch | None = None,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yields each record with `finish(record, maps)`, computed in threads beside the network.

    See `stream` for the other arguments. Of the threads, `num_threads` read and one more finish.
    """
    num_finishers = num_threads + 1
    waiting: deque[tuple[dict, Future]] = deque()
    with ThreadPoolExecutor(num_threads) as readers, ThreadPoolExecutor(num_finishers) as finishers:
        for record, maps in stream(network, jobs, read, readers, watch):
            waiting.append((record, finishers.submit(finish, record, maps)))
            while waiting and (len(waiting) > 2 * num_finishers or waiting[0][1].done()):
                earlier, future = waiting.popleft()
                yield earlier, future.result()
        for record, future in waiting:
            yield record, future.result()
