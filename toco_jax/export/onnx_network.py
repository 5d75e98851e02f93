"""The network of `models/` as nodes of ONNX: encoder, classifier and decoder.

Maps are `[B, channels, rows, columns]`, as ONNX has them, and tokens `[B, N, D]`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from toco_jax.export.files import ExportError, Size
from toco_jax.export.onnx_graph import Graph
from toco_jax.export.onnx_rotary import Rotations, rotated, rotations
from toco_jax.models.network import ToCo
from toco_jax.ops.resize import interpolation_matrix
from toco_jax.runtime.errors import some_of

# Weights of the training alone.
_NOT_EXPORTED = ("aux_classifier/", "proj_head/", "aff_head/")
# `ops.resize` in ONNX's words. "bicubic_antialiased" leaves out pixels outside the image.
_RESIZES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.75},
    "bicubic_antialiased": {
        "mode": "cubic",
        "cubic_coeff_a": -0.5,
        "antialias": 1,
        "exclude_outside": 1,
    },
}


class Outputs(NamedTuple):
    """The names of the network's outputs, which are maps of patches and not normalised.

    Attributes:
        seg_logits: `[B, C + 1, h, w]`.
        cam: `[B, C, h, w]`.
        cls_logits: `[B, C]`.
    """

    seg_logits: str
    cam: str
    cls_logits: str


def resize(graph: Graph, maps: str, size: str, method: str = "bilinear") -> str:
    """Adds a resize as in `ops.resize`; `size` names the height and width of the result."""
    return graph.add(
        "Resize",
        *(maps, "", "", size),
        axes=[2, 3],
        coordinate_transformation_mode="half_pixel",
        **_RESIZES[method],
    )


class NetworkWriter:
    """Writes the passes of a network, which share its weights.

    Args:
        graph: where the nodes go.
        model: the network.
        params: its parameters.
    """

    def __init__(self, graph: Graph, model: ToCo, params: dict):
        self._graph, self._model = graph, model
        self._params = flatten_dict(params, sep="/")
        self._used: set[str] = set()
        self._attentions: list[str] = []  # of the blocks so far, [B, heads, M, M]

    def __call__(self, images: str, size: Size) -> Outputs:
        """Writes one pass over normalised images `[B, 3, H, W]`.

        Args:
            images: the name of the images.
            size: their height and width if these are fixed.

        Raises:
            ExportError: the network has weights of which this module does not know the purpose.
        """
        self._attentions.clear()
        graph, add = self._graph, self._graph.add
        tokens, map_shape = self._encode(images, size, "encoder")
        last = graph.constant([np.iinfo(np.int64).max])
        first, axis = graph.constant([self._model.backbone.num_leading]), graph.constant([1])
        tokens = add("Slice", tokens, first, last, axis)
        largest = add("ReduceMax", tokens, graph.constant([1]), keepdims=0)  # [B, D]
        cls_logits = add("MatMul", largest, self._weight("classifier/kernel"))
        feature_map = add("Reshape", add("Transpose", tokens, perm=[0, 2, 1]), map_shape)
        cam = add("Conv", feature_map, self._weight("classifier/kernel", _map_of_rows))
        if self._model.propagate_cams:
            cam = self._propagated(cam)
        x, dilation = feature_map, self._model.decoder_dilation
        for name in ("conv6", "conv7"):
            kernel = self._weight(f"decoder/{name}/kernel", _filters)
            x = add("Conv", x, kernel, dilations=[dilation] * 2, pads=[dilation] * 4)
            x = add("Relu", x)
        seg_logits = add("Conv", x, self._weight("decoder/conv8/kernel", _filters))
        if self._model.image_head:
            tokens, _ = self._encode(images, size, "img_encoder")
            class_token = add("Gather", tokens, graph.constant(0), axis=1)
            cls_logits = self._linear(class_token, "img_head")
            seg_logits = self._weighed(seg_logits, cls_logits)
        self._check_all_used()
        return Outputs(seg_logits, cam, cls_logits)

    def _weighed(self, seg_logits: str, cls_logits: str) -> str:
        """Returns the logits of `models.network.weighed`."""
        graph, add = self._graph, self._graph.add
        prior = add("Neg", add("Softplus", add("Neg", cls_logits)))  # log sigmoid
        prior = add("Pad", prior, graph.constant([0, 1, 0, 0]))  # background first
        return add("Add", seg_logits, add("Unsqueeze", prior, graph.constant([2, 3])))

    def _check_all_used(self) -> None:
        unknown = [
            path for path in self._params.keys() - self._used if not path.startswith(_NOT_EXPORTED)
        ]
        if unknown:
            raise ExportError(
                f"--format=onnx cannot write the weights {some_of(sorted(unknown), 5)}: use "
                "--format=stablehlo"
            )

    def _weight(self, path: str, change: Callable = np.asarray) -> str:
        """Adds a parameter, in another layout if `change` gives one."""
        self._used.add(path)
        name = path if change is np.asarray else f"{path}/{change.__name__.strip('_')}"
        return self._graph.weight(name, lambda: change(np.asarray(self._params[path])))

    def _encode(self, images: str, size: Size, encoder: str) -> tuple[str, str]:
        """Returns all tokens after the last LayerNorm, and the shape of the map of patches."""
        graph, add, spec = self._graph, self._graph.add, self._model.backbone
        kernel = self._weight(f"{encoder}/patch_embed/kernel", _filters)
        bias = self._weight(f"{encoder}/patch_embed/bias")
        patches = add("Conv", images, kernel, bias, strides=[spec.patch] * 2)  # [B, D, h, w]
        map_shape = add("Shape", patches)
        rotary = None
        if spec.rotary:
            rotary = rotations(graph, spec, map_shape, size)
        else:
            patches = add("Add", patches, self._positions(patches, size, encoder))
        rows = add("Reshape", patches, graph.constant([0, spec.width, -1]))  # [B, D, N]
        tokens = add("Transpose", rows, perm=[0, 2, 1])
        batch = add("Shape", patches, start=0, end=1)
        shape = add("Concat", batch, graph.constant([spec.num_leading, spec.width]), axis=0)
        leading = graph.weight(f"{encoder}/leading", lambda: self._leading(encoder))
        leading = add("Expand", leading, shape)
        tokens = add("Concat", leading, tokens, axis=1)  # [B, 1 + R + N, D]
        for i in range(spec.depth):
            tokens = self._block(tokens, f"{encoder}/blocks_{i}", rotary)
        tokens = self._norm(tokens, f"{encoder}/norm")
        return tokens, map_shape

    def _leading(self, encoder: str) -> np.ndarray:
        """Returns the tokens before the patches, `[1, 1 + R, D]`; only the first has a position."""
        self._used.add(f"{encoder}/cls_token")
        class_token = self._params[f"{encoder}/cls_token"]
        if not self._model.backbone.rotary:
            class_token = class_token + self._params[f"{encoder}/pos_embed"][:, :1]
        if not self._model.backbone.registers:
            return np.asarray(class_token)
        self._used.add(f"{encoder}/register_tokens")
        return np.concatenate([class_token, self._params[f"{encoder}/register_tokens"]], axis=1)

    def _positions(self, patches: str, size: Size, encoder: str) -> str:
        """Returns the positions of a map of patches, `[1, D, h, w]`."""
        self._used.add(f"{encoder}/pos_embed")
        spec, side = self._model.backbone, self._model.grid

        def stored() -> np.ndarray:
            positions = np.asarray(self._params[f"{encoder}/pos_embed"])[0, 1:]
            return positions.reshape(1, side, side, spec.width).transpose(0, 3, 1, 2)

        if size is None:
            grid = self._graph.add("Shape", patches, start=2, end=4)
            positions = self._graph.weight(f"{encoder}/positions", stored)
            return resize(self._graph, positions, grid, spec.position_resize)

        grid = (size[0] // spec.patch, size[1] // spec.patch)

        def resized() -> np.ndarray:
            rows, columns = (interpolation_matrix(side, n, spec.position_resize) for n in grid)
            return rows @ stored() @ columns.T

        # By matrices and not by ONNX's resize: antialiasing is rare among those who read ONNX.
        name = f"{encoder}/positions/{grid[0]}x{grid[1]}"
        return self._graph.weight(name, stored if grid == (side, side) else resized)

    def _block(self, tokens: str, path: str, rotary: Rotations | None) -> str:
        add, spec = self._graph.add, self._model.backbone
        out = self._attention(self._norm(tokens, f"{path}/norm1"), f"{path}/attn", rotary)
        tokens = add("Add", tokens, self._scaled(out, f"{path}/layer_scale1"))
        hidden = self._linear(self._norm(tokens, f"{path}/norm2"), f"{path}/mlp/fc1")
        hidden = self._gated(hidden) if spec.gated else self._gelu(hidden)
        out = self._linear(hidden, f"{path}/mlp/fc2")
        return add("Add", tokens, self._scaled(out, f"{path}/layer_scale2"))

    def _scaled(self, x: str, path: str) -> str:
        if not self._model.backbone.layer_scale:
            return x
        return self._graph.add("Mul", x, self._weight(path))

    def _attention(self, x: str, path: str, rotary: Rotations | None) -> str:
        graph, add, spec = self._graph, self._graph.add, self._model.backbone
        bias = self._weight(f"{path}/qkv/bias", _no_key_bias if spec.rotary else np.asarray)
        together = add("MatMul", x, self._weight(f"{path}/qkv/kernel"))
        together = add("Add", together, bias)  # [B, M, 3 D]
        parts = graph.add_many("Split", together, count=3, axis=2, num_outputs=3)
        shape = graph.constant([0, 0, spec.heads, spec.width // spec.heads])
        q, k, v = (add("Reshape", part, shape) for part in parts)  # [B, M, heads, d]
        if rotary is not None:
            q, k = rotated(graph, q, rotary), rotated(graph, k, rotary)
        q = add("Mul", q, graph.constant((spec.width // spec.heads) ** -0.5, np.float32))
        q, v = (add("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
        k = add("Transpose", k, perm=[0, 2, 3, 1])  # [B, heads, d, M]
        weights = add("Softmax", add("MatMul", q, k), axis=-1)  # [B, heads, M, M]
        self._attentions.append(weights)
        out = add("Transpose", add("MatMul", weights, v), perm=[0, 2, 1, 3])
        out = add("Reshape", out, graph.constant([0, 0, spec.width]))  # [B, M, D]
        return self._linear(out, f"{path}/proj")

    def _propagated(self, cam: str) -> str:
        """Spreads a CAM `[B, C, h, w]` by attention, as `models.network.propagated` does."""
        graph, add = self._graph, self._graph.add
        means = [add("ReduceMean", x, graph.constant([1]), keepdims=0) for x in self._attentions]
        affinity = functools.reduce(functools.partial(add, "Add"), means)  # [B, M, M]
        starts = graph.constant([self._model.backbone.num_leading] * 2)
        ends = graph.constant([np.iinfo(np.int64).max] * 2)
        affinity = add("Slice", affinity, starts, ends, graph.constant([1, 2]))  # [B, N, N]
        flat = add("Reshape", add("Relu", cam), graph.constant([0, self._model.num_classes, -1]))
        spread = add("MatMul", flat, add("Transpose", affinity, perm=[0, 2, 1]))  # [B, C, N]
        return add("Reshape", spread, add("Shape", cam))

    def _gelu(self, x: str) -> str:
        """Exact GELU: `0.5 x (1 + erf(x / sqrt(2)))`, which runtimes recognise in this form."""
        graph, add = self._graph, self._graph.add
        root, one, half = (graph.constant(value, np.float32) for value in (2**0.5, 1, 0.5))
        both = add("Add", add("Erf", add("Div", x, root)), one)
        return add("Mul", add("Mul", x, both), half)

    def _gated(self, x: str) -> str:
        """One half of the channels, by SiLU, times the other."""
        gate, value = self._graph.add_many("Split", x, count=2, axis=2, num_outputs=2)
        silu = self._graph.add("Mul", gate, self._graph.add("Sigmoid", gate))
        return self._graph.add("Mul", silu, value)

    def _linear(self, x: str, path: str) -> str:
        out = self._graph.add("MatMul", x, self._weight(f"{path}/kernel"))
        return self._graph.add("Add", out, self._weight(f"{path}/bias"))

    def _norm(self, x: str, path: str) -> str:
        scale, bias = self._weight(f"{path}/scale"), self._weight(f"{path}/bias")
        eps = self._model.backbone.norm_eps
        return self._graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)


def _filters(kernel: np.ndarray) -> np.ndarray:
    """`[rows, columns, in, out]`, as Flax stores a convolution, to ONNX's `[out, in, ...]`."""
    return kernel.transpose(3, 2, 0, 1)


def _map_of_rows(kernel: np.ndarray) -> np.ndarray:
    """A linear map `[in, out]` as a convolution of 1 x 1."""
    return kernel.T[:, :, None, None]


def _no_key_bias(bias: np.ndarray) -> np.ndarray:
    """The bias `[2 D]` of queries and values as one of queries, keys and values."""
    queries, values = np.split(bias, 2)
    return np.concatenate([queries, np.zeros_like(queries), values])
