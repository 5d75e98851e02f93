"""The package `wandb` as far as training uses it; keeps what it is told."""

import types
from typing import Any


class StandIn(types.ModuleType):
    """The package.

    Attributes:
        runs: the runs that were begun.
    """

    def __init__(self):
        super().__init__("wandb")
        self.runs: list[Run] = []

    def Settings(self, **options: Any) -> dict[str, Any]:
        return options

    def init(self, **options: Any) -> "Run":
        self.runs.append(Run(options))
        return self.runs[-1]


class Run:
    """A run: the options it was begun with, its points, and whether it was finished."""

    def __init__(self, options: dict[str, Any]):
        self.options, self.points, self.is_finished = options, [], False
        self.metrics: list[tuple[str, str | None]] = []

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.metrics.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        self.points.append(values)

    def finish(self) -> None:
        self.is_finished = True
