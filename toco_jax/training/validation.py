"""Scores and pictures of the validation split while a run trains."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from toco_jax.evaluation import scoring, shares
from toco_jax.evaluation.squashed import Prediction, SquashedPass
from toco_jax.models.network import ToCo
from toco_jax.run.state import TrainState, evaluated_params
from toco_jax.runtime.sharding import local_copy, local_mesh
from toco_jax.training import samples
from toco_jax.training.tracking import Tracker


class Evaluator:
    """Scores states on the validation split and draws what they predict.

    The processes share the split, each at its own pace on its own devices.
    """

    def __init__(self, config: ConfigDict, model: ToCo, source: Any):
        self.config, self.source = config, source
        size, batch_size = config.crop_size, config.batch_size // jax.process_count()
        self.run_pass = SquashedPass(config, model, source, size=size, batch_size=batch_size)

    def score(self, state: TrainState) -> scoring.Scores:
        """Scores a state and prints the table."""
        limit = self.config.eval_batches * self.config.batch_size
        protocol = str(self.config.crop_size)
        params = local_copy(evaluated_params(state.params, state.extra), local_mesh())
        counts = shares.count_split(
            [(protocol, functools.partial(self.run_pass, params))],
            count=min(limit, len(self.source)) if limit else len(self.source),
        )
        scores = scoring.summarize(
            counts, [protocol], config=self.config, step=int(state.step), source=self.source
        )
        scoring.print_tables(scores)
        return scores

    def __call__(self, state: TrainState, tracker: Tracker) -> scoring.Scores:
        """Scores a state, prints the table and logs the means."""
        scores = self.score(state)
        means = ("seg_miou", "cam_miou", "aux_cam_miou", "cls_f1")
        known = {f"val/{name}": scores[name] for name in means if scores[name] is not None}
        tracker.write(scores["step"], known)
        return scores

    def draw_samples(self, state: TrainState, path: pathlib.Path) -> None:
        """Writes a picture of a few validation images spread over the split."""
        found = self._predictions(state, samples.spread(len(self.source)))
        names = self.source.class_names
        samples.draw(found, class_names=names, **self._settings()).save(path)

    def panels(self, state: TrainState, places: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the pictures of up to `samples.NUM_SAMPLES` images, see `samples.panels`.

        Each also has the image's `name` and, under `classes`, the names of those in it.
        """
        found = self._predictions(state, places)
        pictures = samples.panels(found, **self._settings())
        names = np.array(self.source.class_names)
        return [
            one | {"name": record["name"], "classes": names[record["cls_label"] > 0].tolist()}
            for one, record in zip(pictures, (it.record for it in found), strict=True)
        ]

    def _predictions(self, state: TrainState, places: Sequence[int]) -> list[Prediction]:
        params = local_copy(evaluated_params(state.params, state.extra), local_mesh())
        return list(self.run_pass.predictions(params, places))

    def _settings(self) -> dict[str, Any]:
        thresholds = {name: self.config[name] for name in ("high_thre", "low_thre")}
        return thresholds | {"num_present": self.source.num_present}
