"""What a run carries from step to step."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a run carries from step to step. The key never changes: draws fold in the step."""

    step: jax.Array
    params: Any
    teacher_params: Any
    opt_state: Any
    key: jax.Array
