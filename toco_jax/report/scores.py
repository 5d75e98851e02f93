"""Scores as blocks of a page: large, as tables, beside the published ones, and by class.

A row is one of `rows` in the scores of an evaluation; where its `of` is asked for, that is what the
row was scored on, the scores that it stands in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from toco_jax.report import blocks, published
from toco_jax.report.blocks import PREDICTORS, Block

Row = Mapping[str, Any]

_CLASS_NOTE = (
    "A row of the matrix is what became of the pixels of a true class, in percent. CAMs are scored "
    "with the labels of the image given."
)


def name_of(row: Row) -> str:
    """Returns the name of what made the masks of a row."""
    return str(PREDICTORS.get(row["predictor"], row["predictor"]))


def cards(rows: Sequence[Row], protocol: str | None) -> Block:
    """Returns the mIoU of each predictor by one protocol, large."""
    top = [row for row in rows if row["protocol"] == protocol] or rows
    return blocks.cards(
        (name_of(row), row["miou"], f"mIoU, %: {row['description']}") for row in top
    )


def table(rows: Sequence[Row]) -> Block | None:
    """Returns the table of all scores; `of` of each row is what it was scored on."""
    lines = [
        [
            name_of(row),
            blocks.percent(row["miou"]),
            row["description"],
            *(blocks.percent(row.get(key)) for key in ("pixel_accuracy", "cls_f1")),
            f"{row['of'].get('split')}, {row['of'].get('images')} images",
            str(row["of"].get("step")),
        ]
        for row in rows
    ]
    head = ["made from", "mIoU", "protocol", "pixel accuracy", "F1", "scored on", "step"]
    note = "In percent. The mIoU is the mean over the classes that the truth holds."
    return blocks.table(head, lines, title="All scores", note=note)


def published_table(config: Mapping[str, Any], rows: Sequence[Row]) -> Block | None:
    """Returns the published scores of the data set beside those of the same protocols."""
    split = rows[0]["of"].get("split", "") if rows else ""
    ours = {(row["predictor"], row["protocol"]): row["miou"] for row in rows}
    lines = [
        [name_of(row), row["description"]]
        + [blocks.percent(ours.get((row["predictor"], row["protocol"])))]
        + [blocks.percent(value) for value in row["miou"].values()]
        for row in published.rows(config, split)
    ]
    head = ["made from", "protocol", "this run", "published, deit_base", "published, vit_base"]
    note = "mIoU in percent, published by the authors of ToCo for the data set's val."
    return blocks.table(head, lines, title="Beside the published scores", note=note)


def baselines(scores: Mapping[str, Any]) -> Block | None:
    """Returns the scores of the baselines that training added to its results."""
    found = scores.get("baselines")
    if not isinstance(found, dict):
        return None
    lines = [
        [name.replace("_", " "), blocks.percent(value)]
        for name, value in found.items()
        if isinstance(value, int | float)
    ]
    return blocks.table(["baseline", "mIoU"], lines, title="Without a network")


def by_class(rows: Sequence[Row]) -> Block | None:
    """Returns the IoU per class and the confusion matrices of all rows."""
    labelled = [
        dict(row) | {"label": f"{name_of(row)}, {row['description']}, {row['of'].get('split')}"}
        for row in rows
    ]
    return blocks.classes(labelled, note=_CLASS_NOTE)
