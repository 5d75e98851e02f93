"""Local crops from uncertain regions, for the class token contrast (paper, section 3.4)."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int, Int32, Key, Shaped

# A crop is a negative if the mean of the region mask over it is at most this.
NEGATIVE_MEAN = 0.2


def sample_crop_origins(
    key: Key[Array, ""] | Key[Array, " b"], roi_mask: Int[Array, "b h w"], *, num: int, size: int
) -> Int32[Array, "b {num} 2"]:
    """Draws the top-left corners of `num` different crops of each image.

    The centre of a crop is drawn uniformly from the pixels that are background or uncertain (region
    0 or 1) and whose crop lies inside the image. If an image has fewer than `num` of these, all
    positions whose crop lies inside take part.

    Args:
        key: one PRNG key for the batch, or one for each image, so that what is drawn for an image
            does not depend on the others.
        roi_mask: regions 0, 1 and 2 of `cams.cam_to_roi_mask`.
        num: crops per image.
        size: side of a crop in pixels.

    Returns:
        Pairs (row, column) in `[0, H - size) x [0, W - size)`.

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
    images: Shaped[Array, "b h w ..."],
    roi_mask: Int[Array, "b h w"],
    origins: Int[Array, "b n 2"],
    *,
    size: int,
) -> tuple[Shaped[Array, "b n {size} {size} ..."], Bool[Array, "b n"]]:
    """Cuts crops out of images and tells which of them show foreground.

    Args:
        images: images, or maps, of any dtype.
        roi_mask: regions 0, 1 and 2 of `cams.cam_to_roi_mask`.
        origins: top-left corners (row, column) of the crops.
        size: side of a crop in pixels.

    Returns:
        The crops; and `positive`, False where the mean of the region mask over the crop is at most
        0.2.
    """

    def cut(image: Array, origin: Array) -> Array:
        start = (origin[0], origin[1]) + (0,) * (image.ndim - 2)
        return jax.lax.dynamic_slice(image, start, (size, size, *image.shape[2:]))

    cut_all = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))
    regions = cut_all(roi_mask, origins).astype(jnp.float32)
    return cut_all(images, origins), regions.mean(axis=(2, 3)) > NEGATIVE_MEAN
