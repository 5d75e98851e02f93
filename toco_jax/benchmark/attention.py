"""The encoder's attention layer, projections included, by implementation and number of tokens.

`xla` writes the attention maps to memory, `in_parts` those of a few heads at a time where they
are large, and `cudnn`, on a GPU in bfloat16 or float16, none. 197, 785 and 1765 are the tokens of
224, 448 and 672 pixels.
"""

import argparse
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from toco_jax.benchmark.measure import Tables, matrix_rate, medians
from toco_jax.models.layers import Attention
from toco_jax.runtime.compute import Compute


def layer_flops(batch: int, tokens: int, width: int) -> int:
    """Returns the FLOPs of a forward pass: four projections, the attention map, its product."""
    return batch * (8 * tokens * width**2 + 4 * tokens**2 * width)


def run(args: argparse.Namespace) -> Tables:
    """Times each layer forward and with its gradient, also as a share of a product's rate."""
    platform = jax.default_backend()
    on_cpu = platform == "cpu"
    batch = args.batch or (1 if on_cpu else 16)
    dtype = jnp.dtype(args.dtype or ("float32" if on_cpu else "bfloat16"))
    has_cudnn = platform == "gpu" and dtype.itemsize == 2
    layers = {
        name: Attention(args.heads, Compute(dtype.name, name, unrolled=not on_cpu))
        for name in ("xla", "in_parts", "cudnn")
        if name != "cudnn" or has_cudnn
    }
    rate = matrix_rate(dtype)
    rows = []
    for tokens in args.tokens:
        x = jax.random.normal(jax.random.key(tokens), (batch, tokens, args.width), dtype)
        params = layers["xla"].init(jax.random.key(0), x[:, :1])["params"]
        works = {}
        for name, layer in layers.items():
            forward, gradient = passes(layer, num_keys=tokens)
            # As the encoder does for cuDNN: an even number of tokens.
            added = tokens % 2 if name == "cudnn" else 0
            inputs = jnp.pad(x, ((0, 0), (0, added), (0, 0)))
            works[name, "forward"] = functools.partial(forward, params, inputs)
            works[name, "gradient"] = functools.partial(gradient, params, inputs)
        seconds = medians(works, repeats=args.repeats)
        forward_flops = layer_flops(batch, tokens, args.width)
        for (name, part), value in seconds.items():
            work = forward_flops * (1 if part == "forward" else 3)
            row = {"tokens": tokens, "implementation": name, "pass": part, "ms": 1000 * value}
            rows.append(row | {"% of a matrix product": 100 * work / value / rate})
    size = f"width {args.width}, {args.heads} heads, batch {batch}, {dtype.name}"
    return {f"attention layer, {size}": rows}


def passes(layer: Attention, *, num_keys: int) -> tuple[Callable, Callable]:
    """Returns jitted functions of `(params, x)`: the output, and the gradient for both."""

    def forward(params: dict, x: jax.Array) -> jax.Array:
        return layer.apply({"params": params}, x, num_keys=num_keys)[0]

    def loss(params: dict, x: jax.Array) -> jax.Array:
        return jnp.sum(forward(params, x).astype(jnp.float32) ** 2)

    return jax.jit(forward), jax.jit(jax.grad(loss, argnums=(0, 1)))
