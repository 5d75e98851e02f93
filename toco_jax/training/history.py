"""Keeps what every evaluation of a run found, with pictures, and refreshes the run's report."""

import base64
import io
import json
import pathlib
import resource
import sys
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from toco_jax.data.mask_files import encode_mask
from toco_jax.report import run_page
from toco_jax.report.aside import aside
from toco_jax.run import records
from toco_jax.run.state import TrainState
from toco_jax.runtime import json_text, machine
from toco_jax.runtime.device_memory import peak_bytes
from toco_jax.runtime.outputs import write_atomically
from toco_jax.runtime.processes import is_first
from toco_jax.training import samples
from toco_jax.training.optim import poly_warmup_factor
from toco_jax.training.validation import Evaluator

# Longest side of a picture in pixels, quality of a JPEG.
_SIDE, _QUALITY = 160, 80
# Points of a curve that a file keeps.
_POINTS = 300
# A confusion matrix of more labels is left out: a file of numbers that nobody looks at.
_MOST_LABELS = 128


class History:
    """Writes `evaluations/<step>.json` and `report.html` of a run, in the first of its processes.

    Files beyond `start_step` are removed first, because their steps are about to be run again. What
    cannot be written is named in a line, and the run goes on.

    Args:
        config: the run's configuration.
        workdir: its folder.
        evaluator: predicts the pictures.
        start_step: the step that the run goes on from.
    """

    def __init__(
        self, config: ConfigDict, workdir: pathlib.Path, evaluator: Evaluator, *, start_step: int
    ):
        self._workdir, self._evaluator = workdir, evaluator
        self._curves: dict[str, list] = {"speed": [], "learning_rate": []}
        if not is_first():
            return
        with aside(workdir / records.EVALUATIONS):
            (workdir / records.EVALUATIONS).mkdir(exist_ok=True)
            for step, path in records.evaluations(workdir):
                if step > start_step:
                    path.unlink()
        self._curves = _curves_so_far(workdir)
        steps = np.unique(np.linspace(start_step, config.total_steps - 1, _POINTS).astype(np.int32))
        factors = poly_warmup_factor(
            jnp.asarray(steps), warmup_steps=config.warmup_steps, total_steps=config.total_steps
        )
        self._rates = [
            [int(step) + 1, config.learning_rate * float(factor)]
            for step, factor in zip(steps, np.asarray(factors), strict=True)
        ]

    def add(
        self,
        state: TrainState,
        scores: dict[str, Any],
        *,
        seconds: float,
        speeds: list[tuple[int, float]],
    ) -> None:
        """Writes an evaluation and the report.

        Args:
            state: the state that was evaluated.
            scores: what the evaluation found.
            seconds: the time that training took so far.
            speeds: step and images/s of the lines since the last evaluation; the list is emptied.
        """
        if not is_first():
            return
        step = int(state.step)
        path = self._workdir / records.EVALUATIONS / f"{step}.json"
        with aside(path):
            self._curves["speed"] = _thinned([*self._curves["speed"], *map(list, speeds)])
            rates = [*self._curves["learning_rate"], *(r for r in self._rates if r[0] <= step)]
            entry = {
                "step": step,
                "seconds": round(seconds, 1),
                "scores": _without_large(scores),
                "speed": self._curves["speed"],
                "learning_rate": _thinned(rates),
                "memory": {"device": peak_bytes(), "host": _peak_of_process()},
                "hardware": machine.hardware() | {"processes": jax.process_count()},
                "versions": machine.versions(),
                "command": machine.command(),
                "pictures": self._pictures(state, scores),
            }
            write_atomically(path, json.dumps(entry) + "\n")
            speeds.clear()
        self.write_report()

    def write_report(self, results: dict[str, Any] | None = None) -> None:
        """Writes the report, with the results of a run that has just been finished."""
        if is_first():
            with aside(self._workdir / records.REPORT_FILE):
                run_page.write(self._workdir, results=results)

    def _pictures(self, state: TrainState, scores: dict[str, Any]) -> dict[str, Any]:
        """Returns the pictures of a few images, and of those with the lowest and highest mIoU."""
        names = list(self._evaluator.source.names)
        places = samples.spread(len(names))
        pictures = {"samples": [_encoded(one) for one in self._evaluator.panels(state, places)]}
        chosen = scores["rows"][0]  # of the first map that is trained
        places = [names.index(image["name"]) for kind in _EXTREMES for image in chosen[kind]]
        drawn = [_encoded(one) for one in self._evaluator.panels(state, places)] if places else []
        for kind in _EXTREMES:
            mious = [{"miou": image["miou"]} for image in chosen[kind]]
            found, drawn = drawn[: len(mious)], drawn[len(mious) :]
            pictures[kind] = [one | miou for one, miou in zip(found, mious, strict=True)]
        return pictures | {"predictor": chosen["predictor"]}


_EXTREMES = ("worst", "best")


def _encoded(panel: dict[str, Any]) -> dict[str, Any]:
    """Returns the pictures of an image as base64 of a JPEG, or of a PNG where they are labels."""
    about = {"name": panel["name"], "classes": panel["classes"]}
    return about | {column: _as_text(panel[column]) for column in samples.COLUMNS}


def _as_text(picture: np.ndarray) -> str:
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    size = tuple(max(round(side * scale), 1) for side in picture.shape[1::-1])
    is_label = picture.ndim == 2
    # Colours repeat after 256 labels, and no picture of them shows more.
    kept = np.uint8(picture.astype(np.int32) % 256) if is_label else picture
    small = cv2.resize(kept, size, interpolation=cv2.INTER_NEAREST if is_label else cv2.INTER_AREA)
    if is_label:
        return base64.b64encode(encode_mask(small)).decode()
    content = io.BytesIO()
    Image.fromarray(small).save(content, "JPEG", quality=_QUALITY)
    return base64.b64encode(content.getvalue()).decode()


def _curves_so_far(workdir: pathlib.Path) -> dict[str, list]:
    """Returns the curves that the last evaluation kept; empty ones if there is none to be read."""
    for _, path in records.evaluations(workdir)[-1:]:
        try:
            entry = json_text.parse(path.read_text(encoding="utf-8"))
            return {name: list(entry[name]) for name in ("speed", "learning_rate")}
        except (OSError, ValueError, LookupError, TypeError):
            break  # the report says so
    return {"speed": [], "learning_rate": []}


def _thinned(points: list) -> list:
    chosen = np.linspace(0, len(points) - 1, min(len(points), _POINTS)).astype(int)
    return [points[i] for i in chosen]


def _without_large(scores: dict[str, Any]) -> dict[str, Any]:
    """Returns scores without the confusion matrices of very many labels."""
    rows = [
        {
            key: value
            for key, value in row.items()
            if key != "confusion" or len(value) <= _MOST_LABELS
        }
        for row in scores["rows"]
    ]
    return scores | {"rows": rows}


def _peak_of_process() -> int:
    """Returns the most memory in bytes that this process took at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
