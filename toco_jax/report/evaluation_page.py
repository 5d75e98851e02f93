"""`evaluation.html`: what `evaluate` found, beside `evaluation.json`."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from toco_jax.report import blocks, html, scores
from toco_jax.report.blocks import Block
from toco_jax.runtime.outputs import write_atomically

FILE = "evaluation.html"


def write(
    folder: pathlib.Path,
    found: Mapping[str, Any],
    *,
    run: pathlib.Path,
    config: Mapping[str, Any],
) -> pathlib.Path:
    """Writes the page and returns its path.

    Args:
        folder: the folder of the results.
        found: what `evaluation.json` holds.
        run: the run's folder.
        config: its configuration, nested.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / FILE
    rows = [row | {"of": found} for row in found["rows"]]
    about = {key: value for key, value in found.items() if not isinstance(value, list)}
    about = {"run": run.absolute()} | about
    data = {
        "title": f"Evaluation of {'/'.join(run.absolute().parts[-2:])}",
        "about": f"{found['split']}, {found['images']} images, step {found['step']}",
        "remarks": [],
        "sections": [
            blocks.section("Result", scores.cards(rows, found["protocol"]), scores.table(rows)),
            blocks.section("Published scores", scores.published_table(config, rows)),
            blocks.section("Thresholds", _thresholds(rows)),
            blocks.section("Classes", scores.by_class(rows)),
            blocks.section("Images", _extremes(rows, "worst"), _extremes(rows, "best")),
            blocks.section("How it was made", blocks.facts("", about)),
        ],
    }
    write_atomically(path, html.page(f"{data['title']}: ToCo", data))
    return path


def _thresholds(rows: Sequence[Mapping[str, Any]]) -> Block | None:
    """Returns the mIoU of CAMs by the value up to which a pixel is background."""
    series = [
        {
            "name": scores.name_of(row),
            "x": row["sweep"]["thresholds"],
            "y": row["sweep"]["miou"],
        }
        for row in rows
        if "sweep" in row
    ]
    chart = blocks.chart("mIoU by threshold", series, unit="%", axis="threshold")
    return None if chart is None else blocks.charts(chart)


def _extremes(rows: Sequence[Mapping[str, Any]], kind: str) -> Block | None:
    lines = [
        [
            scores.name_of(row),
            row["description"],
            "; ".join(f"{one['name']} ({one['miou']:.1f})" for one in row[kind]),
        ]
        for row in rows
        if row[kind]
    ]
    title = f"The {kind} images, by their own mIoU in percent"
    return blocks.table(["made from", "protocol", kind], lines, title=title)
