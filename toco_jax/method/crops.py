"""Local crops from uncertain regions, for the class token contrast (paper, section 3.4)."""

import jax
import jax.numpy as jnp

# A crop whose region mask is at most this in the mean shows background: a negative.
NEGATIVE_MEAN = 0.2


def sample_crop_origins(key: jax.Array, roi_mask: jax.Array, *, num: int, size: int) -> jax.Array:
    """Top-left corners of `num` distinct crops per image.

    Crops are centred on pixels drawn uniformly from those that are not confident foreground
    (region 0 or 1) and whose crop lies inside; from all such positions when fewer than `num` are.

    Args:
        key: PRNG key, or one key per image `[B]`, so that an image's draw does not depend on the
            batch around it.
        roi_mask: regions `[B, H, W]` in {0, 1, 2}.
        num: crops per image.
        size: side of a crop in pixels.

    Returns:
        `[B, num, 2]` int32 pairs (row, column) in `[0, H - size) x [0, W - size)`.

    Raises:
        ValueError: the image has fewer than `num` positions for a crop of that size.
    """
    height, width = (side - size for side in roi_mask.shape[1:])
    if min(height, width) < 1 or height * width < num:
        raise ValueError(
            f"cannot place {num} crops of {size} px in a {roi_mask.shape[1]} x {roi_mask.shape[2]} "
            "px image: use a smaller local crop or a larger crop"
        )
    half = size // 2
    candidate = roi_mask[:, half : half + height, half : half + width] <= 1
    candidate = candidate.reshape(candidate.shape[0], -1)  # [B, height * width]
    enough = candidate.sum(axis=1, keepdims=True) >= num
    keys = key if key.ndim else jax.random.split(key, len(candidate))
    priority = jax.vmap(lambda k: jax.random.uniform(k, candidate.shape[1:]))(keys)
    priority = jnp.where(candidate | ~enough, priority, -1.0)
    _, position = jax.lax.top_k(priority, num)
    return jnp.stack([position // width, position % width], axis=-1).astype(jnp.int32)


def crop_and_flag(
    images: jax.Array, roi_mask: jax.Array, origins: jax.Array, *, size: int
) -> tuple[jax.Array, jax.Array]:
    """Cuts crops and tells which of them show foreground.

    Args:
        images: `[B, H, W, ...]`.
        roi_mask: regions `[B, H, W]` in {0, 1, 2}.
        origins: top-left corners `[B, num, 2]`.
        size: side of a crop in pixels.

    Returns:
        Crops `[B, num, size, size, ...]` and `positive [B, num]` booleans, False where the mean of
        the region mask over the crop is at most 0.2.
    """

    def cut(image: jax.Array, origin: jax.Array) -> jax.Array:
        start = (origin[0], origin[1]) + (0,) * (image.ndim - 2)
        return jax.lax.dynamic_slice(image, start, (size, size, *image.shape[2:]))

    cut_all = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))
    regions = cut_all(roi_mask, origins).astype(jnp.float32)
    return cut_all(images, origins), regions.mean(axis=(2, 3)) > NEGATIVE_MEAN
