"""The evaluation's protocols: their names, and the words that describe them beside their scores.

A protocol is a number of pixels (each image is squashed to a square of that side and seen once),
`NATIVE` (each image at its own size, at several scales) or `CRF` (`NATIVE` refined by a dense CRF).
"""

from collections.abc import Sequence
from typing import Any

from toco_jax.runtime.errors import UserError

NATIVE, CRF = "native", "native+crf"
_DESCRIPTIONS = {NATIVE: "native, multi-scale", CRF: "native, multi-scale, CRF"}


class EvaluationError(UserError):
    """An option of an evaluation that cannot work; the message names it and the remedy."""


def parse(names: str | Sequence[str | int] | None, crop_size: int) -> tuple[str, ...]:
    """Returns the short names of protocols, each once.

    Args:
        names: numbers of pixels, "native", "crf"; one text may hold several with commas between
            them. None asks for the training's size, native and crf.
        crop_size: the side of the training's images in pixels.

    Raises:
        EvaluationError: a name is no protocol.
    """
    if names is None:
        names = (str(crop_size), NATIVE, CRF)
    elif isinstance(names, str):
        names = names.split(",")
    found = [str(name).strip() for name in names]
    found = [CRF if name == "crf" else name for name in found]
    for name in found:
        if name not in (NATIVE, CRF) and not (name.isdecimal() and int(name) > 0):
            raise EvaluationError(
                f"--protocol has {name!r}, which is no protocol: use a number of pixels such as "
                f"{crop_size}, native, or crf"
            )
    if not found:
        raise EvaluationError(f"--protocol is empty: use {crop_size}, native, or crf")
    return tuple(dict.fromkeys(found))


def describe(
    protocol: str, cam_scales: Sequence[float], crf_settings: dict[str, Any] | None = None
) -> str:
    """Describes a protocol in words that tell it from all others.

    Args:
        protocol: the short name.
        cam_scales: the scales of the CAMs, which the run's configuration sets.
        crf_settings: the CRF's approximations, as `ops.crf.dense_crf` takes them.
    """
    if protocol == CRF and crf_settings:
        settings = ", ".join(f"{name}={value}" for name, value in crf_settings.items())
        return f"{_DESCRIPTIONS[CRF]} (approximate: {settings})"
    if protocol in _DESCRIPTIONS:
        return _DESCRIPTIONS[protocol]
    scales = ", ".join(f"{scale:g}" for scale in cam_scales)
    return f"{protocol}, single scale (CAM scales {scales})"
