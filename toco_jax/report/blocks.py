"""The blocks that pages are made of, as values for `assets/page.js`.

A page is `{"title", "about", "remarks", "sections"}`; a section is a title and blocks; a block is a
dict with a `type`, made by one of these functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from toco_jax.data.classes import palette
from toco_jax.data.label_maps import BASELINES, MAPS

Block = dict[str, Any]

PREDICTORS = MAPS | {"aux_cam": "auxiliary CAM"} | BASELINES
_MOST_MATRIX_LABELS = 64
_MOST_BARS = 200
_IGNORED = "uncertain or ignored"


def section(title: str, *blocks: Block | None) -> dict[str, Any]:
    """Returns a section of the blocks that are not None."""
    return {"title": title, "blocks": [block for block in blocks if block is not None]}


def percent(value: float | None) -> str:
    """Returns a score as people read it."""
    return "-" if value is None else f"{value:.1f}"


def cards(items: Iterable[tuple[str, float | None, str]]) -> Block:
    """Returns large numbers in percent: name, value and what they were measured by."""
    shown = [{"name": name, "value": percent(value), "note": note} for name, value, note in items]
    return {"type": "cards", "items": shown}


def table(
    head: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "", note: str = ""
) -> Block | None:
    """Returns a table, its first column of names; None without rows."""
    if not rows:
        return None
    return {"type": "table", "title": title, "head": head, "rows": rows, "note": note}


def heading(words: str) -> Block:
    """Returns a heading within a section."""
    return {"type": "heading", "text": words}


def text(words: str) -> Block:
    """Returns a paragraph."""
    return {"type": "text", "text": words}


def facts(title: str, values: Mapping[str, Any], *, is_open: bool = True) -> Block | None:
    """Returns names and values, to be unfolded unless `is_open`; None without any."""
    if not values:
        return None
    rows = [[name, str(value)] for name, value in values.items()]
    return {"type": "facts", "title": title, "rows": rows, "open": is_open}


def chart(
    title: str,
    series: Sequence[dict[str, Any]],
    *,
    unit: str = "",
    axis: str = "step",
    log: bool = False,
    noisy: bool = False,
) -> Block | None:
    """Returns curves for a chart; None without any.

    Args:
        title: what the curves are of.
        series: see `curves.series`.
        unit: unit of the values.
        axis: what the values change with.
        log: whether the values' axis is logarithmic at first, if all are positive.
        noisy: whether curves are smoothed at first.
    """
    drawn = [one for one in series if one["x"]]
    if not drawn:
        return None
    about = {"title": title, "unit": unit, "axis": axis, "log": log, "noisy": noisy}
    return {"type": "chart", "series": drawn} | about


def charts(*parts: Block | None) -> Block:
    """Returns charts side by side where there is room."""
    return {"type": "charts", "charts": [part for part in parts if part is not None]}


def classes(rows: Sequence[Mapping[str, Any]], *, note: str = "") -> Block | None:
    """Returns IoU per class and confusion matrices, of which the reader picks one row at a time.

    Args:
        rows: each with `label`, what the row is called; `iou`, percent by class; and, if there is
            one, `confusion`, whose rows are the truth.
        note: a sentence below.
    """
    if not rows:
        return None
    shown = []
    for row in rows:
        names = list(row["iou"])
        kept = names[:_MOST_BARS]
        one = {"label": row["label"], "names": kept, "iou": [row["iou"][name] for name in kept]}
        if confusion := row.get("confusion"):
            one |= _matrix(np.asarray(confusion, np.float64), names)
        shown.append(one)
    return {"type": "classes", "rows": shown, "note": note}


def _matrix(confusion: np.ndarray, names: list[str]) -> dict[str, Any]:
    """The shares in percent of each true class; of many classes those with the most pixels."""
    truth = confusion.sum(axis=1)
    largest = np.sort(np.argsort(-truth, kind="stable")[:_MOST_MATRIX_LABELS])
    shares = 100 * confusion / np.maximum(truth, 1)[:, None]
    shown = shares[np.ix_(largest, largest)].round(2)
    left_out = len(names) - len(largest)
    note = f"{left_out} classes with fewer pixels are not shown" if left_out else ""
    return {
        "matrix": {"names": [names[i] for i in largest], "shares": shown.tolist(), "note": note}
    }


def grouped(groups: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> Block | None:
    """Returns bars of every class, side by side for several groups of runs."""
    if not rows:
        return None
    kept = list(rows)[:_MOST_BARS]
    return {"type": "grouped", "groups": groups, "names": kept, "iou": [rows[k] for k in kept]}


def pictures(
    panels: Sequence[str],
    images: Sequence[Mapping[str, Any]],
    labels: Sequence[tuple[int, str]],
    *,
    title: str = "",
    steps: Sequence[int] = (),
) -> Block | None:
    """Returns rows of pictures, with a slider if there are several steps; None without images.

    Args:
        panels: names of the pictures of an image.
        images: each with `name`, `note`, and `pictures`: by panel base64, None or, for a picture
            that changes, a list of these, one for each step.
        labels: number and name of the labels that the legend explains.
        title: what these pictures are.
        steps: the steps of training.
    """
    if not images:
        return None
    legend = [[name, colour(label)] for label, name in labels]
    return {
        **{"type": "pictures", "title": title, "panels": panels, "steps": steps},
        **{"images": images, "legend": legend},
    }


def legend(classes: Sequence[str], present: Iterable[str], *, most: int = 32) -> list:
    """Returns the labels for a legend: all, or if they are many those of the classes `present`."""
    shown = set(present) if len(classes) > most else set(classes)
    named = [(k, name) for k, name in enumerate(classes, 1) if name in shown]
    return [(0, "background"), *named, (255, _IGNORED)]


def colour(label: int) -> str:
    """Returns the colour of a label as CSS writes it."""
    return "#" + bytes(palette()[label % 256]).hex()
