"""How long the stages of a pipeline are busy, added up over threads."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Busy seconds by stage. Stages that run side by side add up to more than the wall clock."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Counts the time of a `with` block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def add(self, stage: str, seconds: float) -> None:
        """Counts seconds measured elsewhere."""
        with self._lock:
            self.seconds[stage] += seconds

    def report(self, images: int) -> str:
        """One line: seconds an image and share of each stage."""
        total = sum(self.seconds.values())
        parts = [
            f"{stage} {seconds / max(images, 1):.3f} s ({100 * seconds / max(total, 1e-9):.0f} %)"
            for stage, seconds in self.seconds.items()
        ]
        return "busy per image: " + ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """`93784` as `1d 02:03:04`, without the days where there are none."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour:02d}:{minute:02d}:{second:02d}"
    return f"{days}d {clock}" if days else clock
