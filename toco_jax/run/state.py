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
        extra: what the method keeps beside the network, by name: `proj_head`, the parameters of the
            teacher's projection head; and with `config.ema_decay` `ema`, the parameters of the
            network averaged over the steps.
        opt_state: state of the optimiser.
        key: random key of the run. It never changes; random draws fold in the step.
    """

    step: jax.Array
    params: Any
    extra: dict[str, Any]
    opt_state: Any
    key: jax.Array

    def replace(self, **changes: Any) -> "TrainState":
        """Returns the state with other values of some fields."""
        return dataclasses.replace(self, **changes)


def evaluated_params(params: Any, extra: dict[str, Any]) -> Any:
    """Returns the parameters that are evaluated and given away: the averaged ones, if there are."""
    return extra.get("ema", params)
