"""Class names in label order (label k + 1 is name k), and the colours labels are shown in."""

import numpy as np

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)

COCO_CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)


def palette(n: int = 256) -> np.ndarray:
    """PASCAL VOC's colours of the labels 0..n-1: uint8 [n, 3] RGB, n at most 256.

    Bits 0, 1, 2 of a label become the top bits of red, green and blue, bits 3, 4, 5 the next ones,
    and so on. Background is black and 255 (ignored) is (224, 224, 192).
    """
    label = np.arange(n, dtype=np.uint8)
    colour = np.zeros((n, 3), np.uint8)
    for bit in range(8):
        colour[:, bit % 3] |= ((label >> bit) & 1) << (7 - bit // 3)
    return colour
