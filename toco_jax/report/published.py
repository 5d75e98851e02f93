"""The published mIoU of ToCo, to compare with: the paper's tables and its authors' logs."""

from collections.abc import Mapping
from typing import Any

_SEG, _CAM, _AUX = "seg", "cam", "aux_cam"
# Of each data set: predictor, what it was scored by, and the mIoU in percent by encoder. The COCO
# figures are those of the same two encoders.
_ROWS: dict[str, tuple[tuple[str, str, dict[str, float]], ...]] = {
    "voc": (
        (_SEG, "native+crf", {"deit_base": 69.8, "vit_base": 71.1}),
        (_SEG, "448", {"deit_base": 68.1, "vit_base": 69.2}),
        (_CAM, "448", {"deit_base": 70.5, "vit_base": 72.3}),
        (_AUX, "448", {"deit_base": 62.5, "vit_base": 68.4}),
    ),
    "coco": ((_SEG, "native+crf", {"deit_base": 41.3, "vit_base": 42.3}),),
}
# COCO's runs are scored on a part of val while they train.
_SPLITS = ("val", "val_part")
_PROTOCOLS = {"native+crf": "native, multi-scale, CRF", "448": "448, single scale, no CRF"}


def rows(config: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Returns the scores on val that were published for a run's data set, none for other data.

    Args:
        config: the run's configuration, nested.
        split: the split that the run was scored on.

    Returns:
        For each score `predictor`, `protocol`, its `description`, and `miou` by encoder.
    """
    data = config.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if split not in _SPLITS or source not in _ROWS:
        return []
    return [
        {"predictor": predictor, "protocol": protocol, "miou": miou}
        | {"description": _PROTOCOLS[protocol]}
        for predictor, protocol, miou in _ROWS[source]
    ]
