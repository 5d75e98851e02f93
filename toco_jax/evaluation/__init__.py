"""Scores of a trained network on a split of a data set: `evaluate`."""

from toco_jax.evaluation.evaluator import evaluate
from toco_jax.evaluation.native import Extras
from toco_jax.evaluation.protocols import EvaluationError

__all__ = ["EvaluationError", "Extras", "evaluate"]
