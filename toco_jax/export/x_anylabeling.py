"""A file for the annotation tool X-AnyLabeling, which draws the masks as polygons to correct.

The tool knows no semantic segmentation. The file has the input and the outputs of an instance
segmentation of its own, `dfine_seg` (X-AnyLabeling 4): each class is one instance, whose box is the
whole picture, whose score is the classifier's and whose mask is the class's pixels.
"""

import re
from collections.abc import Sequence

import numpy as np
import yaml

from toco_jax.export.files import ExportError, Size
from toco_jax.export.onnx_graph import Graph
from toco_jax.export.onnx_model import predict
from toco_jax.models.network import ToCo

MARK = "# Written by toco export."
_MODEL_TYPE = "dfine_seg"


def to_onnx(
    model: ToCo,
    params: dict,
    *,
    size: Size,
    cam_scales: tuple[float, ...] | None = None,
    half: bool = False,
) -> bytes:
    """Returns the content of the ONNX file.

    Its input is `images [1, 3, H, W]`, float32 in [0, 1]. Its outputs are `labels [1, C]`, int64
    from 0 for the first class; `boxes [1, C, 4]` as x0, y0, x1, y1; `scores [1, C]`; and
    `masks [1, C, H, W]`, 1 where a pixel is of the class, else 0.

    Arguments as in `onnx_model.to_onnx`, but with a fixed size.
    """
    if size is None:
        raise ExportError("X-AnyLabeling resizes each picture to a fixed size: give --size")
    graph, num_classes, (height, width) = Graph(half=half), model.num_classes, size
    found = predict(graph, model, params, "images", size=size, cam_scales=cam_scales)
    classes = np.arange(num_classes)
    labels = graph.add("Unsqueeze", found.labels, graph.constant([1]))  # [1, 1, H, W]
    masks = graph.add("Equal", labels, graph.constant(classes[None, :, None, None] + 1))
    boxes = np.tile(np.array([0, 0, width, height]), (1, num_classes, 1))
    return graph.serialized(
        {"images": (np.float32, [1, 3, height, width])},
        {
            "labels": (graph.constant(classes[None]), np.int64, [1, num_classes]),
            "boxes": (graph.constant(boxes, np.float32), np.float32, [1, num_classes, 4]),
            "scores": (found.class_scores, np.float32, [1, num_classes]),
            "masks": (graph.cast(masks, np.float32), np.float32, [1, num_classes, height, width]),
        },
        {},
    )


def config(run_name: str, file_name: str, class_names: Sequence[str]) -> str:
    """Returns the YAML file that the tool opens as "Load Custom Model".

    Args:
        run_name: what the network is called.
        file_name: the ONNX file beside the YAML file.
        class_names: the foreground classes.
    """
    content = {
        "type": _MODEL_TYPE,
        "name": "toco-" + re.sub(r"[^A-Za-z0-9_-]+", "-", run_name),
        "provider": "toco_jax",
        "display_name": f"ToCo {run_name}",
        "model_path": file_name,
        # A class is drawn if the classifier gives it at least this probability.
        "conf_threshold": 0.5,
        "iou_threshold": 0.7,
        "mask_threshold": 0.5,
        "epsilon_factor": 0.001,
        "classes": list(class_names),
    }
    return f"{MARK}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
