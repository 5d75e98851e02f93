"""The scores of an ablation: mean and spread over the seeds of each variant, as data and tables."""

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from toco_jax.evaluation.scoring import shown
from toco_jax.run.records import RESULTS_FILE, CheckpointError
from toco_jax.runtime.console import say_table
from toco_jax.training.grids import Variant

# A score of `results.json`, its heading, and the loss terms that train the layer it is made by.
_SCORES = {
    "seg_miou": ("segmentation", ("seg", "reg", "sup")),
    "cam_miou": ("CAM", ("cls",)),
    "aux_cam_miou": ("auxiliary CAM", ("cls_aux",)),
    "cls_f1": ("F1", ("cls",)),
}
_HEADINGS = ("variant", "seeds", *(heading for heading, _ in _SCORES.values()))


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of a variant.

    Attributes:
        variant: the variant.
        config: its configuration.
        results: the contents of `results.json` of each run, by its folder; None for a run that is
            not finished.
    """

    variant: Variant
    config: ConfigDict
    results: Mapping[pathlib.Path, dict[str, Any] | None]

    def summary(self) -> dict[str, Any]:
        """Returns the variant, its scores and its runs as JSON values.

        A score is None where no run has it, and where no loss term trains what it is a score of,
        such as the mask of a variant without segmentation.

        Raises:
            CheckpointError: the results of a run hold something else than scores.
        """
        finished = {folder: found for folder, found in self.results.items() if found is not None}
        untrained = [key for key, (_, terms) in _SCORES.items() if not self._is_trained(terms)]
        measured = {
            folder: {key: _score(found, key, folder) for key in _SCORES}
            for folder, found in finished.items()
        }
        scores = {
            key: None if key in untrained else _spread([run[key] for run in measured.values()])
            for key in _SCORES
        }
        runs = [
            {"folder": f"{self.variant.name}/{folder.name}", "step": finished[folder].get("step")}
            | run
            for folder, run in measured.items()
        ]
        about = {"name": self.variant.name, "set": list(self.variant.words)}
        counts = {"seeds_finished": len(finished), "seeds": len(self.results)}
        return about | counts | {"scores": scores, "not_trained": untrained, "runs": runs}

    def _is_trained(self, terms: Sequence[str]) -> bool:
        return any(
            weight > 0 and start < self.config.total_steps
            for term in terms
            for start, weight in self.config.loss_weights[term]
        )


def _score(results: Mapping[str, Any], key: str, folder: pathlib.Path) -> float | None:
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


def markdown(title: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of some variants in Markdown."""
    lines = [_HEADINGS, ("---",) * len(_HEADINGS), *map(cells, summaries)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}\n\n{table}\n"


def say_rows(title: str, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Prints the table of some variants."""
    say_table(title, _HEADINGS, map(cells, summaries))
