"""The training state, which checkpoints hold."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The training state between two steps.

    Attributes:
        step: number of steps taken, int32 `[]`.
        params: parameters of the network.
        teacher_params: parameters of the teacher's projection head.
        opt_state: state of the optimiser.
        key: random key of the run. It never changes; random draws fold in the step.
    """

    step: jax.Array
    params: Any
    teacher_params: Any
    opt_state: Any
    key: jax.Array

    def replace(self, **changes: Any) -> "TrainState":
        """Returns the state with other values of some fields."""
        return dataclasses.replace(self, **changes)
