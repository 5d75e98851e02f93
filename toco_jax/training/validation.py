"""Scores of the validation split while a run trains, and the picture at its end."""

import functools
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict

from toco_jax.evaluation import scoring, shares
from toco_jax.evaluation.squashed import SquashedPass
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
        params = local_copy(evaluated_params(state.params, state.extra), local_mesh())
        picture = samples.draw(
            list(self.run_pass.predictions(params, samples.spread(len(self.source)))),
            class_names=self.source.class_names,
            high_thre=self.config.high_thre,
            low_thre=self.config.low_thre,
            num_present=self.source.num_present,
        )
        picture.save(path)
