"""Measures how long the stages of a pipeline are busy, as a sum over threads."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds each stage is busy; stages that run at once exceed the wall clock."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Adds the duration of a `with` block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Adds seconds that were measured elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    def report(self, images: int) -> str:
        """Returns a line with the seconds per image and the share of each stage."""
        total = sum(self.seconds.values())
        parts = [
            f"{stage} {seconds / max(images, 1):.3f} s ({100 * seconds / max(total, 1e-9):.0f} %)"
            for stage, seconds in self.seconds.items()
        ]
        return "busy per image: " + ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """Formats `93784` as `1d 02:03:04`, and less than a day as `02:03:04`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}d {clock}" if days else clock
