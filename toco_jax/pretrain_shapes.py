"""Pre-trains the small encoder of the demo on procedural images of single objects.

    toco pretrain [--seed 0] [--out toco_jax/demo/assets/shapes_encoder.npz]

What ImageNet is to ToCo, this is to the demo: plain classification of images that show one object
or none, by labels alone, never a mask. It has seen the textures of the scenes labelled, those of
the demo's classes among them, on every shape; never a scene of the demo. Three stages, because a
global pool over a large image does not get off the ground: zoomed objects of 24 pixels with a mean
over patches; mosaics of 3 x 3 such images, each with its own label; mosaics of 2 x 2 images of 40
pixels, as large together as the demo's.

The shipped file is that of seed 0: 9 minutes on one core, 89.3 % of the last 100 updates' new
images. A second run gave the same log for 300 updates, then differed by rounding, and ended at
89.2 %.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from toco_jax.cli import commands
from toco_jax.data.sources.shapes import SHAPES, TEXTURES, Thing, background, draw, finish
from toco_jax.models.backbones import backbone_from_name
from toco_jax.models.network import normalize
from toco_jax.models.vit import ViT

BACKBONE = "width=96,depth=6,heads=3,patch=8"
GRID = 10  # patches along a side of the demo's 80 pixel images
AUX_BLOCK = 3  # the block that the demo's auxiliary classifier reads
STEPS = (700, 800, 300)
LEARNING_RATE = 1.5e-3
OUT = pathlib.Path(__file__).parent / "demo" / "assets" / "shapes_encoder.npz"


def single(size: int, rng: np.random.Generator, *, zoom: float) -> tuple[np.ndarray, int]:
    """An image `[size, size, 3]` uint8 of one object amid the scenes' clutter, and its label.

    The label is 1 + the index of the object's texture; 0 for a plain object. `zoom` is the object's
    mean diameter over the image's side.
    """
    label = int(rng.integers(len(TEXTURES) + 1))
    radius = 0.5 * zoom * size * rng.uniform(0.75, 1.25)
    center = tuple((size * rng.uniform(0.38, 0.62, 2)).tolist())
    name = TEXTURES[label - 1] if label else None
    canvas = background(size, rng)
    draw(canvas, Thing(name, str(rng.choice(SHAPES)), center, radius, rng.uniform(5, 9)), rng)
    return finish(canvas, rng), label


def mosaic_batch(rng: np.random.Generator, batch: int, tiles: int, size: int, zoom: float):
    """`batch` images of `tiles` x `tiles` single objects of `size` pixels each.

    Returns:
        images `[batch, tiles * size, tiles * size, 3]` uint8; labels of the tiles
        `[batch, tiles, tiles]` int32.
    """
    made = [single(size, rng, zoom=zoom) for _ in range(batch * tiles * tiles)]
    images = np.stack([image for image, _ in made])
    images = images.reshape(batch, tiles, tiles, size, size, 3)  # [B, t, t, s, s, 3]
    images = images.transpose(0, 1, 3, 2, 4, 5)
    images = images.reshape(batch, tiles * size, tiles * size, 3)  # [B, t s, t s, 3]
    labels = np.array([label for _, label in made], np.int32)
    return images, labels.reshape(batch, tiles, tiles)  # [B, t, t]


class SingleObjectClassifier(nn.Module):
    """The encoder with linear texture heads on every patch, on block 4 and on the class token.

    The heads are thrown away afterwards.
    """

    backbone: str = BACKBONE

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 images `[B, H, W, 3]` to per-patch logits of the textures `[B, N, K]` (`patch`,
        `aux`) and the class token's multi-label logits `[B, K]` (`cls`).
        """
        out = ViT(backbone_from_name(self.backbone), GRID, name="encoder")(normalize(images))
        aux = out[f"block_{AUX_BLOCK}"]["tokens"][:, 1:]
        return {
            "patch": nn.Dense(len(TEXTURES), name="patch")(out["patch_tokens"]),
            "aux": nn.Dense(len(TEXTURES), name="aux")(aux),
            "cls": nn.Dense(len(TEXTURES), name="cls")(out["cls_token"]),
        }


def pool_tiles(logits: jax.Array, tiles: int, share: float) -> jax.Array:
    """Per-patch logits `[B, N, K]` of a square grid to `[B, tiles, tiles, 1 + K]`: each texture's
    mean over the `share` of a tile's patches where it is largest, after a 0 for "no texture".
    """
    batch, num, k = logits.shape
    side = int(num**0.5) // tiles
    logits = logits.reshape(batch, tiles, side, tiles, side, k)  # [B, t, s, t, s, K]
    logits = logits.transpose(0, 1, 3, 2, 4, 5)
    logits = logits.reshape(batch, tiles, tiles, side * side, k)  # [B, t, t, s s, K]
    keep = max(1, round(side * side * share))
    pooled = jnp.sort(logits, axis=3)[:, :, :, -keep:].mean(axis=3)
    return jnp.pad(pooled, ((0, 0), (0, 0), (0, 0), (1, 0)))


