"""The scores of an ablation: mean and spread over the seeds of each variant, as data and tables."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from toco_jax.config.maps import scored_maps
from toco_jax.data.label_maps import MAPS
from toco_jax.evaluation.scoring import mean_iou, shown
from toco_jax.run.records import RESULTS_FILE, CheckpointError
from toco_jax.runtime.console import say_table
from toco_jax.training.grids import Variant

# The headings of maps, and of scores of `results.json`.
_MAPS = MAPS | {"aux_cam": "auxiliary CAM"}
_MEANS = {f"{name}_miou": heading for name, heading in _MAPS.items()}
_F1 = {"cls_f1": "F1"}
_LABELS = "_of_labels"  # the end of the name of a score over some labels


def headings(labels: Sequence[str]) -> dict[str, str]:
    """Returns the heading of each score by its name, with those over some labels if there are any.

    Args:
        labels: the labels that some of the scores are over.
    """
    some = {f"{name}{_LABELS}": f"{text}, {len(labels)} labels" for name, text in _MAPS.items()}
    return (some if labels else {}) | _MEANS | _F1


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a variant.

    Attributes:
        variant: the variant.
        config: its configuration.
        results: the contents of `results.json` of each run, by its folder; None for a run that is
            not finished.
        labels: names of labels over which the mIoU is given, too.
    """

    variant: Variant
    config: ConfigDict
    results: Mapping[pathlib.Path, dict[str, Any] | None]
    labels: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        """Returns the variant, its scores and its runs as JSON values.

        A score is None where no run has it, and where no loss term trains what it is a score of,
        such as the mask of a variant without segmentation.

        Raises:
            CheckpointError: the results of a run hold something else than scores.
        """
        finished = {folder: found for folder, found in self.results.items() if found is not None}
        keys, trained = headings(self.labels), scored_maps(self.config)
        untrained = [key for key in keys if _made_by(key) not in trained]
        measured = {
            folder: {key: _score(found, key, folder, self.labels) for key in keys}
            for folder, found in finished.items()
        }
        scores = {
            key: None if key in untrained else _spread([run[key] for run in measured.values()])
            for key in keys
        }
        runs = [
            {"folder": f"{self.variant.name}/{folder.name}", "step": finished[folder].get("step")}
            | run
            for folder, run in measured.items()
        ]
        about = {"name": self.variant.name, "set": list(self.variant.words)}
        counts = {"seeds_finished": len(finished), "seeds": len(self.results)}
        return about | counts | {"scores": scores, "not_trained": untrained, "runs": runs}


def _made_by(key: str) -> str:
    """Returns the map that has to be trained for a score to mean something."""
    return "cam" if key in _F1 else key.removesuffix("_miou").removesuffix(_LABELS)


def _score(
    results: Mapping[str, Any], key: str, folder: pathlib.Path, labels: Sequence[str]
) -> float | None:
    if key.endswith(_LABELS):
        rows = {row["predictor"]: row["iou"] for row in results.get("rows", ())}
        iou = rows.get(_made_by(key))
        return None if iou is None else mean_iou(iou, labels)
    score = results.get(key)
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    if score is not None and not (is_number and math.isfinite(score)):
        raise CheckpointError(
            f"{folder / RESULTS_FILE} has no number as {key}: move it away, and the same command "
            "writes it anew from the last checkpoint"
        )
    return score


def _spread(scores: Sequence[float | None]) -> dict[str, Any] | None:
    """Returns the mean, the lowest and the highest of the scores that there are, and their number.

    Returns None if there are none.
    """
    present = [score for score in scores if score is not None]
    if not present:
        return None
    lowest, highest = min(present), max(present)
    mean = statistics.fmean(present)
    return {"mean": mean, "lowest": lowest, "highest": highest, "seeds": len(present)}


def cells(summary: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the texts of a variant's row in a table."""
    finished, seeds = summary["seeds_finished"], summary["seeds"]
    count = str(seeds) if finished == seeds else f"{finished} of {seeds}"
    scores = (
        "not trained" if key in summary["not_trained"] else _cell(spread, finished)
        for key, spread in summary["scores"].items()
    )
    return (summary["name"], count, *scores)


def _cell(spread: Mapping[str, Any] | None, num_runs: int) -> str:
    if spread is None:
        return shown(None) if num_runs else ""
    text = shown(spread["mean"])
    if spread["seeds"] > 1:
        text += f" ({shown(spread['lowest'])} to {shown(spread['highest'])})"
    # Where some runs have no such score.
    return text if spread["seeds"] == num_runs else f"{text}, {spread['seeds']} of {num_runs}"


def _head(labels: Sequence[str]) -> tuple[str, ...]:
    return ("variant", "seeds", *headings(labels).values())


def markdown(title: str, summaries: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> str:
    """Returns the table of some variants in Markdown."""
    head = _head(labels)
    lines = [head, ("---",) * len(head), *map(cells, summaries)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}\n\n{table}\n"


def say_rows(
    title: str, summaries: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()
) -> None:
    """Prints the table of some variants."""
    say_table(title, _head(labels), map(cells, summaries))
