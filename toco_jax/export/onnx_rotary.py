"""Rotary positions in ONNX, as in `models.rotary`.

Of images of a fixed size the rotations are constants; of others the graph computes them.
"""

import math
from typing import NamedTuple

import numpy as np

from toco_jax.export.files import Size
from toco_jax.export.onnx_graph import Graph
from toco_jax.models.backbones import Backbone
from toco_jax.models.rotary import frequencies, rotary


class Rotations(NamedTuple):
    """The names of the cosines and sines of the angles of all tokens, `[1, M, 1, d]`."""

    cos: str
    sin: str


def rotations(graph: Graph, spec: Backbone, map_shape: str, size: Size) -> Rotations:
    """Adds the rotations of the tokens of an image.

    Args:
        graph: where the nodes go.
        spec: the encoder's sizes.
        map_shape: the name of the shape `[B, D, h, w]` of the patches.
        size: height and width of the images if these are fixed.
    """
    head_width, leading = spec.width // spec.heads, spec.num_leading
    if size is not None:
        grid = (size[0] // spec.patch, size[1] // spec.patch)
        num_tokens = leading + grid[0] * grid[1]
        parts = rotary(grid, head_width, num_leading=leading, num_tokens=num_tokens)
        return Rotations(
            *(graph.constant(np.asarray(part)[:, :, None], np.float32) for part in parts)
        )
    sides = [_angles(graph, map_shape, axis, head_width) for axis in (2, 3)]
    ends = [graph.constant([i]) for i in (2, 4)]
    grid_shape = graph.add("Slice", map_shape, *ends)  # [h, w]
    shape = graph.add("Concat", grid_shape, graph.constant([head_width // 4]), axis=0)
    rows, columns = (
        graph.add("Expand", graph.add("Unsqueeze", angle, graph.constant([axis])), shape)
        for angle, axis in zip(sides, (1, 0), strict=True)
    )
    angle = graph.add("Concat", rows, columns, rows, columns, axis=2)  # [h, w, d]
    angle = graph.add("Reshape", angle, graph.constant([1, -1, 1, head_width]))
    zeros = graph.constant(np.zeros((1, leading, 1, head_width)), np.float32)
    angle = graph.add("Concat", zeros, angle, axis=1)
    return Rotations(graph.add("Cos", angle), graph.add("Sin", angle))


def _angles(graph: Graph, map_shape: str, axis: int, head_width: int) -> str:
    """Adds the angles of the patches along an axis of the map, `[side, d / 4]`."""
    add = graph.add
    side = add("Gather", map_shape, graph.constant(axis))
    numbers = graph.cast(add("Range", graph.constant(0), side, graph.constant(1)), np.float32)
    centres = add("Add", numbers, graph.constant(0.5, np.float32))
    share = add("Div", centres, graph.cast(side, np.float32))
    double = add("Mul", share, graph.constant(2, np.float32))
    position = add("Sub", double, graph.constant(1, np.float32))  # from -1 to 1
    scaled = add("Mul", position, graph.constant(2 * math.pi, np.float32))
    columns = add("Unsqueeze", scaled, graph.constant([1]))
    return add("Mul", columns, graph.constant(frequencies(head_width)[None], np.float32))


def rotated(graph: Graph, x: str, by: Rotations) -> str:
    """Rotates queries or keys `[B, M, heads, d]`."""
    first, second = graph.add_many("Split", x, count=2, axis=3, num_outputs=2)
    turned = graph.add("Concat", graph.add("Neg", second), first, axis=3)
    return graph.add("Add", graph.add("Mul", x, by.cos), graph.add("Mul", turned, by.sin))