def loss_and_accuracy(params, model, images, labels, *, share: float):
    """Cross-entropies of every tile's label, and the share of tiles that are right."""
    tiles = labels.shape[1]
    out = model.apply({"params": params}, images)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    pooled = pool_tiles(out["patch"], tiles, share)
    present = jax.nn.one_hot(labels - 1, len(TEXTURES)).max(axis=(1, 2))
    loss = (
        cross_entropy(pooled, labels).mean()
        + 0.5 * cross_entropy(pool_tiles(out["aux"], tiles, share), labels).mean()
        + 0.5 * optax.sigmoid_binary_cross_entropy(out["cls"], present).mean()
    )
    return loss, (pooled.argmax(axis=-1) == labels).mean()


def make_step(model: SingleObjectClassifier, optimizer: optax.GradientTransformation):
    """The compiled update `(params, opt_state, images, labels, share)` to the same two and the
    metrics; the stored positions stay as they are.
    """

    def step(params, opt_state, images, labels, share):
        grad_fn = jax.value_and_grad(loss_and_accuracy, has_aux=True)
        (loss, accuracy), grads = grad_fn(params, model, images, labels, share=share)
        with jax.numpy_dtype_promotion("standard"):  # for optax
            updates, opt_state = optimizer.update(grads, opt_state, params)
        updates["encoder"]["pos_embed"] = jnp.zeros_like(params["encoder"]["pos_embed"])
        return optax.apply_updates(params, updates), opt_state, (loss, accuracy)

    return jax.jit(step, static_argnames="share", donate_argnums=(0, 1))


def stages(steps: tuple[int, int, int], rng: np.random.Generator, batch: int):
    """The stream of `(images, labels, share)`, about `batch` objects at a time."""
    for _ in range(steps[0]):
        yield *mosaic_batch(rng, batch, 1, 24, 1.1), 1.0
    for _ in range(steps[1]):
        yield *mosaic_batch(rng, max(1, batch // 9), 3, 24, 1.0), 1 / 3
    for _ in range(steps[2]):
        yield *mosaic_batch(rng, max(1, batch // 4), 2, 40, 0.8), 1 / 3


def pretrain(*, seed: int, steps: tuple[int, int, int], batch: int, backbone: str = BACKBONE):
    """Trains from random weights.

    Args:
        seed: of the weights and of the images.
        steps: updates in the three stages.
        batch: single objects in an update.
        backbone: sizes of the encoder.

    Returns:
        The parameters, heads included, and the mean accuracy of the last 100 updates, in percent;
        every image is new, so that it is the accuracy on unseen images.
    """
    rng = np.random.default_rng(seed)
    model = SingleObjectClassifier(backbone)
    params = jax.jit(model.init)(jax.random.key(seed), jnp.zeros((1, 24, 24, 3), jnp.uint8))
    params, total = params["params"], sum(steps)
    rate = optax.warmup_cosine_decay_schedule(
        0, LEARNING_RATE, min(100, total // 2), total, 0.01 * LEARNING_RATE
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01))
    step = make_step(model, optimizer)
    opt_state, seen, start = optimizer.init(params), [], time.monotonic()
    for i, batch_of_images in enumerate(stages(steps, rng, batch)):
        params, opt_state, metrics = step(params, opt_state, *batch_of_images)
        seen.append(metrics)
        if (i + 1) % 100 == 0 or i + 1 == total:
            loss, accuracy = np.mean([[float(v) for v in m] for m in seen[-100:]], axis=0)
            print(
                f"step {i + 1}/{total}  loss {loss:.3f}  accuracy {100 * accuracy:.1f}%  "
                f"{time.monotonic() - start:.0f} s",
                flush=True,
            )
    return params, 100 * float(accuracy)


def save_encoder(path: pathlib.Path, params: dict, metadata: dict) -> None:
    """Writes the encoder as float16 under "encoder/..." paths, with `metadata` as JSON text."""
    flat = traverse_util.flatten_dict({"encoder": params["encoder"]}, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(x, np.float16) for name, x in flat.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, metadata=np.array(json.dumps(metadata)), **arrays)


def run(args: argparse.Namespace) -> None:
    """Trains the encoder and writes it."""
    params, accuracy = pretrain(seed=args.seed, steps=tuple(args.steps), batch=args.batch)
    steps = " ".join(str(n) for n in args.steps)
    command = f"toco pretrain --seed {args.seed} --steps {steps}"
    metadata = {
        "backbone": BACKBONE,
        "grid": GRID,
        "seed": args.seed,
        "steps": list(args.steps),
        "command": f"{command} --batch {args.batch}",
        "accuracy": round(accuracy, 1),
    }
    save_encoder(args.out, params, metadata)
    print(f"{args.out}: accuracy {accuracy:.1f}% on the last 100 updates' new images")


if __name__ == "__main__":
    commands.start("pretrain")
