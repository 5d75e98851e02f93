"""What a run carries from step to step."""

from typing import Any

import flax
import jax


@flax.struct.dataclass
class TrainState:
    """All that a run carries from step to step. The key never changes: draws fold in the step."""

    step: jax.Array
    params: Any
    teacher_params: Any
    opt_state: Any
    key: jax.Array
