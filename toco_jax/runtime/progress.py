"""Shows how far a task is: a bar on a terminal, a line every few seconds anywhere else."""

import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from toco_jax.runtime.console import printable, say
from toco_jax.runtime.stopwatch import format_seconds

_MEGABYTE = 1e6


def say_aside(text: object) -> None:
    """Prints a line on stderr."""
    say(text, error=True)


class Progress:
    """Counts what is done of a task and shows it as long as a `with` block runs.

    Args:
        what: name of the task.
        total: units in the task; None if that is not known yet.
        unit: what is counted; "MB" counts bytes and shows megabytes.
        report: receives the lines. If it is `say` or `say_aside` and prints to a terminal, there is
            a bar in place of lines.
        every: seconds between lines.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        *,
        unit: str = "images",
        report: Callable[[str], None] = say,
        every: float = 5.0,
    ):
        self._what, self._total, self._unit = what, total, unit
        self._report, self._every = report, every
        self._done = 0
        self._began = self._shown = time.perf_counter()
        self._bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if self._report not in (say, say_aside):
            return self
        stream = sys.stderr if self._report is say_aside else sys.stdout
        console = Console(file=stream)
        # Rich alone takes a pipe for a terminal where FORCE_COLOR is set.
        if stream.isatty() and console.is_interactive:
            # What is printed meanwhile goes above the bar, unless it goes to a pipe or a file.
            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[amount]}", markup=False),
                TimeRemainingColumn(),
                console=console,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            name = printable(self._what, stream)
            self._task = self._bar.add_task(name, total=self._total, amount="")
            self._bar.start()
        return self

    def __exit__(self, *_exception) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self) -> None:
        """Counts one more unit."""
        self.update(self._done + 1)

    def update(self, done: int, total: int | None = None) -> None:
        """Sets how much is done, and the total if it is given."""
        self._done = done
        self._total = self._total if total is None else total
        if self._bar is not None:
            amount = f"{self._amount()}  {self._speed()}"
            self._bar.update(self._task, completed=done, total=self._total, amount=amount)
            return
        now = time.perf_counter()
        if now - self._shown >= self._every or done == self._total:
            self._shown = now
            self._report(f"{self._what}: {self._amount()}  {self._speed()}{self._time_left()}")

    def _amount(self) -> str:
        total = "" if self._total is None else f"/{self._number(self._total)}"
        return f"{self._number(self._done)}{total} {self._unit}"

    def _number(self, count: float) -> str:
        return f"{count / _MEGABYTE:.1f}" if self._unit == "MB" else f"{count:.0f}"

    def _rate(self) -> float:
        return self._done / max(time.perf_counter() - self._began, 1e-9)

    def _speed(self) -> str:
        return f"{self._rate() / (_MEGABYTE if self._unit == 'MB' else 1):.2f} {self._unit}/s"

    def _time_left(self) -> str:
        if self._total is None or not self._done:
            return ""
        return f"  ETA {format_seconds((self._total - self._done) / self._rate())}"


def follow(what: str, states: Iterable[tuple[int, int]]) -> int:
    """Exhausts an iterator of (images done, images in all), shows them, and returns the latter."""
    total = 0
    with Progress(what, report=say_aside) as progress:
        for done, total in states:
            progress.update(done, total)
    return total
