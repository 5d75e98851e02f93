"""AdamW, its learning rates and its schedule, as in the published runs."""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

# The part of the network that is frozen as a whole, for which AdamW keeps no moments.
_FROZEN_PART = "img_encoder"
FROZEN = ("encoder/pos_embed", _FROZEN_PART)


def poly_warmup_factor(
    step: jax.Array | int,
    *,
    warmup_steps: int,
    total_steps: int,
    power: float = 0.9,
    warmup_ratio: float = 1e-6,
) -> jax.Array:
    """Returns the factor of the learning rate at `step`, float32 in [0, 1].

    The factor rises linearly from `warmup_ratio` to 1 during warm-up and is
    `(1 - step / total_steps) ** power` afterwards. It jumps where warm-up ends, because the second
    formula takes the global step; `optax.join_schedules` would restart it at 0. From `total_steps`
    on the factor keeps its last value.
    """
    step = jnp.minimum(jnp.asarray(step, jnp.int32), total_steps - 1)
    progress = step.astype(jnp.float32) / max(warmup_steps, 1)
    # The integers are subtracted before the division, so that the factor is exact near the end,
    # where `1 - step / total_steps`, which optax computes, loses its digits.
    remaining = (total_steps - step).astype(jnp.float32) / total_steps
    warmup = progress * (1 - warmup_ratio) + warmup_ratio
    return jnp.where(step < warmup_steps, warmup, remaining**power)


def learning_rate_scales(
    params: dict,
    *,
    head_lr_multiplier: float,
    projection_lr_multiplier: float,
    layer_lr_decay: float = 1.0,
) -> dict:
    """Returns each parameter's factor of the learning rate, a pytree like `params`.

    The factor is 1 for the encoder, `projection_lr_multiplier` for the projection head and
    `head_lr_multiplier` for the classifiers and the decoder. It is 0 for the positional embedding
    and the image head's encoder, which are neither trained nor decayed.

    In the encoder the factor falls from the last block, where it is `layer_lr_decay`, to its square
    in the block before, and so on down to the embedding of patches, as in BEiT's fine-tuning (Bao
    et al., ICLR 2022).
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    depth = len({path.split("/")[1] for path in flat if path.startswith("encoder/blocks_")})

    def scale(path: str) -> float:
        if path.startswith(FROZEN):
            return 0.0
        part, layer, *_ = (*path.split("/"), "")
        if part != "encoder":
            return projection_lr_multiplier if part == "proj_head" else head_lr_multiplier
        if layer == "norm":
            return 1.0
        block = int(layer.removeprefix("blocks_")) if layer.startswith("blocks_") else -1
        return layer_lr_decay ** (depth - block)

    return traverse_util.unflatten_dict({path: scale(path) for path in flat}, sep="/")


def adamw(
    schedule: optax.Schedule,
    scales: dict,
    *,
    weight_decay: float,
    max_grad_norm: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with decoupled weight decay of every trained parameter, norms and biases included.

    Args:
        schedule: maps a step to the learning rate.
        scales: each parameter's factor of the learning rate, a pytree like the parameters; 0
            freezes a parameter.
        weight_decay: decay per unit of learning rate.
        max_grad_norm: gradients are clipped to this global norm; 0 disables clipping.

    Returns:
        A transformation whose `update` takes the global step as the keyword `step`. That step may
        differ from the number of updates, which is what `optax.scale_by_schedule` counts.
    """
    direction = optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.add_decayed_weights(weight_decay),
    )

    def init(params):
        return direction.init(_without_frozen_part(params))

    # The rates are neither a fourth part of the chain nor an `optax.partition`, because the state
    # would have another structure and the checkpoints of older runs would not restore.
    def update(grads, state, params=None, *, step):
        unchanged = jax.tree.map(jnp.zeros_like, grads)
        grads, params, factors = map(_without_frozen_part, (grads, params, scales))
        # optax takes powers of a float to an integer, also for callers who have JAX refuse it.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = direction.update(grads, state, params)
        rate = schedule(step)
        updates = jax.tree.map(lambda u, factor: -rate * factor * u, updates, factors)
        return unchanged | updates, state

    return optax.GradientTransformationExtraArgs(init, update)


def _without_frozen_part(tree: dict | None) -> dict | None:
    """Returns a dictionary like the parameters without the part that is frozen as a whole."""
    return tree and {name: part for name, part in tree.items() if name != _FROZEN_PART}
