"""AdamW with two learning rates and the warm-up and polynomial schedule of the published runs."""

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

FROZEN = ("encoder/pos_embed",)


def poly_warmup_factor(
    step: jax.Array | int,
    *,
    warmup_steps: int,
    total_steps: int,
    power: float = 0.9,
    warmup_ratio: float = 1e-6,
) -> jax.Array:
    """Factor of the learning rate at `step`, float32 in [0, 1].

    Linear from `warmup_ratio` to 1 during warm-up, then `(1 - step / total_steps) ** power` with
    the global step, hence a jump where warm-up ends. From `total_steps` on it keeps its last value.
    """
    step = jnp.minimum(jnp.asarray(step, jnp.int32), total_steps - 1)
    progress = step.astype(jnp.float32) / max(warmup_steps, 1)
    # Differences of integers before the division: both forms stay exact near their ends.
    remaining = (total_steps - step).astype(jnp.float32) / total_steps
    warmup = progress * (1 - warmup_ratio) + warmup_ratio
    return jnp.where(step < warmup_steps, warmup, remaining**power)


def learning_rate_scales(
    params: dict, *, head_lr_multiplier: float, projection_lr_multiplier: float
) -> dict:
    """Per-parameter factor of the base rate: 1 for the encoder, `projection_lr_multiplier` for the
    projection head, `head_lr_multiplier` for the classifiers and the decoder, 0 for the positional
    embedding, which is never trained nor decayed.
    """

    def scale(path: str) -> float:
        if path in FROZEN:
            return 0.0
        by_part = {"encoder": 1.0, "proj_head": projection_lr_multiplier}
        return by_part.get(path.split("/", maxsplit=1)[0], head_lr_multiplier)

    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: scale(path) for path in flat}, sep="/")


def adamw(
    schedule,
    scales: dict,
    *,
    weight_decay: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    max_grad_norm: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """AdamW with decoupled decay on every trained parameter, norms and biases too.

    Args:
        schedule: step to learning rate.
        scales: pytree like the parameters of factors of the learning rate; 0 freezes.
        weight_decay: decay per unit of learning rate.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        max_grad_norm: gradients are clipped to this global norm; 0 does not clip.

    Returns:
        A transformation whose `update` takes the global step as the keyword `step`, which may
        differ from the number of updates it has seen.
    """
    direction = optax.chain(
        optax.clip_by_global_norm(max_grad_norm) if max_grad_norm else optax.identity(),
        optax.scale_by_adam(b1, b2, eps),
        optax.add_decayed_weights(weight_decay),
    )

    def update(grads, state, params=None, *, step):
        updates, state = direction.update(grads, state, params)
        rate = schedule(step)
        return jax.tree.map(lambda u, scale: -rate * scale * u, updates, scales), state

    return optax.GradientTransformationExtraArgs(direction.init, update)
