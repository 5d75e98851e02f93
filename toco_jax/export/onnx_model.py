"""The exported function in ONNX: images in, the arrays of `stablehlo.make_predictor` out."""

import functools
import json
from typing import Any, NamedTuple

import numpy as np

from toco_jax.export.files import Size, describe_arrays, mask_dtype
from toco_jax.export.onnx_graph import Graph
from toco_jax.export.onnx_network import NetworkWriter, Outputs, resize
from toco_jax.inference.native import SEG_SCALES
from toco_jax.models.network import IMAGE_MEAN, IMAGE_STD, ToCo


class Prediction(NamedTuple):
    """The names of the arrays of a prediction.

    Attributes:
        seg_logits: `[B, C + 1, H, W]`.
        cam: `[B, C, H, W]`, in [0, 1].
        class_scores: `[B, C]`, in [0, 1].
        labels: `[B, H, W]`, int64.
    """

    seg_logits: str
    cam: str
    class_scores: str
    labels: str


def to_onnx(
    model: ToCo,
    params: dict,
    *,
    size: Size,
    cam_scales: tuple[float, ...] | None = None,
    half: bool = False,
    about: dict[str, Any] | None = None,
) -> bytes:
    """Returns the content of an ONNX file with the input `images` and the outputs of
    `make_predictor`, by their names there.

    Args:
        model: the network; computed in float32.
        params: its parameters.
        size: height and width of the images; None for any.
        cam_scales: as in `make_predictor`.
        half: whether weights are stored as float16.
        about: what the file says of itself, as JSON by name.

    Raises:
        ExportError: see `onnx_package`, `Graph.weight` and `NetworkWriter`.
    """
    graph, labels = Graph(half=half), model.num_classes + 1
    pixels = graph.cast(graph.add("Transpose", "images", perm=[0, 3, 1, 2]), np.float32)
    unit = graph.add("Div", pixels, graph.constant(255, np.float32))
    found = predict(graph, model, params, unit, size=size, cam_scales=cam_scales)
    arrays = {
        "segmentation": graph.add("Softmax", _channels_last(graph, found.seg_logits), axis=-1),
        "cam": _channels_last(graph, found.cam),
        "class_scores": found.class_scores,
        "mask": graph.cast(found.labels, mask_dtype(labels)),
    }
    shapes = describe_arrays(size, model.num_classes)
    return graph.serialized(
        {"images": (np.uint8, shapes["input"]["shape"])},
        {
            name: (array, np.dtype(output.get("dtype", "float32")).type, output["shape"])
            for (name, array), output in zip(
                arrays.items(), shapes["outputs"].values(), strict=True
            )
        },
        {name: json.dumps(value) for name, value in (about or {}).items()},
    )


def predict(
    graph: Graph,
    model: ToCo,
    params: dict,
    images: str,
    *,
    size: Size,
    cam_scales: tuple[float, ...] | None,
) -> Prediction:
    """Adds the network at one or several scales; arguments as in `to_onnx`.

    Args:
        graph: where the nodes go.
        model: the network.
        params: its parameters.
        images: the name of `[B, 3, H, W]` in [0, 1], not normalised.
        size: height and width of the images; None for any.
        cam_scales: as in `make_predictor`.
    """
    mean, std = (
        graph.constant(np.reshape(values, (1, 3, 1, 1)), np.float32)
        for values in (IMAGE_MEAN, IMAGE_STD)
    )
    images = graph.add("Div", graph.add("Sub", images, mean), std)
    writer = _ScaledNetwork(graph, model, params, images, size)
    if cam_scales is None:
        out = writer.straight()
        seg_logits, cls_logits = writer.full(out.seg_logits), out.cls_logits
        cam = graph.add("Relu", writer.full(out.cam))
    else:
        scales = sorted({1.0, *SEG_SCALES, *cam_scales})
        passes = {scale: writer.mirrored(scale) for scale in scales}
        cls_logits = passes[1.0][0].cls_logits
        logits = [
            writer.full(graph.add("Add", *(out.seg_logits for out in passes[scale])))
            for scale in SEG_SCALES
        ]
        seg_logits = functools.reduce(functools.partial(graph.add, "Max"), logits)
        maps = [
            graph.add("Relu", graph.add("Max", *(writer.full(out.cam) for out in passes[scale])))
            for scale in cam_scales
        ]
        cam = functools.reduce(functools.partial(graph.add, "Add"), maps)
    return Prediction(
        seg_logits,
        _normalized(graph, cam),
        graph.add("Sigmoid", cls_logits),
        graph.add("ArgMax", seg_logits, axis=1, keepdims=0),
    )


class _ScaledNetwork:
    """Writes passes over normalised images at several scales."""

    def __init__(self, graph: Graph, model: ToCo, params: dict, images: str, size: Size):
        self._graph, self._images, self._size = graph, images, size
        self._patch = model.backbone.patch
        self._network = NetworkWriter(graph, model, params)
        if size is None:
            self._full_size = graph.add("Shape", images, start=2, end=4)
        else:
            self._full_size = graph.constant(size)

    def full(self, maps: str) -> str:
        """Resizes maps to the size of the images."""
        return resize(self._graph, maps, self._full_size)

    def straight(self) -> Outputs:
        """Writes a pass over the images."""
        return self._network(*self._scaled(1.0))

    def mirrored(self, scale: float) -> tuple[Outputs, Outputs]:
        """Writes a pass over the images and their mirror images, whose maps are mirrored back."""
        graph = self._graph
        images, size = self._scaled(scale)
        both = graph.add("Concat", images, _mirror(graph, images), axis=0)
        seg, cam, logits = (
            graph.add_many("Split", array, count=2, axis=0, num_outputs=2)
            for array in self._network(both, size)
        )
        flipped = Outputs(_mirror(graph, seg[1]), _mirror(graph, cam[1]), logits[1])
        return Outputs(seg[0], cam[0], logits[0]), flipped

    def _scaled(self, scale: float) -> tuple[str, Size]:
        """Resizes the images to a scale, rounded down; returns them, and their size if fixed."""
        graph = self._graph
        if self._size is not None:
            height, width = (int(scale * side) for side in self._size)
            if (height, width) == self._size:
                return self._images, self._size
            return resize(graph, self._images, graph.constant([height, width])), (height, width)
        # At least one patch, as in `inference.buckets`.
        sides = graph.cast(self._full_size, np.float64)
        sides = graph.cast(graph.add("Mul", sides, graph.constant(scale, np.float64)), np.int64)
        sides = graph.add("Max", sides, graph.constant(self._patch))
        return resize(graph, self._images, sides), None


def _mirror(graph: Graph, maps: str) -> str:
    first, last, columns = graph.constant([-1]), graph.constant([np.iinfo(np.int64).min]), [3]
    return graph.add("Slice", maps, first, last, graph.constant(columns), first)


def _normalized(graph: Graph, cam: str) -> str:
    """`cams.normalize_cam`."""
    axes = graph.constant([2, 3])
    cam = graph.add("Sub", cam, graph.add("ReduceMin", cam, axes, keepdims=1))
    most = graph.add("ReduceMax", cam, axes, keepdims=1)
    return graph.add("Div", cam, graph.add("Add", most, graph.constant(1e-5, np.float32)))


def _channels_last(graph: Graph, maps: str) -> str:
    return graph.add("Transpose", maps, perm=[0, 2, 3, 1])
