"""Reads the files of a run for its report. Whoever made the folder may have written anything."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

from toco_jax.run import records
from toco_jax.run.records import CheckpointError
from toco_jax.runtime import json_text
from toco_jax.runtime.errors import clipped

# Evaluations whose pictures a page shows, and bytes of all of their files together.
_MOST_EVALUATIONS, _MOST_BYTES = 40, 5_000_000
_REMEDY = "restore it from a copy, or move it away"
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_PANELS = ("image", "truth", "CAM", "pseudo label", "segmentation")

Curve = tuple[list[int], list[float]]


@dataclasses.dataclass(frozen=True)
class StoredRun:
    """What the folder of a run holds.

    Attributes:
        folder: the folder.
        config: the configuration, nested as in `config.json`.
        curves: steps and values of each number of `metrics.jsonl`, by its name.
        evaluations: contents of `evaluations/`, in the order of the steps.
        results: scores after the last step, None before it.
        evaluated: scores that `evaluate` found, None if it was not called.
        start: which weights the run started from, None if that is not noted.
        changes: what changed when the run went on, in the order of time.
        remarks: sentences on what is left out.
    """

    folder: pathlib.Path
    config: dict[str, Any]
    curves: dict[str, Curve]
    evaluations: list[dict[str, Any]]
    results: dict[str, Any] | None
    evaluated: dict[str, Any] | None
    start: dict[str, Any] | None
    changes: list[dict[str, Any]]
    remarks: list[str]

    @property
    def scores(self) -> dict[str, Any] | None:
        """The newest scores of training or else those of `evaluate`, None before any."""
        if self.results is not None:
            return self.results
        return self.evaluations[-1]["scores"] if self.evaluations else self.evaluated

    @property
    def step(self) -> int:
        """The last step that was logged or evaluated."""
        steps = [curve[0][-1] for curve in self.curves.values()]
        steps += [entry["step"] for entry in self.evaluations]
        return max(steps, default=0)


def read_run(folder: pathlib.Path, *, results: dict[str, Any] | None = None) -> StoredRun:
    """Reads a run.

    Args:
        folder: the run's folder.
        results: scores after the last step; those in the folder if None.

    Raises:
        CheckpointError: it is no run, or a file that every run has is damaged.
    """
    path = folder / records.CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a run: it has no {records.CONFIG_FILE}; give the folder of a run, "
            "such as runs/voc"
        )
    config = records.read_json(path, remedy=_REMEDY)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} does not hold a configuration: {_REMEDY}")
    remarks: list[str] = []
    results = records.results(folder) if results is None else results
    return StoredRun(
        folder=folder,
        config=config,
        curves=_curves(folder),
        evaluations=_evaluations(folder, remarks),
        results=_usable(lambda: results, folder / records.RESULTS_FILE, remarks),
        evaluated=_evaluated(folder / records.EVALUATION_FILE, remarks),
        start=records.start(folder),
        changes=_changes(folder / records.CHANGES_FILE, remarks),
        remarks=remarks,
    )


def _evaluated(path: pathlib.Path, remarks: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return _usable(lambda: json_text.parse(path.read_text(encoding="utf-8")), path, remarks)


def _usable(
    load: Callable[[], Any], path: pathlib.Path, remarks: list[str]
) -> dict[str, Any] | None:
    """Returns the scores that `load` finds in a file; a remark says if they are damaged."""
    try:
        scores = load()
        return None if scores is None else checked_scores(scores)
    except (OSError, ValueError) as error:
        remarks.append(f"{path} is left out: {clipped(error, 200)}")
        return None


def checked_scores(scores: Any) -> dict[str, Any]:
    """Returns scores as they are, with `rows` that a page can rely on.

    Raises:
        ValueError: they are none, or of another form.
    """
    if not isinstance(scores, dict) or not isinstance(rows := scores.get("rows", []), list):
        raise ValueError("it holds no scores")
    for row in rows:
        texts = [row.get(key) for key in ("predictor", "protocol", "description")]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a row has no name")
        iou, confusion = row.get("iou"), row.get("confusion", [])
        if not isinstance(iou, dict) or not all(map(_is_score, iou.values())):
            raise ValueError("a row has no IoU of its classes")
        if not all(_is_score(row.get(key)) for key in ("miou", "pixel_accuracy", "cls_f1")):
            raise ValueError("a score is no number")
        if not isinstance(confusion, list) or not all(_is_counts(line) for line in confusion):
            raise ValueError("a confusion matrix holds something else than counts")
        if confusion and {len(iou)} != {len(confusion), *map(len, confusion)}:
            raise ValueError("a confusion matrix has another size than its classes")
    return scores | {"rows": rows}


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _is_counts(line: Any) -> bool:
    return isinstance(line, list) and all(isinstance(n, int) and 0 <= n < 2**63 for n in line)


def _curves(folder: pathlib.Path) -> dict[str, Curve]:
    curves: dict[str, Curve] = {}
    for step, line in records.metric_lines(folder):
        for name, value in json_text.parse(line).items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    return curves


def _evaluations(folder: pathlib.Path, remarks: list[str]) -> list[dict[str, Any]]:
    """Reads as many evaluations as a page can show, evenly spread, the last one included."""
    files = records.evaluations(folder)
    sizes = [path.stat().st_size for _, path in files]
    most = min(_MOST_EVALUATIONS, len(files))
    while most > 1 and sum(sizes[i] for i in _spread(len(files), most)) > _MOST_BYTES:
        most -= 1
    found = []
    for i in _spread(len(files), most):
        path = files[i][1]
        try:
            if sizes[i] > _MOST_BYTES:
                raise ValueError(f"it has {sizes[i]:,} bytes, more than a page holds")
            entry = json_text.parse(path.read_text(encoding="utf-8"))
            found.append(_checked_evaluation(entry) | {"step": files[i][0]})
        except (OSError, ValueError) as error:
            remarks.append(f"{path} is left out: {clipped(error, 200)}")
    return found


def _spread(count: int, most: int) -> list[int]:
    """Returns `most` indices evenly spread over `count`, the last one first among them."""
    return [count - 1 - i * (count - 1) // max(most - 1, 1) for i in reversed(range(most))]


def _checked_evaluation(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(pictures := entry.get("pictures"), dict):
        raise ValueError("it is no evaluation")
    groups = ("samples", "worst", "best")
    checked = {name: [_checked_picture(one) for one in pictures.get(name, ())] for name in groups}
    curves = {name: _points(entry.get(name)) for name in ("speed", "learning_rate")}
    about = {
        name: entry[name] if isinstance(entry.get(name), dict) else {}
        for name in ("memory", "hardware", "versions")
    }
    scores = checked_scores(entry.get("scores"))
    return entry | curves | about | {"scores": scores, "pictures": pictures | checked}


def _checked_picture(one: Any) -> dict[str, Any]:
    """Returns the pictures of an image, if each is the text of a picture and nothing else."""
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise ValueError("an image has no name")
    classes = one.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("an image has no classes")
    for panel in _PANELS:
        if not isinstance(one.get(panel), str) or not _BASE64.fullmatch(one[panel]):
            raise ValueError(f"the {panel} of an image is no picture")
    miou = {"miou": one["miou"]} if "miou" in one and _is_score(one["miou"]) else {}
    return {key: one[key] for key in ("name", "classes", *_PANELS)} | miou


def _points(points: Any) -> list[list[float]]:
    if not isinstance(points, list):
        return []
    return [
        point
        for point in points
        if isinstance(point, list) and len(point) == 2 and None not in point
        if all(map(_is_score, point))
    ]


def _changes(path: pathlib.Path, remarks: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        changes = [json_text.parse(line) for line in lines]
    except (OSError, ValueError) as error:
        remarks.append(f"{path} is left out: {clipped(error, 200)}")
        return []
    return [change for change in changes if isinstance(change, dict)]
