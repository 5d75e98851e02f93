"""Phases of a run: the loss weights in force at a step, and the map that becomes labels."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from jax import Array
from ml_collections import ConfigDict

from toco_jax.config import LOSS_TERMS

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Phase:
    """The part of the configuration that changes during a run.

    Attributes:
        weights: pairs (term, weight) of every loss term; a term of weight 0 is not computed.
        pseudo_label_cam: the map that segmentation labels are made from, such as `"cam"`.
    """

    weights: tuple[tuple[str, float], ...]
    pseudo_label_cam: str

    @property
    def active(self) -> dict[str, float]:
        """The weights of the terms that are computed."""
        return {term: weight for term, weight in self.weights if weight}

    def weight(self, term: str) -> float:
        """Weight of a loss term in this phase."""
        return dict(self.weights)[term]


def value_at(changes: Sequence[tuple[int, T]], step: int) -> T:
    """The value at `step` of a schedule `((from_step, value), ...)`, its steps ascending."""
    return [value for start, value in changes if start <= step][-1]


def phase_at(config: ConfigDict, step: int) -> Phase:
    """The phase in force at a step."""
    weights = tuple((term, float(value_at(config.loss_weights[term], step))) for term in LOSS_TERMS)
    return Phase(weights, value_at(config.pseudo_label_cam, step))


def weighted(seen: dict[str, Array], weights: dict[str, float]) -> tuple[Any, dict[str, Any]]:
    """Returns the weighted sum of loss terms; and all of `seen`, with the terms as `"terms"`."""
    total = sum(weight * seen[term] for term, weight in weights.items())
    terms = {term: seen[term] for term in weights} | {"total": total}
    return total, seen | {"terms": terms}
