"""The loss on given masks, which the poster's figure does without: its ceiling."""

from collections.abc import Callable

from jax import Array

from toco_jax.method import losses
from toco_jax.ops.resize import resize


def supervision(net: Callable, seen: dict[str, Array], *, group_size: int) -> dict[str, Array]:
    """Trains the decoder on given masks.

    Args:
        net: the network.
        seen: the arrays of the figure so far, and `mask [B, H, W]` of labels 0..C; larger ones are
            ignored.
        group_size: number of images over which the loss pools its pixels.

    Returns:
        The term `sup`, and `seg_logits [B, h, w, C + 1]`.
    """
    image, seg_logits = seen["image"], seen.get("seg_logits")
    if seg_logits is None:
        seg_logits = net("decode", seen, net("token_grid", image))
    logits = resize(seg_logits, image.shape[1:3])
    sup = losses.by_group(losses.cross_entropy, logits, seen["mask"], group_size=group_size)
    return {"sup": sup, "seg_logits": seg_logits}
