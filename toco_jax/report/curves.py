"""Curves that a screen can show: long ones thinned, those of several seeds as mean and band."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from toco_jax.report.reading import Curve

_POINTS = 200


def series(name: str, curve: Curve) -> dict[str, Any]:
    """Returns a curve for a chart, of at most some hundred points, each the mean of its steps."""
    x, y = thinned(curve)
    return {"name": name, "x": _rounded(x), "y": _rounded(y)}


def band(name: str, curves: Sequence[Curve]) -> dict[str, Any]:
    """Returns the mean of several curves for a chart, with the lowest and the highest of them.

    It ends where the shortest of them does.
    """
    if len(curves) == 1:
        return series(name, curves[0])
    thin = [thinned(curve) for curve in curves]
    first = max(x[0] for x, _ in thin)
    last = max(first, min(x[-1] for x, _ in thin))
    longest = max((x for x, _ in thin), key=len)
    grid = np.unique([first, *longest[(longest > first) & (longest < last)], last])
    values = np.array([np.interp(grid, x, y) for x, y in thin])
    found = {"y": values.mean(axis=0), "low": values.min(axis=0), "high": values.max(axis=0)}
    return {"name": name, "x": _rounded(grid)} | {key: _rounded(y) for key, y in found.items()}


def thinned(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Returns steps and values of a curve as float arrays `[N]`, N at most some hundred.

    Neighbouring points are averaged; the first and the last stay as they are.
    """
    x, y = (np.asarray(part, np.float64) for part in curve)
    if len(x) <= _POINTS:
        return x, y
    edges = np.linspace(1, len(x) - 1, _POINTS - 1).astype(int)[:-1]
    counts = np.diff([*edges, len(x) - 1])
    middle = [np.add.reduceat(part[:-1], edges) / counts for part in (x, y)]
    inner_x, inner_y = middle
    return np.array([x[0], *inner_x, x[-1]]), np.array([y[0], *inner_y, y[-1]])


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
